"""Transformations of metamorphic relations that only rotated boxes have: one set of points in another form, or turned.

An angle plus a multiple of pi / 2 is not exact in float32. Plans are therefore `inexact`: exact results may differ by
as much as the reference's own results do.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tal_conformance.checks.relations.transformations import (
    DYADIC,
    FollowUp,
    Pair,
    TransformationPlan,
    changed_batch,
    head_fields,
    mappings_of,
)
from tal_conformance.checks.relations.views import SMALLEST_SIDE, FormChange, ImageMapping
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import fold
from tal_conformance.core.task import StageName

SIDE_TERM = frozenset({StageName.DFL, "distances"})
"""The term and the head field that depend on the form of a ground truth (OBB-DFL-1)."""
QUARTER = math.pi / 2


def half_turned_truths(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: add pi to the angle of every ground truth."""
    yield from _other_form(batch, 2, "with pi added to the angles of the ground truths")


def exchanged_sides(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: exchange the sides of every ground truth, and add pi / 2 to its angle."""
    yield from _other_form(
        batch, 1, "with the sides of ground truths exchanged, and their angles turned by pi / 2"
    )


def half_turned_boxes(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: add pi to all angles, and exchange left and right, top and bottom distances."""
    batch = formable(batch)
    if not len(batch.annotations):
        return
    rows = _turned_rows(batch.annotations, 2)
    distances, logits, angles = head_fields(batch)
    turned = _turned(angles, 2)
    maps = fold(distances.roll(2, dims=2), logits, batch.grids, turned)
    change = FormChange(2, 2, rounding=_rounding(batch, rows, angles, turned, 2))
    yield _plan("with pi added to all angles, and opposite distances exchanged", batch, maps, rows, change)


def turned_scene(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: turn the whole input by 90 degrees, if every level fills the input."""
    batch = formable(batch)
    sizes = [
        (rows * stride, columns * stride)
        for (rows, columns), stride in zip(batch.grids, batch.head.strides, strict=True)
    ]
    if not len(batch.annotations) or any(size != batch.size for size in sizes):
        return
    height, width = batch.size
    rows = _turned_rows(batch.annotations, 1)
    rows[:, 2], rows[:, 3] = 1 - batch.annotations[:, 3], batch.annotations[:, 2]
    rows[:, 4:6] = batch.annotations[:, 4:6] * rows.new_tensor((width / height, height / width))
    places, start = [], 0
    for down, across in batch.grids:  # cell (i, j) becomes cell (j, down - 1 - i)
        i, j = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
        places.append((start + j * down + down - 1 - i).flatten())
        start += down * across
    anchors = torch.cat(places).to(batch.device)  # (A,)
    distances, logits, angles = (values[:, anchors.argsort()] for values in head_fields(batch))
    turned = _turned(angles, 1)
    maps = fold(distances, logits, [(across, down) for down, across in batch.grids], turned)
    change = FormChange(height=height, rounding=_rounding(batch, rows, angles, turned, 1))
    of_input = batch.head.reg_max == 1 and height != width  # distances as shares of the input's sides
    how = "with the whole input turned by 90 degrees"
    yield _plan(how, batch, maps, rows, change, SIDE_TERM if of_input else frozenset(), anchors)


def formable(batch: Batch) -> Batch:
    """Return the batch without rows that OBB-ANN-2 or OBB-ANN-3 drops, or may drop in another form, by rounding.

    Centres are rounded to values with an exact mirror image. A second application of this function has no effect.
    """
    rows = batch.annotations.clone()
    rows[:, 2:4] = (rows[:, 2:4] * DYADIC).round() / DYADIC
    height, width = batch.size
    scale = rows.new_tensor((width, height, width, height))
    x, y, w, h = (rows[:, 2:6].double() * scale).unbind(1)  # (N,) each
    eps = torch.finfo(torch.float32).eps
    rounding = 8 * eps * (width + height + rows[:, 6].abs())  # the rounding of a sum of five numbers
    real = torch.minimum(y, height - y) + x + w + h + rows[:, 6] > rounding
    large = torch.minimum(w, h) > SMALLEST_SIDE * (1 + 8 * eps)  # quotient, products and their rounding
    return changed_batch(batch, batch.feature_maps, rows[real & large])


def _other_form(batch: Batch, quarters: int, how: str) -> Iterator[TransformationPlan]:
    """Yield the transformation that changes the form of the ground truths alone."""
    batch = formable(batch)
    if not len(batch.annotations):
        return
    rows, (height, width) = _turned_rows(batch.annotations, quarters), batch.size
    if quarters % 2:
        rows[:, 4] = batch.annotations[:, 5] * (height / width)
        rows[:, 5] = batch.annotations[:, 4] * (width / height)
    nothing = rows.new_zeros(0)
    change = FormChange(quarters, rounding=_rounding(batch, rows, nothing, nothing, quarters))
    yield _plan(how, batch, batch.feature_maps, rows, change, SIDE_TERM)


def _turned(angles: Tensor, quarters: int) -> Tensor:
    """Return angles plus quarter turns, rounded once."""
    return (angles.double() + quarters * QUARTER).to(angles.dtype)


def _turned_rows(rows: Tensor, quarters: int) -> Tensor:
    """Return annotation rows (N, 7) with quarter turns added to their angles."""
    rows = rows.clone()
    rows[:, 6] = _turned(rows[:, 6], quarters)
    return rows


def _rounding(batch: Batch, rows: Tensor, before: Tensor, after: Tensor, quarters: int) -> float:
    """Return the largest rounding error of the changed angles of ground truths and predictions, and of undoing it."""
    old, new = (
        torch.cat((batch.annotations[:, 6], before.flatten())),
        torch.cat((rows[:, 6], after.flatten())),
    )
    # the roundings of the product, of the difference, and of the numbers below
    undone = 4 * torch.finfo(torch.float64).eps * float(new.abs().max())
    return float((new.double() - old.double() - quarters * QUARTER).abs().max()) + undone


def _plan(
    how: str,
    batch: Batch,
    maps: tuple[Tensor, ...],
    rows: Tensor,
    change: FormChange,
    unequal: frozenset[str] = frozenset(),
    anchors: Tensor | None = None,
) -> TransformationPlan:
    """Return the plan of a change of forms; `anchors` (A,) are the new indices of the anchors, if they move."""
    mappings: list[ImageMapping] = [replace(mapping, turn=change) for mapping in mappings_of(batch)]
    if anchors is not None:
        mappings = [replace(mapping, anchors=anchors) for mapping in mappings]
    pairs = tuple(Pair(0, image, image, mapping) for image, mapping in enumerate(mappings))
    changed = FollowUp(changed_batch(batch, maps, rows), pairs)
    return TransformationPlan(how, (batch,), (changed,), unequal, inexact=True)
