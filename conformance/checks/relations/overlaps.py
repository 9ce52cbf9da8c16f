"""The overlap that a task prescribes, for all pairs of ground truths and predicted boxes of an image.

M ground truths, A anchors; boxes (.., 4) are upright, boxes (.., 5) rotated.
"""

import torch
from torch import Tensor

from tal_conformance.core.geometry import ciou
from tal_conformance.core.task import OBB
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, ciou_unit
from tal_conformance.judgement.rounding.probiou import Probiou, TurnedBox
from tal_reference import probiou


def are_turned(boxes: Tensor) -> bool:
    """Return True if boxes (.., 4 or 5) have an angle."""
    return boxes.shape[-1] == len(OBB.box_columns)


def raw_overlaps(truths: Tensor, boxes: Tensor) -> Tensor:
    """Return the unclamped overlaps (M, A): CIoU of upright boxes (IOU-1), probIoU of rotated boxes (OBB-IOU-1)."""
    if not are_turned(truths):
        return ciou(truths[:, None], boxes)
    first, second = _pairs(truths, boxes)
    return probiou(first, second).view(len(truths), len(boxes))


def overlap_errors(truths: Tensor, boxes: Tensor, moved: Tensor, eps: float) -> Tensor:
    """Return twice the error (M, A) of any measure of overlap: that of CIoU or probIoU, which have all their terms.

    Args:
        truths: (M, 4 or 5) ground truths in pixels, float64.
        boxes: (A, 4 or 5) predicted boxes in pixels, float64.
        moved: (M, A) differences of the boxes' edges in pixels.
        eps: machine epsilon of the overlaps' dtype.
    """
    if not are_turned(truths):
        return 2 * ROUNDINGS * ciou_unit(truths[:, None], boxes, moved, eps)
    first, second = _pairs(truths, boxes)
    error = moved.reshape(-1, 1)
    value = Probiou(TurnedBox.around(first, error, eps), TurnedBox.around(second, error, eps)).value
    return 2 * value.distance_from(probiou(first, second)).view(len(truths), len(boxes))


def _pairs(truths: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return ground truth and predicted box of every pair, (M A, 5) each."""
    shape = len(truths), len(boxes), boxes.shape[-1]
    return tuple(torch.broadcast_to(each, shape).flatten(0, 1) for each in (truths[:, None], boxes))  # type: ignore[return-value] # two
