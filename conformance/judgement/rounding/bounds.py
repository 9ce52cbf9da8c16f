"""Bounds of rounding errors: derived from the clauses, never chosen to make a test pass.

Let x64 be the reference's result in float64 from the very numbers that the implementation read, x_naive its result in
the implementation's dtype, and unit(x) the first-order effect on x of one rounding (`eps` of the dtype) in
each operation that its clause names, amplified by the operations after it. An implementation may then differ by

    |x - x64| <= NAIVE_FACTOR |x_naive - x64| + k unit(x) + the smallest number of its dtype.

The functions in this module are the `unit`s. They take float64 tensors and the dtype's eps, and return float64. A unit
adds up the worst case of every rounding, and roundings rarely add up; the number of units really needed is measured,
for each quantity, over batches of all strategies, by `python -m conformance measure`. `UNITS` holds the results.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tal_reference.annotations import to_corners
from tal_reference.boxes import EPS as BOX_EPS
from tal_reference.boxes import intersection, width_and_height
from tal_reference.loss import LAST_BIN_MARGIN, Predictions
from tal_reference.variations import Overlap
from tal_reference.varied_boxes import MEASURES

NAIVE_FACTOR = 2.0
"""Another order of the same operations errs like the naive one; two such orders may err in opposite directions."""
SAFETY = 4.0
"""Ratio of a bound to the largest need of the measured implementations: another order of operations, or
another library's functions, round elsewhere. Bounds stay within a factor of ten of real errors."""
ROUNDINGS = 4.0
"""Units for a quantity without a measurement: each operation of its clause is computed in up to this many steps."""

CORNERS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
"""(16, 4) signs of the errors of a box's four edges, in all combinations."""

UNITS: dict[str, float] = {
    "predicted box": 1.9,
    "class score": 1.3,
    "ground truth box": 1.2,
    "overlap u": 0.21,
    "metric t": 0.41,
    "target score w": 1.1,
    "cls loss": 1.0,
    "box loss": 0.07,
    "dfl loss": 0.38,
    "total": 0.79,
    "gradient on class logits": 3.4,
    "gradient on distance logits": 1.0,
}
"""Allowed error of each quantity in units: `SAFETY` times the largest measured need, or the largest measured error in
units if that is more. Quantities without a row are allowed `ROUNDINGS`. The larger of two measurements counts, since
the naive computation is part of the bound: one was made before and one after the reference was changed to compute pairs
and positives alone. Measured on ultralytics 8.4.190, the article's algorithm, the reference, and the specification
reordered in float32 and in float64, 120 batches of each strategy, torch 2.14.1 on a CPU: `python -m conformance measure
--examples 120`."""


def bound(same_dtype: Tensor, exact: Tensor, unit: Tensor, dtype: torch.dtype, quantity: str = "") -> Tensor:
    """Return the largest admissible error of each value, by the formula in this module's docstring.

    Args:
        same_dtype: result of the reference in `dtype`; where it is not finite, only the units count.
        exact: result of the reference in float64.
        unit: effect of one rounding in each operation, same shape.
        dtype: dtype in which the implementation computed.
        quantity: key of `UNITS`.
    """
    error = same_dtype.double() - exact  # changed in place from here on: it may be a whole batch's
    error.abs_().nan_to_num_(nan=0.0, posinf=0.0).mul_(NAIVE_FACTOR)
    return error.add_(unit, alpha=UNITS.get(quantity, ROUNDINGS)).add_(smallest(dtype))


def precision(*dtypes: torch.dtype) -> torch.dtype:
    """Return the coarsest dtype among `dtypes` and float32: official code computes float64 input in float32."""
    return max((torch.float32, *dtypes), key=lambda dtype: torch.finfo(dtype).eps)


def smallest(dtype: torch.dtype) -> float:
    """Return the largest underflow error of a dtype: its smallest normal number; in 16 bits its smallest subnormal."""
    limits = torch.finfo(dtype)
    return limits.tiny * limits.eps if limits.bits == 16 else limits.tiny


