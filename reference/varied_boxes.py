"""Measures of overlap that dialects may use instead of CIoU: IoU, GIoU, DIoU, and CIoU with another shape penalty."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tal_reference.boxes import EPS, centre_penalty, ciou, intersection, iou, width_and_height
from tal_reference.shapes import Float
from tal_reference.variations import Overlap

Measure = Callable[[Tensor, Tensor], Tensor]
"""A function that returns the overlaps of boxes (.., 4) and (.., 4), broadcast over leading dimensions."""


def diou(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return IoU minus the centre penalty of CIoU (Zheng et al., Distance-IoU Loss, 2020)."""
    return iou(first, second) - centre_penalty(first, second)


def giou(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return IoU minus the share of the enclosing box outside the union (Rezatofighi et al., Generalized IoU, 2019)."""
    (w1, h1), (w2, h2) = width_and_height(first), width_and_height(second)
    shared = intersection(first, second)
    union = w1 * h1 + w2 * h2 - shared + EPS
    (left_top1, right_bottom1), (left_top2, right_bottom2) = first.chunk(2, -1), second.chunk(2, -1)
    enclosing = torch.maximum(right_bottom1, right_bottom2) - torch.minimum(left_top1, left_top2)
    area = enclosing[..., 0] * enclosing[..., 1] + EPS
    return shared / union - (area - union) / area


def ciou_v_squared(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return CIoU with v^2 in place of alpha v as shape penalty, where v is the aspect ratio term."""
    (w1, h1), (w2, h2) = width_and_height(first), width_and_height(second)
    difference = 4 / math.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square()  # v
    return diou(first, second) - difference.detach() * difference


def iou_squared(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return the square of IoU (Long et al., PP-YOLO, 2020)."""
    return iou(first, second).square()


MEASURES: dict[Overlap, Measure] = {
    Overlap.CIOU: ciou,
    Overlap.IOU: iou,
    Overlap.GIOU: giou,
    Overlap.DIOU: diou,
    Overlap.V_SQUARED: ciou_v_squared,
    Overlap.IOU_SQUARED: iou_squared,
}
"""The function that computes each kind of overlap."""
