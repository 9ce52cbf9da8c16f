"""Transformations of metamorphic relations that only masks have (section 19)."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tal_conformance.checks.relations.transformations import (
    TransformationPlan,
    folded,
    head_fields,
    mappings_of,
    with_pairs,
)
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import pixel_boxes

MARGIN = 1.0
"""Mask pixels beside a box in which nothing is changed: rounding decides whether a pixel at an edge counts (T8)."""


def permuted_prototypes(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: move the first prototype and its coefficients to the end."""
    if batch.feature_maps[-1].shape[1] > 1:
        undo = {
            "coefficients": lambda values: values.roll(1, 1),
            "prototypes": lambda values: values.roll(1, 0),
        }
        mappings = [replace(mapping, undo=undo) for mapping in mappings_of(batch)]
        distances, logits, coefficients = head_fields(batch)
        *maps, prototypes = folded(batch, distances, logits, coefficients.roll(-1, 2))
        changed = with_pairs(batch, mappings, (*maps, prototypes.roll(-1, 1)))
        yield TransformationPlan("with the first prototype moved to the end", (batch,), (changed,))


def scaled_prototypes(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: halve all prototypes, and double all coefficients."""
    undo = {"coefficients": lambda values: values * 2, "prototypes": lambda values: values / 2}
    mappings = [replace(mapping, undo=undo) for mapping in mappings_of(batch)]
    distances, logits, coefficients = head_fields(batch)
    *maps, prototypes = folded(batch, distances, logits, coefficients * 2)
    changed = with_pairs(batch, mappings, (*maps, prototypes / 2))
    yield TransformationPlan("with prototypes halved and coefficients doubled", (batch,), (changed,))


def other_masks_outside(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: other pixels of the true masks, outside of their boxes."""
    rows = batch.annotations.clone()
    height, width = batch.head.masks or (0, 0)
    masks = rows[:, 6:].unflatten(1, (height, width))  # (N, h_m, w_m), a view
    outside = ~_near_boxes(batch, (height, width))  # (N, h_m, w_m)
    if batch.head.overlapping_masks:  # one picture: a pixel belongs to one mask, here to the image's first
        for image in range(batch.images):
            own = (rows[:, 0] == image).nonzero().flatten()  # (M,)
            if len(own):
                free = outside[own].all(0)  # (h_m, w_m)
                masks[own] = masks[own].where(~free, 0)
                masks[own[0]] = masks[own[0]].where(~free, 1)
    else:
        masks.copy_(torch.where(outside, 1 - masks, masks))
    if not torch.equal(rows, batch.annotations):
        how = "with other pixels of the masks outside of their boxes"
        yield TransformationPlan(how, (batch,), (with_pairs(batch, mappings_of(batch), rows=rows),))


def _near_boxes(batch: Batch, size: tuple[int, int]) -> Tensor:
    """Return (N, h_m, w_m) bool: True for pixels in a row's box, or at most `MARGIN` mask pixels beside it."""
    (height, width), (rows, columns) = batch.size, size
    scale = torch.tensor(
        (columns / width, rows / height, columns / width, rows / height), device=batch.device
    )
    boxes = pixel_boxes(batch.annotations, batch.size) * scale  # (N, 4) in mask pixels
    left, top, right, bottom = boxes[..., None, None].unbind(1)  # (N, 1, 1) each
    x = torch.arange(columns, device=batch.device)  # (w_m,)
    y = torch.arange(rows, device=batch.device)[:, None]  # (h_m, 1)
    across = (x >= left - MARGIN) & (x < right + MARGIN)  # (N, 1, w_m)
    return across & (y >= top - MARGIN) & (y < bottom + MARGIN)
