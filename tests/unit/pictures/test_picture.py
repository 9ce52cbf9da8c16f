"""Pictures and remarks of every task: those of poses and masks show the boxes, of two branches one."""

import math

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import IMAGES
from tal_conformance.core.task import TASKS
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.remarks import non_finite_remark
from tal_conformance.pictures.picture import LAYERS_BY_TASK, branch_of, can_be_drawn, picture
from tal_conformance.pictures.trace import ImageTrace
from tal_reference import NEWEST
from tal_reports.html.pictures import draw

PARTS = {"pose": {"keypoints": (4, 3)}, "segment": {"prototypes": 3}}
PARTS |= {f"{task}26": parts for task, parts in PARTS.items()}
BATCHES = {
    task: Recipe(
        images=IMAGES[0], cells=(4, 6), strides=(8, 16), classes=3, task=task, **PARTS.get(task, {})
    ).build()
    for task in TASKS
}


@pytest.mark.parametrize("task", LAYERS_BY_TASK)
def test_boxes_and_levels_are_drawn(task: str):
    """The picture has the ground truths of the fullest image and the grids of the levels, whatever the other maps."""
    batch = BATCHES[task]
    arguments = batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters
    loss = find("reference").adapter.loss(*arguments)
    assignment = loss.branches["one2one"].assignment if loss.branches else loss.assignment
    drawn = picture(batch, NEWEST, assignment, None)
    detected = picture(BATCHES["detect"], NEWEST, None, None)
    assert len(drawn["levels"]) == len(detected["levels"]) == 2
    upright = [
        {name: value for name, value in truth.items() if name != "turned"} for truth in drawn["truths"]
    ]
    assert [truth["label"] for truth in upright] == [truth["label"] for truth in detected["truths"]]
    for truth, expected in zip(upright, detected["truths"], strict=True):
        assert truth["box"] == pytest.approx(expected["box"], abs=1e-4)  # the recipe's boxes are not turned
    assert drawn["reference"] == drawn["implementation"]
    assert drawn.get("branch", "") == ("one2one" if task == "e2e" else "")


def test_a_picture_shows_the_branch_that_diverges_first():
    """The stage of the first divergence decides between the two branches of an end-to-end head."""
    batch = BATCHES["e2e"]
    assert branch_of(batch, "one2many/top-k") == "one2many"
    assert branch_of(batch, "one2one/top-k") == branch_of(batch, "total") == branch_of(batch, "") == "one2one"
    assert branch_of(BATCHES["detect"], "top-k") == ""


def test_rotated_boxes_are_drawn_turned():
    """`box` is the smallest upright box around a rotated ground truth, and SVG turns the ground truth itself."""
    truth = Truth("ordinary", turn=1, size=(8, 0))
    batch = Recipe(images=((truth,),), strides=(8, 16), predictions="near", task="obb").build()
    drawn = picture(batch, NEWEST, None, None)
    (shown,) = drawn["truths"]
    x, y, width, height, angle = shown["turned"]
    assert angle == pytest.approx(0.3)
    reach = width / 2 * math.cos(angle) + height / 2 * math.sin(angle)
    assert shown["box"][0] == pytest.approx(x - reach)
    (outline,) = draw(drawn).truths
    assert outline.box == pytest.approx((x - width / 2, y - height / 2, width, height))
    assert outline.transform.startswith("rotate(17.188")
    assert all(spot.transform for spot in draw(drawn).spots)


def test_the_terms_of_anchors_add_up_to_the_loss_items():
    """Contributions of all anchors of all images to box, cls, dfl and angle are the logged items."""
    for task in ("detect", "obb", "e2e"):
        batch = BATCHES[task]
        traces = [ImageTrace.of(batch, image, NEWEST) for image in range(batch.images)]
        total = torch.zeros(len(traces[0].item_names), dtype=torch.float64)
        for trace in traces:
            rows = trace.facts(range(trace.anchors))["anchors"].values()
            total += torch.tensor([row["loss"] for row in rows], dtype=torch.float64).sum(0)
        torch.testing.assert_close(total, traces[0].loss.items.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_tasks_without_layers_and_infinite_predictions_are_not_drawn(task: str):
    batch = BATCHES[task]
    assert can_be_drawn(batch) is (task in LAYERS_BY_TASK)
    before = batch.feature_maps[-1][0, 0, 0, 0].clone()
    batch.feature_maps[-1][0, 0, 0, 0] = torch.inf
    try:
        assert not can_be_drawn(batch)
        name = batch.named_maps[-1][0]
        assert f"1 of {batch.feature_maps[-1][:, 0].numel()} at {name}" in non_finite_remark(batch)
    finally:
        batch.feature_maps[-1][0, 0, 0, 0] = before
