"""Pictures and remarks of every task: those of poses and masks show the boxes; other tasks have none."""

import pytest
import torch

from tal_conformance.batches.calling import IMAGES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import TASKS
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.remarks import non_finite_remark
from tal_conformance.pictures.picture import LAYERS_BY_TASK, can_be_drawn, picture
from tal_reference import NEWEST

PARTS = {"pose": {"keypoints": (4, 3)}, "segment": {"prototypes": 3}}
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
    drawn = picture(batch, NEWEST, find("reference").adapter.loss(*arguments).assignment, None)
    detected = picture(BATCHES["detect"], NEWEST, None, None)
    assert len(drawn["levels"]) == len(detected["levels"]) == 2
    assert drawn["truths"] == detected["truths"]


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
