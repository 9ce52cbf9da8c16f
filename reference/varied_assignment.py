"""The assigner of a dialect with choices that no release makes, step by step as in `assignment`.

Steps in which no dialect differs are the functions of `assignment` themselves. With all defaults the result is
bitwise that of `assignment.assign`. M is the number of ground truths of the image, A of anchors, C of classes.
"""

import torch
from torch import Tensor

from tal_reference.annotations import GroundTruths, image_indices, to_corners
from tal_reference.assignment import (
    INSIDE,
    AssignmentTrace,
    Targets,
    alignment_metric,
    background,
    distance_inside,
    overlap_mask,
    reject_unsupported,
    settle_contested,
    targets_of,
    top_k,
    widened,
)
from tal_reference.dialect import Dialect
from tal_reference.settings import Hyperparameters
from tal_reference.shapes import Bool, Float
from tal_reference.variations import CentreRadius, Contested, DroppedPicks, Rows
from tal_reference.varied_boxes import MEASURES

LEAST_PICK = {DroppedPicks.NONE: -torch.inf, DroppedPicks.ZERO: 0.0, DroppedPicks.TINY: 1e-9}
"""The number that the metric t of an anchor must exceed for the anchor to be selected (TAL-TOPK-1)."""


def ground_truths(
    annotations: Float[Tensor, "N 6"], images: int, size: tuple[int, int], dialect: Dialect
) -> list[GroundTruths]:
    """Return the ground truths of each image, from rows in the dialect's format (ANN-1).

    Arguments and errors are the same as for `annotations.ground_truths`.
    """
    image = image_indices(annotations, images)  # (N,)
    labels, boxes = annotations[:, 1].long(), corners(annotations[:, 2:], size, dialect)  # (N,), (N, 4)
    if dialect.image_index_ignored:
        return [GroundTruths(labels, boxes)] * images
    return [GroundTruths(labels[image == i], boxes[image == i]) for i in range(images)]


def corners(rows: Float[Tensor, "N 4"], size: tuple[int, int], dialect: Dialect) -> Float[Tensor, "N 4"]:
    """Return the boxes xyxy in pixels that the last four numbers of each row describe (ANN-1)."""
    height, width = reversed(size) if dialect.sides_exchanged else size
    match dialect.rows:
        case Rows.NORMALISED:
            return to_corners(rows, (height, width))
        case Rows.PIXELS:
            return to_corners(rows, (1, 1))
        case Rows.CORNERS:
            return rows * rows.new_tensor((width, height, width, height))
        case Rows.CONVERTED_TWICE:
            return to_corners(to_corners(rows, (1, 1)), (height, width))


@torch.no_grad()
def assign(
    scores: Float[Tensor, "A C"],
    boxes: Float[Tensor, "A 4"],
    centres: Float[Tensor, "A 2"],
    truths: GroundTruths,
    strides: tuple[int, ...],
    hyperparameters: Hyperparameters,
    dialect: Dialect,
    keep_trace: bool = False,
    reach: Float[Tensor, "A 1"] | None = None,
    radius: Float[Tensor, "A 1"] | None = None,
) -> Targets:
    """Assign the ground truths of one image to its anchors.

    Args:
        scores: (A, C) predicted class scores, after the sigmoid.
        boxes: (A, 4) predicted boxes, xyxy in pixels.
        centres: (A, 2) anchor centres in pixels.
        truths: the image's ground truths, boxes in pixels.
        strides: the head's strides in pixels, for TAL-CAND-2.
        hyperparameters: k, alpha, beta and topk2.
        dialect: the choices to follow.
        keep_trace: store every stage's values in `trace`.
        reach: (A, 1) largest distance in pixels that the bins of each anchor can represent; None: unlimited.
        radius: (A, 1) distance in pixels from a ground truth's centre that each candidate is below; None: unlimited.

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2), or the dialect does not support the head or topk2.
    """
    if not len(truths):
        return background(truths, len(centres))  # TAL-EMPTY-1
    numbers = dialect.effective(hyperparameters, len(centres))
    reject_unsupported(strides, numbers, dialect)
    candidates = candidates_of(truths, centres, strides, dialect, reach, radius)  # (M, A)
    compared = overlap_mask(candidates, dialect)  # (M, A)
    everywhere = overlaps_of(truths.boxes, boxes, dialect)  # (M, A)
    overlap = everywhere.where(compared, 0)  # (M, A)
    score = scores.T[truths.labels].where(compared, 0)  # (M, A)
    metric = alignment_metric(score, overlap, numbers).where(candidates if dialect.metric_masked else compared, 0)
    selected = picks(metric, candidates, counting(truths, dialect), numbers.topk, dialect)  # (M, A)
    positives = settle_contested(selected, rank(selected, overlap, everywhere, metric, dialect))  # (M, A)
    if numbers.effective_topk2 is not None:
        positives = positives & top_k(metric * positives, numbers.effective_topk2)  # (M, A)
    weights = normalised(metric, overlap, positives, selected, dialect)  # (A,)
    if dialect.widened_target:
        truths = GroundTruths(truths.labels, widened(truths.boxes, dialect.floor(strides)))
    if not keep_trace:
        return targets_of(truths, positives, weights)
    return targets_of(
        truths, positives, weights, AssignmentTrace(candidates, score, overlap, metric, selected, positives)
    )


