"""Calls of the official losses of end-to-end heads and rotated boxes are captured with their task and state."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.batches.strategies.calling import IMAGES, with_turns
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome_tensors import equal_bits
from tal_conformance.core.task import E2E, OBB, POSE, SEGMENT
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.training import capture
from tal_conformance.training.capture import Call, listening, official_losses
from tal_conformance.training.capture_parts import is_other_loss
from tal_conformance.training.drawn_families import draw_cornered, draw_turned
from tal_conformance.training.recorder import recording
from tal_conformance.training.rectangles import COLOURS, SIDE
from tal_reference import Hyperparameters

RECIPE = Recipe(images=IMAGES[0], cells=(4, 6), strides=(8, 16), classes=3, reg_max=4, predictions="near")
NUMBERS = Hyperparameters(box_gain=5.0, updates=2, epochs=5)
BATCHES = {
    E2E.name: replace(RECIPE, hyperparameters=NUMBERS, task=E2E.name).build(),
    OBB.name: replace(with_turns(RECIPE), hyperparameters=Hyperparameters(angle_gain=2.0)).build(),
    "detect": RECIPE.build(),
    POSE.name: replace(
        RECIPE, keypoints=(4, 3), keypoint_sigmas=(0.5, 0.25, 1.0, 0.125),
        hyperparameters=Hyperparameters(pose_gain=3.0, kobj_gain=2.0), task=POSE.name,
    ).build(),
    SEGMENT.name: replace(
        RECIPE, prototypes=4, mask_ratio=4, prototype_ratio=4, overlapping_masks=False, mask_kind="soft",
        task=SEGMENT.name,
    ).build(),
    "overlapping masks": replace(
        RECIPE, prototypes=2, mask_ratio=2, prototype_ratio=4, overlapping_masks=True, task=SEGMENT.name
    ).build(),
}  # fmt: skip
MOST = 400_000
"""Largest total size in bytes of the shipped batches of both tasks."""


@cache
def adapter() -> UltralyticsAdapter:
    """Return the adapter that calls the official losses alone, without recording their stages."""
    return UltralyticsAdapter(exposes_stages=False)


def captured(batch: Batch, trains: bool = True) -> list[Call]:
    """Return the calls that are captured while the official loss is called on a batch."""
    found: list[Call] = []
    maps = tuple(level.clone().requires_grad_(trains) for level in batch.feature_maps)
    with listening(lambda call: found.append(call.detached())):
        adapter().loss(maps, batch.annotations.clone(), batch.head, batch.hyperparameters)
    return found


@pytest.mark.parametrize("task", BATCHES)
def test_a_call_is_captured_once_with_its_task_and_numbers(task: str):
    batch = BATCHES[task]
    (call,) = captured(batch)
    again = call.batch()
    assert (again.task, again.head, again.hyperparameters) == (batch.task, batch.head, batch.hyperparameters)
    assert equal_bits(again.annotations, batch.annotations)
    assert all(map(equal_bits, again.feature_maps, batch.feature_maps))
    assert call.images_and_classes == (2, 3)


@pytest.mark.parametrize("task", BATCHES)
def test_a_call_without_ground_truths_is_captured(task: str):
    batch = replace(BATCHES[task], annotations=BATCHES[task].annotations[:0])
    (call,) = captured(batch)
    again = call.batch()
    assert again.head == batch.head
    assert again.annotations.shape == batch.annotations.shape


def test_validation_is_not_a_training_step():
    (call,) = captured(BATCHES[E2E.name], trains=False)
    assert not call.trains


def test_branches_of_rotated_boxes_are_captured_one_by_one():
    """The whole of an end-to-end loss is captured only if its branches are those of detection."""
    from ultralytics.utils.loss import E2ELoss, v8OBBLoss

    batch, found = BATCHES[OBB.name], list[Call]()
    own: Any = adapter()._others[OBB.name]
    criterion = own._criterion(batch.head, batch.hyperparameters, torch.device("cpu"))[0]
    detect = SimpleNamespace(
        stride=criterion.stride, nc=batch.head.classes, nl=2, no=criterion.no, reg_max=batch.head.reg_max
    )
    parameter = torch.zeros(1)
    model = SimpleNamespace(args=criterion.hyp, model=[detect], parameters=lambda: iter((parameter,)))
    maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
    predictions = own._predictions(maps, batch.head)
    with listening(lambda call: found.append(call.detached())):
        E2ELoss(model, v8OBBLoss)(
            {"one2many": predictions, "one2one": predictions}, own._rows(batch.annotations)
        )
    assert [call.task for call in found] == [OBB.name, OBB.name]
    numbers = [call.batch().hyperparameters for call in found]
    assert [(each.topk, each.topk2) for each in numbers] == [(10, None), (7, 1)]


def test_a_loss_that_raises_is_captured():
    batch, found = BATCHES[E2E.name], list[Call]()
    maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
    rows = batch.annotations.double()  # COR-5: refused
    with (
        listening(lambda call: found.append(call.detached())),
        pytest.raises(RuntimeError, match="dtypes match"),
    ):
        adapter().loss(maps, rows, batch.head, batch.hyperparameters)
    assert [(call.task, type(call.error)) for call in found] == [(E2E.name, RuntimeError)]


def test_the_official_losses_are_left_as_they_were():
    before = [dict(vars(listened.loss)) for listened in official_losses()]
    captured(BATCHES[E2E.name])
    captured(BATCHES[OBB.name])
    assert [dict(vars(listened.loss)) for listened in official_losses()] == before


def test_a_recording_stores_a_case_of_both_branches(tmp_path: Path):
    batch = BATCHES[E2E.name]
    with recording(tmp_path / "recorded") as recorded:
        maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
        adapter().loss(maps, batch.annotations.clone(), batch.head, batch.hyperparameters)
    assert (recorded.calls, recorded.over, recorded.lost) == (1, None, 0)
    (path,) = (tmp_path / "recorded").rglob("*.safetensors")
    stored = Batch.load(path)
    assert (stored.task, stored.hyperparameters) == (E2E.name, batch.hyperparameters)
    assert stored.hazards == hazards_of(stored)


@pytest.mark.parametrize("task", [E2E.name, OBB.name])
def test_shipped_batches_come_from_trainings(task: str):
    batches = {path: Batch.load(path) for path in recorded_cases(task)}
    assert {batch.task for batch in batches.values()} == {task}
    assert [path.stem.rpartition("-")[2] for path in batches] == [batch.id for batch in batches.values()]
    assert all(batch.hazards == hazards_of(batch) for batch in batches.values())
    models = {batch.origin.split(", ")[1] for batch in batches.values()}
    assert models == ({"yolo26n.yaml"} if task == E2E.name else {"yolov8n-obb.yaml", "yolo26n-obb.yaml"})
    assert any(not len(batch.annotations) for batch in batches.values())


def test_shipped_batches_are_small():
    sizes = [path.stat().st_size for task in (E2E.name, OBB.name) for path in recorded_cases(task)]
    assert sum(sizes) < MOST


def test_shipped_batches_follow_the_schedule():
    """E2E-5: a batch of epoch e has been recorded after e updates."""
    for path in recorded_cases(E2E.name):
        batch = Batch.load(path)
        assert f"epoch {batch.hyperparameters.updates}:" in batch.origin
        assert batch.hyperparameters.epochs == 5


@pytest.mark.parametrize("path", recorded_cases(E2E.name), ids=lambda path: path.stem)
def test_a_wrong_state_is_found_on_shipped_batches(path: Path):
    """The official loss conforms, and after another number of updates it does not."""
    batch, subject = Batch.load(path), Subject(find("ultralytics"), "cpu")
    assert not judge_against_reference(subject, batch).verdict.fails
    own = adapter()
    later = replace(batch.hyperparameters, updates=batch.hyperparameters.updates + 1)
    if batch.hyperparameters.updates == batch.hyperparameters.epochs - 1:
        later = replace(later, updates=0)

    class Late:
        name, tasks = "late", (E2E.name,)

        def loss(self, maps: Any, rows: Any, head: Any, _: Any) -> Any:
            return own.loss(maps, rows, head, later)

    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(implementation_from(Late, "late"), "cpu"), batch)
    assert caught.value.stage in (
        "weights",
        "gradients",
    )  # without GTs, the total of hidden branches is not known


@pytest.mark.parametrize("number", range(1, 5))
def test_labels_are_where_the_turned_rectangles_are(number: int):
    pixels, rows = draw_turned(number)
    assert len(rows) == number
    label, *corners = rows[-1]  # drawn last, so that no other rectangle covers it
    xs, ys = torch.tensor(corners[::2]) * SIDE, torch.tensor(corners[1::2]) * SIDE
    centre = pixels[:, int(ys.mean()), int(xs.mean())]
    assert tuple(centre.tolist()) == COLOURS[int(label)]
    sides = [float((xs[i] - xs[i - 1]).hypot(ys[i] - ys[i - 1])) for i in range(4)]
    area = sides[0] * sides[1]
    coloured = (pixels == torch.tensor(COLOURS[int(label)], dtype=torch.uint8).reshape(3, 1, 1)).all(0).sum()
    assert float(coloured) >= 0.8 * area


@pytest.mark.parametrize("number", [3, 4, 9])
def test_keypoints_of_drawn_rectangles_are_their_corners(number: int):
    """The box of a row is the upright box around its corners; a corner on the image's border is not visible."""
    pixels, rows = draw_cornered(number)
    assert torch.equal(pixels, draw_turned(number)[0])
    for (label, *corners), (own, cx, cy, w, h, *keypoints) in zip(draw_turned(number)[1], rows, strict=True):
        assert own == label
        points = torch.tensor(corners).view(4, 2)
        expected = torch.tensor([[cx - w / 2, cy - h / 2], [cx + w / 2, cy + h / 2]])
        torch.testing.assert_close(torch.stack((points.amin(0), points.amax(0))), expected)
        for point, (x, y, seen) in zip(points, torch.tensor(keypoints).view(4, 3), strict=True):
            assert seen in (0, 2)
            if seen:
                assert torch.equal(torch.stack((x, y)), point)


