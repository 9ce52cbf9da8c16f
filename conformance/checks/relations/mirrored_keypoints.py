"""Mirror images of predicted keypoints, and of the gradients on them (POSE-2)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch

STEP = 2.0**-12
"""Raw coordinates that are multiples of `STEP`, and at most 2,048 in size, have an exact mirror image in float32."""


def numbers_of(batch: Batch) -> int:
    """Return the numbers D of a keypoint that the head predicts: x, y, and a logit if D = 3."""
    assert batch.head.keypoints is not None, "the head has no keypoints"
    return batch.head.keypoints[1]


def rounded_keypoints(raw: Tensor, batch: Batch) -> Tensor:
    """Return raw keypoints (B, A, K D) with coordinates rounded to multiples of `STEP`; logits are unchanged."""
    points = raw.unflatten(2, (-1, numbers_of(batch)))  # (B, A, K, D)
    places = ((points[..., :2] / STEP).round() * STEP).clamp(-0.5 / STEP, 0.5 / STEP)
    return torch.cat((places, points[..., 2:]), dim=-1).flatten(2)


def keypoints_mirrored(raw: Tensor, batch: Batch, axis: int) -> Tensor:
    """Return raw keypoints (B, A, K D) of the mirrored input.

    A keypoint lies at 2 raw + anchor - 0.5, so that its mirror image has the raw coordinate 0.5 - raw (POSE-2); in
    Pose26 heads it lies at raw + anchor, and the mirror image has -raw (P26-1).

    Args:
        raw: raw keypoints, whose anchors have been exchanged already.
        batch: a batch of poses.
        axis: 0 for x, 1 for y.
    """
    points = raw.unflatten(2, (-1, numbers_of(batch))).clone()  # (B, A, K, D)
    points[..., axis] = (0.0 if batch.head.parts_assign else 0.5) - points[..., axis]
    return points.flatten(2)


def keypoint_gradients_mirrored(batch: Batch, axis: int) -> Callable[[Tensor], Tensor]:
    """Return the function that mirrors gradients (A, K D) on keypoints: those on one coordinate change their sign."""
    return partial(_negated, numbers=numbers_of(batch), axis=axis)


def _negated(gradients: Tensor, numbers: int, axis: int) -> Tensor:
    signs = gradients.new_ones(numbers)
    signs[axis] = -1
    return (gradients.unflatten(1, (-1, numbers)) * signs).flatten(1)
