"""Findings on inputs of a loss of masks."""

from dataclasses import replace
from typing import Any

import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content
from tal_conformance.doctor.examine import examine
from tal_conformance.doctor.inputs import Inputs

MASKS = Recipe(
    images=((Truth("ordinary"),), (Truth("ordinary"),)),
    cells=(16, 24),
    strides=(8, 16, 32),
    classes=3,
    predictions="random",
    task="segment",
    prototypes=2,
    mask_ratio=32,
    prototype_ratio=16,
).build()
"""Two images of 192x128 px with masks of 6x4 px and prototypes of 12x8 px."""


UNMASKED = Recipe(((Truth("ordinary"),),), predictions="random").build()


def content(batch: Batch, **changed: Any) -> Content:
    fields = {name: getattr(batch, name) for name in Content._fields}
    return Content(**(fields | changed))


def test_ordinary_masks_have_no_finding():
    assert examine(Inputs(content(MASKS))) == []


def test_shapes_and_head_of_masks_are_examined():
    (short,) = examine(Inputs(content(MASKS, annotations=MASKS.annotations[:, :-1])))
    assert (
        "(2, 29): expected (N, 30) rows of image, class, cx, cy, w, h, 24 pixels of the mask"
        in short.sentence
    )
    (maps,) = examine(Inputs(content(MASKS, feature_maps=MASKS.feature_maps[:-1])))
    assert "3 class logits, 2 mask coefficients, and one of 2 prototypes" in maps.sentence
    parts: dict[str, Any] = {"prototypes": 2, "masks": (4, 4), "overlapping_masks": True}
    found = examine(Inputs(content(UNMASKED, head=replace(UNMASKED.head, **parts))))
    assert "head.masks is (4, 4): task 'detect' expects None" in [finding.sentence for finding in found]


def test_prototypes_that_are_not_finite_are_named():
    prototypes = MASKS.feature_maps[-1].clone()
    prototypes[0, 1, 2, 3] = torch.nan
    (finding,) = examine(Inputs(content(MASKS, feature_maps=(*MASKS.feature_maps[:-1], prototypes))))
    assert "1 of the prototypes at prototypes (channel 1)" in finding.sentence


def test_boxes_of_masks_that_overlap_no_ground_truth_are_a_remark():
    """The prototypes, a map of their own, take no part in the predicted boxes."""
    *levels, prototypes = (level.clone() for level in MASKS.feature_maps)
    for level in levels:
        level[:, : 4 * MASKS.head.reg_max : MASKS.head.reg_max] = 40.0  # distance 0 to every side
    (finding,) = examine(Inputs(content(MASKS, feature_maps=(*levels, prototypes))))
    assert (finding.name, finding.count) == ("no overlap", 2)
