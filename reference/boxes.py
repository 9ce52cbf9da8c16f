"""Overlap of boxes: IoU and complete IoU (CIoU; Zheng et al., Distance-IoU Loss, 2020; IOU-1 to IOU-3).

All boxes are xyxy. CIoU is computed in pixels for the assignment and in grid units for the box loss; because of
`EPS` the two values are not exactly equal (IOU-3).
"""

import math

import torch
from torch import Tensor

from tal_reference.shapes import Float

EPS = 1e-7
"""Added to denominators and heights in IOU-1, so that the quotients are finite for boxes without area."""


def width_and_height(box: Float[Tensor, "*pairs 4"]) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
    """Return widths and heights of boxes for CIoU: `EPS` is added to the heights only (IOU-1)."""
    left, top, right, bottom = box.unbind(-1)
    return right - left, bottom - top + EPS


def intersection(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return the area of the intersection of each pair of boxes (IOU-1)."""
    (left_top1, right_bottom1), (left_top2, right_bottom2) = first.chunk(2, -1), second.chunk(2, -1)
    sides = torch.minimum(right_bottom1, right_bottom2) - torch.maximum(left_top1, left_top2)
    width, height = sides.clamp(min=0).unbind(-1)
    return width * height


def iou(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return the intersection over union of each pair of boxes (IOU-1)."""
    (w1, h1), (w2, h2) = width_and_height(first), width_and_height(second)
    shared = intersection(first, second)
    return shared / (w1 * h1 + w2 * h2 - shared + EPS)


def centre_penalty(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return the squared distance of the centres over the squared diagonal of the smallest enclosing box (IOU-1)."""
    (left_top1, right_bottom1), (left_top2, right_bottom2) = first.chunk(2, -1), second.chunk(2, -1)
    enclosing = torch.maximum(right_bottom1, right_bottom2) - torch.minimum(left_top1, left_top2)
    apart = (left_top1 + right_bottom1 - left_top2 - right_bottom2) / 2
    return apart.square().sum(-1) / (enclosing.square().sum(-1) + EPS)


def shape_penalty(
    first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"], overlap: Float[Tensor, "*#pairs"]
) -> Float[Tensor, "*#pairs"]:
    """Return CIoU's term alpha v: v compares aspect ratios, and its weight alpha grows with `overlap` (IOU-1)."""
    (w1, h1), (w2, h2) = width_and_height(first), width_and_height(second)
    angle = torch.atan(w2 / h2) - torch.atan(w1 / h1)
    difference = 4 / math.pi**2 * angle.square()  # v
    weight = difference / (1 - overlap + difference + EPS)  # a
    return weight.detach() * difference  # IOU-2: the weight is a constant for the gradient


def ciou(first: Float[Tensor, "*#pairs 4"], second: Float[Tensor, "*#pairs 4"]) -> Float[Tensor, "*#pairs"]:
    """Return the complete IoU, between -1.5 (far apart, with opposite shapes) and 1 (equal boxes) (IOU-1, IOU-2).

    For an inverted box, which negative raw distances can cause (R = 1), the value can be below -1.5.

    Args:
        first: (.., 4) xyxy; by convention the ground truth. Broadcasts against `second`.
        second: (.., 4) xyxy in the same units.
    """
    overlap = iou(first, second)
    return overlap - centre_penalty(first, second) - shape_penalty(first, second, overlap)
