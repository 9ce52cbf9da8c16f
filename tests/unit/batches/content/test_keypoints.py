"""Keypoints of generated batches: every kind, their hazards, and predictions that range from exact hits to misses."""

from dataclasses import replace

import pytest
import torch

from tal_conformance.batches.content.keypoints import KEYPOINT_KINDS
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.catalogue import HAZARDS_BY_TASK
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.core.task import POSE
from tal_reference import pose_loss

RECIPE = Recipe(
    images=((Truth("ordinary", 0, (3, 5), (9, 4)), Truth("huge")), (), (Truth("ordinary"),)),
    predictions="near",
    task=POSE.name,
    keypoints=(4, 3),
)
OF_KIND = {
    "labelled": "some_keypoints_invisible",
    "none_in_some": "no_visible_keypoint",
    "invisible": "no_visible_keypoint_in_batch",
    "one_visible": "one_visible_keypoint",
    "other_visibilities": "odd_visibility",
    "far_outside": "keypoint_outside_input",
}
"""The hazard that each kind of keypoints is made for."""


@pytest.mark.parametrize("kind", KEYPOINT_KINDS)
def test_a_kind_has_its_hazard(kind: str):
    assert OF_KIND[kind] in replace(RECIPE, keypoint_kind=kind).build().hazards


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind of keypoints 'labeled'; did you mean 'labelled'"):
        replace(RECIPE, keypoint_kind="labeled").build()


def test_keypoints_do_not_change_the_rest_of_a_batch():
    """A recipe with keypoints has the boxes and predictions of the same recipe of detection, and its hazards."""
    posed = RECIPE.build()
    detected = replace(RECIPE, task="detect", keypoints=None).build()
    assert torch.equal(posed.annotations[:, :6], detected.annotations)
    for level, other in zip(posed.feature_maps, detected.feature_maps, strict=True):
        assert torch.equal(level[:, : posed.head.channels], other)
    assert detected.hazards <= posed.hazards


def test_predictions_range_from_hits_to_misses():
    """Among positives, some keypoints are predicted exactly, others with any similarity, others have 0 in float32."""
    found = []
    for seed in range(20):
        batch = replace(RECIPE, seed=seed).build()
        loss = pose_loss(batch.feature_maps, batch.annotations, batch.head)
        rows = batch.annotations[:, 6:].unflatten(1, (4, 3))
        assert rows.isfinite().all()
        found.append(loss.items[1].item())
    assert min(found) < 6 < max(found)


def test_every_hazard_of_poses_occurs():
    """The strategies of poses draw every hazard that only poses have."""
    own = set(HAZARDS_BY_TASK[POSE.name]) - set(HAZARDS_BY_TASK["detect"])
    found: set[str] = set()
    for name in ("loss", "annotations", "loss_of_points", "targets", "topk"):
        for recipe in sample_recipes(STRATEGIES_BY_TASK[POSE.name][name], 40):
            found |= recipe.build().hazards
    assert own <= found, own - found
