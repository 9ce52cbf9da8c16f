"""Overlaps that IOU-1 leaves undefined: 0 / 0.

With one bin (R = 1) a raw distance can be negative, so that a predicted box has exchanged edges. It intersects nothing,
and its negative area may take everything from the union, the added 1e-7 included: u is 0 / 0, and so is the metric t.
Whether NaN takes one of the k places, and what products with it yield, depends on the order of operations. The same
holds where the union is zero within rounding: an implementation may round to zero what the reference does not.

Dialects before 8.0.52 compare overlaps everywhere (TAL-CONF-1): then an undefined overlap with any anchor counts, also
that of a padding row.
"""

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs
from tal_conformance.core.task import DETECT
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, precision
from tal_conformance.judgement.rounding.geometry import UPRIGHT
from tal_reference import Dialect, GroundTruths, OverlapsCompared
from tal_reference.boxes import EPS, intersection, width_and_height
from tal_reference.variations import Contested
from tal_reference.varied_boxes import MEASURES


def undefined_anchors(inputs: AssignerInputs, dialect: Dialect) -> Tensor:
    """Return (B, A) bool: True if the overlap of an anchor with a ground truth that it is compared with is undefined.

    Args:
        inputs: inputs of the assigner.
        dialect: decides which pairs are compared.
    """
    undefined = torch.zeros(inputs.boxes.shape[:2], dtype=torch.bool, device=inputs.boxes.device)
    rotated = inputs.boxes.shape[-1] != len(DETECT.box_columns)  # probIoU is finite (OBB-IOU-1)
    if inputs.head.reg_max > 1 or rotated:
        return undefined
    everywhere = dialect.overlaps_compared is OverlapsCompared.EVERYWHERE
    anywhere = everywhere or dialect.contested is Contested.ANY_OVERLAP
    for image, (boxes, truths) in enumerate(zip(inputs.boxes, inputs.truth_boxes, strict=True)):
        exchanged = (boxes[:, 2:] <= boxes[:, :2]).any(1).nonzero().flatten()  # (E,) few of all anchors
        pairs = undefined_overlaps(truths[:, None], boxes[exchanged], dialect)  # (M, E)
        if not anywhere:
            pairs = pairs & _may_be_candidates(inputs, image, exchanged, dialect)
        undefined[image, exchanged] = pairs.any(0)
    return undefined


def _may_be_candidates(inputs: AssignerInputs, image: int, anchors: Tensor, dialect: Dialect) -> Tensor:
    """Return (M, E) bool: True if an anchor is or may be, by rounding, a candidate of a ground truth.

    E is the number of the given `anchors`.
    """
    small = GroundTruths(inputs.labels[image, :, 0].long(), inputs.truth_boxes[image])
    large = GroundTruths(small.labels, small.boxes.double())
    eps, floor = torch.finfo(precision(small.boxes.dtype)).eps, dialect.floor(inputs.head.strides)
    return UPRIGHT.candidates_within(
        small, large, inputs.anchors[anchors].double(), floor, eps, None, dialect
    )[1]


def undefined_overlaps(truths: Tensor, boxes: Tensor, dialect: Dialect) -> Tensor:
    """Return a mask of pairs: True if the overlap of a ground truth and a predicted box is undefined (IOU-1).

    Args:
        truths: (.., 4) ground truths, xyxy in pixels.
        boxes: (.., 4) predicted boxes with exchanged or equal edges.
        dialect: decides the measure of overlap.
    """
    measure, exact = MEASURES[dialect.overlap], (truths.double(), boxes.double())
    finite = measure(truths, boxes).isfinite() & measure(*exact).isfinite()
    first, second = (_signed_areas(box) for box in exact)
    # 0 exactly: then the union is the added number alone
    cancels = sum(map(_signed_areas, (truths, boxes))) == 0
    eps = torch.finfo(precision(truths.dtype, boxes.dtype)).eps
    rounding = 3 * eps * (first.abs() + second.abs())  # of a side, an area and the sum
    vanishes = (first + second + EPS).abs() <= ROUNDINGS * rounding
    return ~finite | (vanishes & ~cancels & (intersection(*exact) == 0))


def _signed_areas(boxes: Tensor) -> Tensor:
    """Return the areas of boxes (.., 4), negative where one pair of edges is exchanged (IOU-1)."""
    width, height = width_and_height(boxes)
    return width * height