def truth_unit(boxes: Tensor, eps: float) -> Tensor:
    """Return the rounding error in pixels of boxes (.., 4) converted from rows: three roundings per edge (ANN-1).

    The centre, the half side and their sum are rounded.
    """
    left_top, right_bottom = boxes.chunk(2, dim=-1)
    error = eps * ((left_top + right_bottom).abs() + (right_bottom - left_top).abs())  # (.., 2)
    return torch.cat((error, error), dim=-1)


def converts_exactly(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N,) bool: True if the conversion of the box to pixels is exact (ANN-1).

    It is exact whether corners are computed before or after the scaling to pixels. Such a ground truth has the same
    edges in every implementation.

    Args:
        boxes: (N, 4) centre, width and height, normalised by the input's size.
        size: height and width of the input in pixels.
    """
    height, width = size
    scale = boxes.new_tensor((width, height, width, height))
    pixels_first = to_corners(boxes, size)
    corners_first = to_corners(boxes, (1, 1)) * scale
    exact = to_corners(boxes.double(), size)
    return ((pixels_first.double() == exact) & (corners_first.double() == exact)).all(1)


def distance_unit(distances: Tensor, reg_max: int, eps: float) -> Tensor:
    """Return the rounding error of the expected distances (.., 4) in grid units, from logits (.., 4R) (DEC-1).

    Five results are rounded: the difference z of a logit to the largest (by z eps), its exponential, its probability,
    the product with the bin, and the sum of these products.
    """
    if reg_max == 1:
        return torch.zeros_like(distances)
    sides = distances.unflatten(-1, (4, reg_max))  # (.., 4, R)
    below = sides.amax(-1, keepdim=True) - sides  # (.., 4, R)  z
    bins = torch.arange(reg_max, dtype=sides.dtype, device=sides.device)  # (R,)
    return below.add_(3).mul_(sides.softmax(-1)) @ bins * eps  # (.., 4)


def box_unit(boxes: Tensor, centres: Tensor, distance_error: Tensor, eps: float) -> Tensor:
    """Return the error of decoded boxes (.., 4) for given errors of their distances, all in grid units (DEC-2)."""
    return distance_error + eps * (boxes.abs() + torch.cat((centres, centres), dim=-1))


def boxes_unit(predictions: Predictions, reg_max: int, eps: float) -> Tensor:
    """Return the rounding error of all decoded boxes (B, A, 4) of a batch in grid units (DEC-2)."""
    distance_error = distance_unit(predictions.distances, reg_max, eps)  # (B, A, 4)
    return box_unit(predictions.boxes, predictions.anchors.centres, distance_error, eps)


def ciou_unit(
    first: Tensor, second: Tensor, edge_error: Tensor | float, eps: float, second_eps: float = 0.0
) -> Tensor:
    """Return the largest error of CIoU if every edge of `second` errs by up to `edge_error`, in its unit (IOU-1).

    If the edges of `second` have a coarser dtype than those of `first`, the sides, area, centre, quotient of the sides
    and arc tangent of `second` round by `second_eps`; operations on both boxes round by `eps`, that of the finer dtype.

    The differences of edges round relative to themselves; the sums of edges that make the centres round relative to
    the coordinates. The aspect-ratio term a v = v^2 / (1 - IoU + v + eps) has slopes within [0, 1] in v and in IoU.
    """
    (w1, h1), (w2, h2) = width_and_height(first), width_and_height(second)
    w1, w2 = w1.abs(), w2.abs()
    h1, h2 = h1.abs(), h2.abs()
    side = 2 * edge_error  # error of a width or height, beside its own rounding
    shared = intersection(first, second)
    area = w1 * h1 + w2 * h2
    shared_error = side * torch.minimum(w1, w2) + side * torch.minimum(h1, h2) + side**2 + 3 * eps * shared
    union = (area - shared + BOX_EPS).clamp(min=BOX_EPS)
    union_error = side * (w2 + h2) + side**2 + shared_error + 3 * eps * (area + shared)
    union_error = union_error + 3 * second_eps * w2 * h2
    iou_error = (shared_error + shared / union * union_error) / union + 2 * eps

    coordinates = torch.maximum(first.abs().amax(-1), second.abs().amax(-1))
    (left_top1, right_bottom1), (left_top2, right_bottom2) = first.chunk(2, -1), second.chunk(2, -1)
    enclosing = torch.maximum(right_bottom1, right_bottom2) - torch.minimum(left_top1, left_top2)
    diagonal = enclosing.square().sum(-1) + BOX_EPS
    diagonal_error = 2 * side * enclosing.abs().sum(-1) + 2 * side**2 + 3 * eps * diagonal
    apart = ((left_top1 + right_bottom1 - left_top2 - right_bottom2) / 2).square().sum(-1)
    centre_error = edge_error + (2 * eps + second_eps) * coordinates
    apart_error = 2 * math.sqrt(2) * apart.sqrt() * centre_error + 2 * centre_error**2
    penalty_error = (apart_error + apart / diagonal * diagonal_error) / diagonal + 3 * eps

    angle = (torch.atan(w2 / h2) - torch.atan(w1 / h1)).abs()
    turn = (side * (w2 + h2) / (w2.square() + h2.square())).clamp(max=math.pi / 2)  # of `other`'s angle
    turn = turn + second_eps * (3 * w2 * h2 / (w2.square() + h2.square()) + torch.atan(w2 / h2))
    angle_error = turn + 4 * eps
    shape_error = 4 / math.pi**2 * (2 * angle * angle_error + angle_error**2)
    return 2 * iou_error + penalty_error + shape_error + 4 * eps


def overlap_unit(
    measure: Overlap, first: Tensor, second: Tensor, edge_error: Tensor | float, eps: float
) -> Tensor:
    """Return the largest error of IoU, GIoU, DIoU or CIoU as `ciou_unit` does (IOU-1).

    CIoU has the terms of IoU and DIoU. v squared has at most twice the slope of v, and squared IoU that
    of IoU. GIoU's term for the enclosing box
    has the error of one more quotient of two areas.
    """
    unit = ciou_unit(first, second, edge_error, eps)
    if measure in (Overlap.V_SQUARED, Overlap.IOU_SQUARED):
        return 2 * unit
    if measure is not Overlap.GIOU:
        return unit
    (left_top1, right_bottom1), (left_top2, right_bottom2) = first.chunk(2, -1), second.chunk(2, -1)
    enclosing = torch.maximum(right_bottom1, right_bottom2) - torch.minimum(left_top1, left_top2)
    w, h = enclosing.abs().unbind(-1)
    side = 2 * edge_error  # both edges of a side err
    area = w * h + BOX_EPS
    area_error = side * (w + h) + side**2 + 3 * eps * area
    (w1, h1), (w2, h2) = width_and_height(first), width_and_height(second)
    areas = (w1 * h1).abs() + (w2 * h2).abs()
    # the errors of an area and of the intersection
    union_error = side * (w2.abs() + h2.abs()) * 2 + 2 * side**2 + 6 * eps * areas
    return unit + (union_error + area_error) / area + 3 * eps


def metric_unit(score: Tensor, overlap: Tensor, alpha: float, beta: float, eps: float) -> Tensor:
    """Return the rounding error of t = s^alpha u^beta, by powers or as exp(alpha log s + beta log u) (TAL-MET-1).

    A power has a relative error of about its exponent times eps; a logarithm has a relative error of eps, which exp
    turns into a share of t.
    """
    metric = score**alpha * overlap**beta
    # Infinite where t is 0; an exponent of 0 adds nothing, also where its base is 0.
    logs = torch.special.xlogy(alpha, score).abs() + torch.special.xlogy(beta, overlap.abs()).abs()
    return eps * ((2 + alpha + beta) * metric + torch.where(metric > 0, logs * metric, 0))


def bce_sum_unit(
    logits: Tensor,
    learning: Tensor,
    scores: Tensor,
    eps: float,
    score_eps: float,
    factors: Tensor | None = None,
) -> Tensor:
    """Return the rounding error of the sum of (1 - z) x - log(sigmoid(x)) over all logits x and targets z (LOSS-CLS-1).

    Targets are zero except `scores` (P,), the targets of the logits `learning` (P,).

    The two terms cancel where x is large: the error is relative to |x|, not to their difference. Targets may be rounded
    to the logits' dtype first, whose eps is `score_eps`, whatever the dtype of the terms.

    Each cross-entropy is multiplied by a factor of its class, with one more rounding (COR-7): `scores` include the
    factors of their classes, and `factors` (C,) are those of all logits (.., C); None: 1.
    """
    learnt = (learning.abs() * scores).sum()
    crossed = functional.softplus(logits.abs())
    if factors is None:
        return eps * 3 * (crossed.sum() + learnt) + score_eps * learnt
    return eps * 4 * ((crossed * factors).sum() + learnt) + score_eps * learnt


def dfl_unit(
    log_probability: Tensor,
    target: Tensor,
    target_error: Tensor,
    reg_max: int,
    eps: float,
    lower: Tensor | None = None,
) -> Tensor:
    """Return the rounding error (P,) of the DFL of P positives, given the log-probabilities (P, 4, R) (LOSS-DFL-1).

    `target` and `target_error` (P, 4) are the target distances and their errors, `lower` (P, 4) int64 is the bin below
    each target distance; None: the bin that official releases use.
    """
    if lower is None:
        lower = target.clamp(0, reg_max - 1 - LAST_BIN_MARGIN).floor().long()
    below, above = (
        log_probability.gather(-1, (lower + step).clamp(0, reg_max - 1)[..., None]).squeeze(-1).abs()
        for step in (0, 1)
    )  # (P, 4) twice
    slope = (below - above).abs()  # (P, 4) of the loss in the target distance
    return (target_error * slope + eps * (4 * (below + above) + 2)).mean(1)  # (P,)


def gradient_range(
    target: Tensor, predicted: Tensor, edge_error: Tensor, measure: Overlap = Overlap.CIOU
) -> tuple[Tensor, Tensor]:
    """Return CIoU's gradient in the predicted box, and its largest change by edge errors; (P, 4) each (LOSS-BOX-1).

    `measure` names the overlap whose gradient is computed instead of CIoU's.

    The gradient jumps where an edge of the prediction passes one of the target (min and max), so no first-order bound
    holds there. Instead all 16 corners of the box of edge errors are tried, and the 16 next to the target's edges where
    these lie within it, because between a jump and a corner the gradient falls again; the largest change is the error.
    """
    signs = CORNERS.to(predicted)[:, None]  # (16, 1, 4)
    far = predicted + signs * edge_error  # (16, P, 4)
    gradients = overlap_gradients(target, torch.cat((predicted[None], far)), measure)  # (17, P, 4)
    range_ = (gradients[1:] - gradients[0]).abs().amax(0)  # (P, 4)
    jumps = (target - predicted).abs() <= edge_error  # (P, 4) near the target's edge
    (at,) = jumps.any(1).nonzero(as_tuple=True)  # (J,): few positives
    if len(at):
        past = torch.nextafter(target[at].expand(len(signs), -1, -1), signs * torch.inf)  # (16, J, 4)
        near = torch.where(jumps[at], past, far[:, at])  # (16, J, 4)
        beside = overlap_gradients(target[at], near, measure)  # (16, J, 4)
        range_[at] = torch.maximum(range_[at], (beside - gradients[0, at]).abs().amax(0))
    return gradients[0], range_


def overlap_gradients(target: Tensor, predicted: Tensor, measure: Overlap) -> Tensor:
    """Return the gradient (.., P, 4) of an overlap of targets (P, 4) and predictions (.., P, 4) in the latter."""
    leaf = predicted.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(MEASURES[measure](target, leaf).sum(), leaf)
    return gradients
