"""Remarks (printed notes) on batches with unsorted annotations, annotations in pixels or non-finite predictions."""

from dataclasses import replace

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.judgement.remarks import remarks_on

TWO = Recipe(((Truth("ordinary"),), (Truth("huge"),)), strides=(8, 16), cells=(4, 4)).build()

ORDINARY = Recipe(((Truth("ordinary"),), (Truth("ordinary"),)), cells=(4, 4)).build()


def in_pixels(batch: Batch) -> Batch:
    height, width = batch.size
    scale = torch.tensor([1, 1, width, height, width, height])
    return replace(batch, annotations=batch.annotations * scale)


def test_an_ordinary_batch_has_none():
    assert remarks_on(TWO) == []
    assert remarks_on(Recipe().build()) == []


def test_rows_out_of_order_are_named():
    (remark,) = remarks_on(replace(TWO, annotations=TWO.annotations.flip(0)))
    assert remark.startswith("rows 1 and 2 (counted from 1) are not sorted by image (ANN-1)")


def test_many_rows_out_of_order_are_counted():
    rows = TWO.annotations.flip(0).repeat(5, 1)
    (remark,) = remarks_on(replace(TWO, annotations=rows))
    assert remark.startswith("rows 1 and 2, 3 and 4, 5 and 6, and 2 more pairs, (counted from 1)")


def test_rows_in_pixels_are_suspected():
    (remark,) = remarks_on(in_pixels(TWO))
    assert remark.startswith("1 of 2 ground truths lie wholly outside the image, as rows in pixels would")
    (remark,) = remarks_on(in_pixels(ORDINARY))
    assert remark.startswith("all ground truths lie wholly outside the image, as rows in pixels would")


def test_a_single_ground_truth_outside_is_counted_and_not_suspected():
    outside = TWO.annotations.clone()
    outside[1, 2] = 3.0
    (remark,) = remarks_on(replace(TWO, annotations=outside))
    assert remark == "1 of 2 ground truths lie wholly outside the image"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_anchors_with_predictions_that_are_not_finite_are_counted_by_level(value: float):
    maps = [level.clone() for level in TWO.feature_maps]
    maps[0][1, 0, 2, :2] = value
    maps[1][:, -1] = value
    (remark,) = remarks_on(replace(TWO, feature_maps=tuple(maps)))
    cells = [level[:, 0].numel() for level in maps]
    assert remark == (
        f"predictions of {2 + cells[1]} of {sum(cells)} anchors are not finite: "
        f"2 of {cells[0]} at stride 8, {cells[1]} of {cells[1]} at stride 16"
    )