def candidates_of(
    truths: GroundTruths,
    centres: Float[Tensor, "A 2"],
    strides: tuple[int, ...],
    dialect: Dialect,
    reach: Float[Tensor, "A 1"] | None,
    radius: Float[Tensor, "A 1"] | None,
) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: True if the anchor is a candidate of the real ground truth (TAL-CAND-1, TAL-CAND-2)."""
    inside = distance_inside(truths.boxes, centres, dialect.floor(strides))  # (M, A)
    found = inside >= 0 if dialect.edge_counts else inside > INSIDE
    if dialect.reach_limits and reach is not None:
        found = found & (farthest_side(truths.boxes, centres) <= reach.T)
    if radius is not None:
        found = found & (off_centre(truths.boxes, centres) < radius.T)
    return found & counting(truths, dialect)[:, None]


def counting(truths: GroundTruths, dialect: Dialect) -> Bool[Tensor, "M"]:
    """Return (M,) bool: True for the ground truths that take part in the assignment (ANN-3)."""
    return (truths.boxes != 0).any(1) if dialect.every_row_counts else truths.real


def off_centre(boxes: Float[Tensor, "M 4"], centres: Float[Tensor, "A 2"]) -> Float[Tensor, "M A"]:
    """Return (M, A) the distance in pixels of each anchor's centre from each box's centre, along x or y."""
    left_top, right_bottom = boxes[:, None].chunk(2, dim=-1)  # (M, 1, 2) twice
    return (centres - (left_top + right_bottom) / 2).abs().amax(-1)  # (M, A)


def radius_of(strides: Float[Tensor, "A 1"], dialect: Dialect) -> Float[Tensor, "A 1"] | None:
    """Return (A, 1) the distance in pixels from a ground truth's centre that candidates are below; None: unlimited."""
    near = dialect.centre_radius
    return None if near is CentreRadius.NONE else strides * float(near.value)


def farthest_side(boxes: Float[Tensor, "M 4"], centres: Float[Tensor, "A 2"]) -> Float[Tensor, "M A"]:
    """Return (M, A) the distance in pixels from each centre to the farthest side of each box."""
    left_top, right_bottom = boxes[:, None].chunk(2, dim=-1)  # (M, 1, 2) twice
    return torch.maximum(centres - left_top, right_bottom - centres).amax(-1)  # (M, A)


def overlaps_of(
    truths: Float[Tensor, "M 4"], boxes: Float[Tensor, "A 4"], dialect: Dialect
) -> Float[Tensor, "M A"]:
    """Return (M, A) the overlap of every ground truth and predicted box (TAL-MET-1)."""
    overlap = MEASURES[dialect.overlap](truths[:, None], boxes)  # (M, A)
    return overlap if dialect.signed_overlap else overlap.clamp(min=0)


def picks(
    metric: Float[Tensor, "M A"], candidates: Bool[Tensor, "M A"], real: Bool[Tensor, "M"], k: int, dialect: Dialect
) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: True for the anchors that each ground truth selects (TAL-TOPK-1)."""
    selected = top_k(metric.where(candidates, 0), k) & candidates  # (M, A)
    if dialect.dropped_picks is not DroppedPicks.NONE:
        selected = selected & (metric > LEAST_PICK[dialect.dropped_picks])
    if dialect.at_least_one:
        without = ~selected.any(1) & (metric.amax(1) > 0) & real  # (M,)
        best = without.nonzero().flatten(), metric.argmax(1)[without]
        selected = selected.index_put(best, selected.new_tensor(True))
    return selected


def rank(
    selected: Bool[Tensor, "M A"],
    overlap: Float[Tensor, "M A"],
    everywhere: Float[Tensor, "M A"],
    metric: Float[Tensor, "M A"],
    dialect: Dialect,
) -> Float[Tensor, "M A"]:
    """Return (M, A) values: the ground truth with the largest value wins a contested anchor (TAL-CONF-1)."""
    order = torch.arange(len(selected), device=selected.device, dtype=overlap.dtype)[:, None].expand_as(overlap)
    match dialect.contested:
        case Contested.OVERLAP:
            return overlap
        case Contested.ANY_OVERLAP:
            return everywhere
        case Contested.CLAIMANTS:
            return overlap.where(selected, -torch.inf)
        case Contested.METRIC:
            return metric
        case Contested.CLAIMANTS_METRIC:
            return metric.where(selected, -torch.inf)
        case Contested.FIRST:
            return (-order).where(selected, -torch.inf)
        case Contested.LAST:
            return order.where(selected, -torch.inf)


def normalised(
    metric: Float[Tensor, "M A"],
    overlap: Float[Tensor, "M A"],
    positives: Bool[Tensor, "M A"],
    selected: Bool[Tensor, "M A"],
    dialect: Dialect,
) -> Float[Tensor, "A"]:
    """Return (A,) the weight w of every anchor, zero on background (TAL-NORM-1)."""
    among = selected if dialect.norm_before_conflict else positives  # (M, A)
    best_metric, best_overlap = (values.where(among, 0).amax(1) for values in (metric, overlap))  # (M,), (M,)
    eps = dialect.norm_eps
    least = best_metric.clamp(min=eps) if dialect.norm_clamped else best_metric + eps  # (M,)
    owner, anchor = pairs = positives.nonzero(as_tuple=True)  # (P,), (P,)
    scaled = metric[pairs] * best_overlap[owner] if dialect.norm_scaled else metric[pairs]  # (P,)
    return metric.new_zeros(metric.shape[1]).index_add(0, anchor, scaled / least[owner])  # (A,)
