"""Transformations of metamorphic relations that only poses have (section 19)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tal_conformance.checks.relations.mirrored_keypoints import numbers_of
from tal_conformance.checks.relations.transformations import (
    TransformationPlan,
    folded,
    head_fields,
    mappings_of,
    with_pairs,
)
from tal_conformance.core.batch import Batch
from tal_reference import Head
from tal_reference.keypoints import COCO

ELSEWHERE = (2.0, -1.0)
"""Coordinates of invisible keypoints, as shares of the input: right of it and above it."""
COCO_OTHER_SIDE = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""For each of COCO's keypoints, the one on the other side of the body: both have the same sigma."""


def moved_invisible(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: move all invisible keypoints out of the input."""
    rows = batch.annotations.clone()
    points = rows[:, 6:].unflatten(1, (-1, 3))  # (N, K, 3), a view
    invisible = points[..., 2] == 0  # (N, K)
    if invisible.any():
        points[..., :2] = torch.where(invisible[..., None], points.new_tensor(ELSEWHERE), points[..., :2])
        how = "with invisible keypoints moved out of the input"
        yield TransformationPlan(how, (batch,), (with_pairs(batch, mappings_of(batch), rows=rows),))


def occluded(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: visibility 1, labelled but hidden, instead of 2."""
    rows = batch.annotations.clone()
    visibilities = rows[:, 8::3]  # (N, K), a view
    if (visibilities == 2).any():
        visibilities[visibilities == 2] = 1
        how = "with visibility 1 instead of 2"
        yield TransformationPlan(how, (batch,), (with_pairs(batch, mappings_of(batch), rows=rows),))


def permuted_keypoints(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: change the order of the keypoints, and with it that of their sigmas."""
    order = order_of(batch.head)
    if len(order) < 2:
        return
    distances, logits, others = head_fields(batch)
    raw = others.unflatten(2, (-1, numbers_of(batch)))[:, :, order].flatten(2)  # (B, A, K D)
    rows = batch.annotations.clone()
    rows[:, 6:] = rows[:, 6:].unflatten(1, (-1, 3))[:, order].flatten(1)
    sigmas = batch.head.keypoint_sigmas
    head = batch.head
    if sigmas is not None:
        head = replace(head, keypoint_sigmas=tuple(sigmas[place] for place in order))
    undo = {"keypoints": _back_in_order(order, numbers_of(batch))}
    mappings = [replace(mapping, undo=undo) for mapping in mappings_of(batch)]
    how = "with the keypoints and their sigmas in another order"
    maps = folded(batch, distances, logits, raw)
    yield TransformationPlan(how, (batch,), (with_pairs(batch, mappings, maps, rows, head),))


def order_of(head: Head) -> list[int]:
    """Return a new order of the head's keypoints, in which each keeps its sigma (POSE-IN-3)."""
    assert head.keypoints is not None, "the head has no keypoints"
    if head.keypoints == COCO and head.keypoint_sigmas is None:
        return list(COCO_OTHER_SIDE)
    count, _ = head.keypoints
    return [*range(1, count), 0]


def _back_in_order(order: list[int], numbers: int) -> Callable[[Tensor], Tensor]:
    return partial(_reordered, back=torch.tensor(order).argsort(), numbers=numbers)


def _reordered(gradients: Tensor, back: Tensor, numbers: int) -> Tensor:
    """Return gradients (A, K D) with the keypoints in the order `back`."""
    return gradients.unflatten(1, (-1, numbers))[:, back].flatten(1)