def test_segment26_heads_are_not_captured_as_segmentation():
    """A subclass has another loss, and semantic logits are a term that the task does not have."""
    from ultralytics.utils.loss import SegmentLoss26, v8SegmentationLoss

    predictions = {"proto": torch.zeros(1, 4, 2, 2)}
    derived, own = (object.__new__(loss) for loss in (SegmentLoss26, v8SegmentationLoss))
    derived.overlap = own.overlap = True
    assert is_other_loss(v8SegmentationLoss, derived, predictions)
    assert not is_other_loss(v8SegmentationLoss, own, predictions)
    assert is_other_loss(v8SegmentationLoss, own, {"proto": (predictions["proto"], torch.zeros(1, 3, 2, 2))})


@pytest.mark.parametrize(
    ("version", "tasks"),
    [
        ("8.3.253", ["detect", "e2e"]),
        ("8.4.0", ["detect", "obb", "e2e"]),
        ("8.4.190", ["detect", "obb", "e2e", "pose", "segment"]),
    ],
)
def test_the_captured_losses_of_a_release(monkeypatch: pytest.MonkeyPatch, version: str, tasks: list[str]):
    """Before 8.4.0 the loss of rotated boxes reads a pair of maps and angles, which the recorder does not know."""
    loss, _ = capture.official_loss()
    monkeypatch.setattr(capture, "official_loss", lambda: (loss, version))
    assert [listened.task for listened in official_losses()] == tasks
