"""Masks of generated batches: every kind, their hazards, and predictions of all certainties."""

from dataclasses import replace

import pytest
import torch

from tal_conformance.batches.content.masks import MASK_KINDS
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.catalogue import HAZARDS_BY_TASK
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.core.task import SEGMENT
from tal_reference import segmentation_loss

RECIPE = Recipe(
    images=((Truth("ordinary", 0, (3, 5), (9, 4)), Truth("huge")), (), (Truth("ordinary"),)),
    predictions="near",
    task=SEGMENT.name,
    prototypes=4,
)
OF_KIND = {
    "larger_than_boxes": "mask_beyond_box",
    "beside_boxes": "mask_beyond_box",
    "some_empty": "gt_without_mask",
    "scattered": "mask_beyond_box",
    "soft": "soft_mask",
}
"""The hazard that each kind of masks is made for."""


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_kind_has_its_hazard(kind: str):
    recipes = (replace(RECIPE, mask_kind=kind, overlapping_masks=False, seed=seed) for seed in range(8))
    assert any(OF_KIND[kind] in recipe.build().hazards for recipe in recipes)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_a_picture_holds_every_kind(kind: str):
    """Masks of one picture are 0 or 1, and a later ground truth covers earlier ones (SEG-IN-2)."""
    batch = replace(RECIPE, mask_kind=kind).build()
    first = batch.annotations[batch.annotations[:, 0] == 0, 6:]  # (2, h_m w_m)
    assert set(first.unique().tolist()) <= {0.0, 1.0}
    assert (first.sum(0) <= 1).all()


def test_a_covering_ground_truth_leaves_no_pixel():
    covered = replace(RECIPE, images=((Truth("ordinary"), Truth("huge")),), mask_kind="larger_than_boxes")
    assert "gt_without_mask" in covered.build().hazards
    assert "gt_without_mask" not in replace(covered, overlapping_masks=False).build().hazards


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind of masks 'ellipse'; did you mean 'ellipses'"):
        replace(RECIPE, mask_kind="ellipse").build()


def test_masks_do_not_change_the_rest_of_a_batch():
    """A recipe with masks has the boxes and predictions of the same recipe of detection, and its hazards."""
    masked = RECIPE.build()
    detected = replace(RECIPE, task="detect", prototypes=None).build()
    assert torch.equal(masked.annotations[:, :6], detected.annotations)
    for level, other in zip(masked.feature_maps, detected.feature_maps, strict=False):
        assert torch.equal(level[:, : masked.head.channels], other)
    assert detected.hazards <= masked.hazards


def test_predictions_range_from_good_to_wrong_masks():
    losses = [
        segmentation_loss(batch.feature_maps, batch.annotations, batch.head).items[1].item()
        for seed in range(20)
        for batch in [replace(RECIPE, seed=seed).build()]
    ]
    assert min(losses) < 6  # 7.5 ln 2 = 5.2 for logits of 0
    assert max(losses) > 60


def test_every_hazard_of_masks_occurs():
    """The strategies of masks draw every hazard that only masks have, but for crowds of more than 255 instances."""
    own = set(HAZARDS_BY_TASK[SEGMENT.name]) - set(HAZARDS_BY_TASK["detect"])
    found = set(replace(RECIPE, images=((Truth("ordinary"),) * 256,)).build().hazards)
    for name in ("loss", "annotations", "loss_of_points", "small_boxes", "borders"):
        for recipe in sample_recipes(STRATEGIES_BY_TASK[SEGMENT.name][name], 60):
            found |= recipe.build().hazards
    assert own <= found, own - found
