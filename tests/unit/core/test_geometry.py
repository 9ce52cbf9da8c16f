"""The judge's geometry (anchors, decoding, metric) gives the same values as the separately written reference.

Where the two may round differently, results agree within torch's default tolerance of the dtype.
"""

import pytest
import torch
from hypothesis import given, settings
from torch.testing import assert_close

import tal_reference
from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.core import geometry as layout
from tal_conformance.core.batch import Batch

quickly = settings(deadline=None, derandomize=True, database=None, max_examples=50)


def double(recipe: Recipe) -> Batch:
    return recipe.build().to(dtype=torch.float64)


@quickly
@given(recipe=recipes())
def test_anchors(recipe: Recipe):
    """ANC-1: `anchors` returns the reference's anchors."""
    batch = recipe.build()
    centres, strides = layout.anchors(batch.grids, batch.head.strides)
    expected = tal_reference.make_anchors(batch.feature_maps, batch.head)
    assert torch.equal(centres, expected.pixels)
    assert torch.equal(strides, expected.strides[:, 0])


@quickly
@given(recipe=recipes())
def test_flatten_and_fold(recipe: Recipe):
    """PRE-1: `flatten` equals the reference's, and `fold` is its inverse."""
    batch = recipe.build()
    distances, logits = layout.flatten(batch.feature_maps, batch.head)
    expected = tal_reference.flatten(batch.feature_maps, batch.head)
    assert torch.equal(distances.flatten(2), expected[0])
    assert torch.equal(logits, expected[1])
    folded = layout.fold(distances, logits, batch.grids)
    assert len(folded) == len(batch.feature_maps)
    assert all(map(torch.equal, folded, batch.feature_maps))


@quickly
@given(recipe=recipes(bins=(1, 2, 4, 16, 32)))
def test_decode(recipe: Recipe):
    """DEC-1, DEC-2: decoded boxes equal the reference's."""
    batch = double(recipe)
    anchors = tal_reference.make_anchors(batch.feature_maps, batch.head)
    logits, _ = tal_reference.flatten(batch.feature_maps, batch.head)
    expected = tal_reference.decode(logits, anchors, batch.head.reg_max) * anchors.strides
    distances, _ = layout.flatten(batch.feature_maps, batch.head)
    found = layout.decode(distances, anchors.pixels, anchors.strides[:, 0])
    assert_close(found, expected)


@quickly
@given(recipe=recipes())
def test_pixel_boxes(recipe: Recipe):
    """ANN-1: pixel boxes are bitwise equal to the reference's, because hazards may depend on the last bit."""
    batch = recipe.build()
    found = layout.pixel_boxes(batch.annotations, batch.size)
    for image, truths in enumerate(tal_reference.ground_truths(batch.annotations, batch.images, batch.size)):
        assert torch.equal(found[batch.annotations[:, 0] == image], truths.boxes)


@quickly
@given(recipe=recipes(small_boxes=True))
def test_candidates_overlap_and_metric(recipe: Recipe):
    """TAL-CAND-1, TAL-CAND-2, IOU-1, TAL-MET-1: candidates, overlap and metric equal the reference's."""
    batch = recipe.build()
    content = Content(batch)
    anchors = tal_reference.make_anchors(batch.feature_maps, batch.head)
    distances, logits = tal_reference.flatten(batch.feature_maps, batch.head)
    boxes = tal_reference.decode(distances, anchors, batch.head.reg_max) * anchors.strides
    for image, truths in enumerate(tal_reference.ground_truths(batch.annotations, batch.images, batch.size)):
        here = content.image == image
        assert int(here.sum()) == int(truths.real.sum())
        if not len(truths):
            continue
        targets = tal_reference.assign(
            logits[image].sigmoid(), boxes[image], anchors.pixels, truths, batch.head.strides, keep_trace=True
        )
        trace = targets.trace
        assert trace is not None
        assert torch.equal(content.candidates[here], trace.candidates[truths.real])
        assert_close(content.overlap[here], trace.overlap[truths.real])
        assert_close(content.metric[here], trace.metric[truths.real])


@pytest.mark.parametrize("reg_max", [2, 3, 4, 8, 16, 17, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_and_half_distances_are_encoded_exactly(reg_max: int, dtype: torch.dtype):
    """Distances that are multiples of half a cell are encoded as logits and decoded to exactly the same distances."""
    sides = (
        torch.arange(8 * ((reg_max + 3) // 4), dtype=torch.float32).reshape(-1, 4).clamp(max=2 * reg_max - 2)
        / 2
    )
    logits = layout.encode(sides, reg_max).to(dtype)
    centres = torch.full((len(sides), 2), 0.5, dtype=dtype)
    boxes = tal_reference.decode(
        logits.flatten(1)[None], tal_reference.Anchors(centres, centres[:, :1]), reg_max
    )[0]
    assert torch.equal(boxes, layout.boxes_around(centres, sides.to(dtype)))


def test_other_distances_are_encoded_nearly():
    sides = torch.tensor([[0.1, 3.3, 7.77, 14.999]])
    logits = layout.encode(sides, 16)
    assert_close(logits.softmax(-1) @ torch.arange(16.0), sides)


def test_distances_beyond_the_bins_are_clamped():
    logits = layout.encode(torch.tensor([-1.0, 20.0]), 4)
    assert (0.5 + logits.softmax(-1) @ torch.arange(4.0)).tolist() == [0.5, 3.5]


def test_one_bin_is_the_distance_itself():
    """DEC-1 with R = 1: a distance is encoded as itself, also a negative one."""
    assert layout.encode(torch.tensor([2.5, -1.0]), 1).tolist() == [[2.5], [-1.0]]


def test_noisy_distances_are_missed_by_some_tenths_and_differ_by_anchor():
    sides = torch.full((200,), 5.0)
    noise = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)) / 2
    error = layout.encode(sides, 16, noise).softmax(-1) @ torch.arange(16.0) - sides
    assert 0 < error.abs().mean() < 0.5
    assert len(error.unique()) > 190


@quickly
@given(recipe=recipes())
def test_shared_anchors_are_not_written_to(recipe: Recipe):
    """Building a batch does not change the values of the cached anchor tensors."""
    grids, strides = recipe.grids, recipe.strides
    before = [part.clone() for part in layout.anchors(grids, strides)]
    recipe.build()
    assert all(map(torch.equal, layout.anchors(grids, strides), before))
