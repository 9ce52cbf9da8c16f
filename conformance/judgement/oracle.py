"""The oracle of one image: values and choices that the specification admits, given the inputs of an assigner.

Values are float64, with bounds for the rounding of the implementation's dtype; they determine which choices are forced,
possible and forbidden (specification section 6). M ground truths, A anchors, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs
from tal_conformance.core.verdicts import Uniqueness
from tal_conformance.judgement.admissible import Range, Selection, TopK2Rule, may_own, top_k_choices
from tal_conformance.judgement.bounds import (
    ROUNDINGS,
    bound,
    ciou_unit,
    metric_unit,
    precision,
    smallest,
)
from tal_reference import Dialect, GroundTruths, OverlapsCompared
from tal_reference.assignment import (
    INSIDE,
    NORMALISATION_EPS,
    alignment_metric,
    candidates_of,
    distance_inside,
    normalised,
    overlap_mask,
    scatter_pairs,
    settle_contested,
    top_k,
    widened,
)
from tal_reference.boxes import ciou


@dataclass(frozen=True)
class InputErrors:
    """Possible differences between the inputs that an implementation read and the reference's inputs.

    Attributes:
        boxes: (A,) difference of a predicted edge, in pixels.
        scores: (A, C) difference of a class score.
        truths: (M, 4) difference of an edge of a ground truth, in pixels.
    """

    boxes: Tensor
    scores: Tensor
    truths: Tensor


@dataclass(frozen=True)
class ImageOracle:
    """Values and choices that the specification admits for one image, with the rounding of its dtype.

    Attributes:
        candidate: (M, A) certainly a candidate; may_candidate: possibly a candidate, includes `candidate`.
        overlap, overlap_error: (M, A) u in float64 and its bound; zero off `may_candidate`.
        metric, metric_error: (M, A) t likewise.
        overlap_range, metric_range: (M, A) ranges of u and t, which include zero for an uncertain candidate.
        selection: the admissible top-k.
        owners: (M, A) ground truths that may own a contested anchor.
        same_dtype: "overlap", "metric" and "positives" (M, A) of the reference, in the batch's dtype.
        k: number of anchors that each ground truth selects.
        topk2_rule: the second top-k (TAL-CONF-2); None without `topk2`.
        everywhere: True if u and t are compared off candidates too (TAL-CONF-1 of the oldest releases).
        floor: a side shorter than the first number is widened to the second, both in pixels (TAL-CAND-2).
    """

    candidate: Tensor
    may_candidate: Tensor
    overlap: Tensor
    overlap_error: Tensor
    metric: Tensor
    metric_error: Tensor
    overlap_range: Range
    metric_range: Range
    selection: Selection
    owners: Tensor
    same_dtype: dict[str, Tensor]
    k: int
    topk2_rule: TopK2Rule | None
    everywhere: bool
    floor: tuple[int, int]

    @property
    def uniqueness(self) -> Uniqueness:
        """The reason why the image admits several assignments; UNIQUE if it admits one."""
        open_places = self.selection.may & ~self.selection.must  # (M, A)
        doubtful = self.may_candidate & ~self.candidate
        rivals = self.selection.may.sum(0) > 1  # (A,) may be contested
        open_owners = rivals & (self.owners.sum(0) > 1)  # (A,)
        settled = not (open_places.any() or doubtful.any() or open_owners.any())
        if settled and not self.topk2_is_ambiguous(self.metric_range):
            return Uniqueness.UNIQUE
        exact = Range.exact(self.metric)
        ties = top_k_choices(exact, self.candidate, self.candidate, self.k)
        tied_owner = (self.overlap == self.overlap.amax(0)).sum(0) > 1  # (A,)
        if (ties.may & ~ties.must).any() or (open_owners & tied_owner).any():
            return Uniqueness.TIE
        return Uniqueness.TIE if settled and self.topk2_is_ambiguous(exact) else Uniqueness.NEAR_TIE

    def topk2_is_ambiguous(self, metric: Range) -> bool:
        """Return True if the second top-k admits several results, given that the stages before it admit one (T3)."""
        if self.topk2_rule is None:
            return False
        taken = self.selection.must  # (M, A)
        own = torch.where(taken.sum(0) > 1, self.owners, taken)  # (M, A)
        choices = top_k_choices(Range(metric.low * own, metric.high * own), own, own, self.topk2_rule.k)
        return bool((choices.may & ~choices.must).any())

    def weights(self, positives: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights of positives (M, A), their rounding units, and the effect of the errors of u and t; (A,) each.

        The weights are those of TAL-NORM-1.
        """
        metric, overlap = self.metric * positives, self.overlap * positives  # (M, A) twice
        metric_error, overlap_error = self.metric_error * positives, self.overlap_error * positives
        best, best_overlap, best_error, best_overlap_error = (
            value.amax(1, keepdim=True) for value in (metric, overlap, metric_error, overlap_error)
        )  # (M, 1) each
        best = best + NORMALISATION_EPS
        exact = normalised(metric, overlap, positives)  # (A,)
        moved = (
            metric_error * (best_overlap + best_overlap_error)
            + metric * best_overlap_error
            + metric * best_overlap * best_error / best
        )
        low = (best - best_error).clamp(min=NORMALISATION_EPS)
        unit = 4 * torch.finfo(dtype).eps * exact + smallest(dtype) / NORMALISATION_EPS
        return exact, unit, (moved / low).sum(0)


def edge_rounding(truths: GroundTruths, floor: tuple[int, int], exact: GroundTruths, eps: float) -> Tensor:
    """Return the error (M, 1) in pixels of a box's edges after widening about its centre (TAL-CAND-2).

    Centre and sides are sums and differences of edges. If these and the widened edges are equal in the implementation's
    dtype and in float64, every way to compute them is exact: the border is sharp, and its error is zero.
    """
    rounded, wanted = (
        torch.cat(_centres_and_edges(boxes, floor), 1) for boxes in (truths.boxes, exact.boxes)
    )  # (M, 8)
    sharp = (rounded.double() == wanted).all(1)  # (M,)
    error = ROUNDINGS * eps * exact.boxes.abs().amax(1)  # (M,)
    return error.where(~sharp, 0)[:, None]  # (M, 1)


def _centres_and_edges(boxes: Tensor, floor: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return twice the centres, the sides, and the edges after widening, of boxes (M, 4)."""
    left_top, right_bottom = boxes.chunk(2, dim=1)  # (M, 2), (M, 2)
    return left_top + right_bottom, right_bottom - left_top, widened(boxes, floor)


def candidates_within(
    small: GroundTruths,
    large: GroundTruths,
    centres: Tensor,
    floor: tuple[int, int],
    eps: float,
    errors: InputErrors | None,
) -> tuple[Tensor, Tensor]:
    """Return the pairs (M, A) that are certainly candidates, and those that may be (TAL-CAND-1, TAL-CAND-2).

    Args:
        small: the ground truths as the implementation read them.
        large: the same in float64.
        centres: (A, 2) anchor centres in pixels, float64.
        floor: sides below the first number are widened to the second, both in pixels.
        eps: of the implementation's dtype.
        errors: uncertainty of the inputs; None if they are the implementation's own.
    """
    edge = edge_rounding(small, floor, large, eps)  # (M, 1)
    if errors is not None:
        edge = edge + 2 * errors.truths.amax(1, keepdim=True)
    inside = distance_inside(large.boxes, centres, floor)  # (M, A)
    real = large.real[:, None]
    return (inside > INSIDE + edge) & real, (inside > INSIDE - edge) & real


@dataclass(frozen=True)
class PairValues:
    """u and t on P pairs of ground truth and anchor, (P,) each.

    Attributes:
        overlap, metric: in float64.
        overlap_error, metric_error: their bounds.
        metric_low, metric_high: range of t.
        naive_overlap, naive_metric: u and t of the reference, in the implementation's dtypes.
    """

    overlap: Tensor
    overlap_error: Tensor
    metric: Tensor
    metric_error: Tensor
    metric_low: Tensor
    metric_high: Tensor
    naive_overlap: Tensor
    naive_metric: Tensor

    def scatter_pairs(self, pairs: tuple[Tensor, ...], certain: Tensor) -> Tensor:
        """Return (8, M, A): u, its error, t, its error, then the ranges of u and t; zero off the pairs.

        Args:
            pairs: two indices (P,), of ground truths and anchors.
            certain: (M, A) pairs whose u and t are certainly not replaced by zero.
        """
        at_least = self.overlap - self.overlap_error, self.metric_low
        low = [value.clamp(min=0) * certain[pairs] for value in at_least]  # (P,) twice
        values = torch.stack(
            (
                *(self.overlap, self.overlap_error, self.metric, self.metric_error),
                *(low[0], self.overlap + self.overlap_error, low[1], self.metric_high),
            )
        )  # (8, P)
        matrices = values.new_zeros(len(values), *certain.shape)  # (8, M, A)
        truth, anchor = pairs
        matrices[:, truth, anchor] = values
        return matrices


def pair_values(
    inputs: AssignerInputs,
    image: int,
    truths: GroundTruths,
    pairs: tuple[Tensor, ...],
    dtype: torch.dtype,
    errors: InputErrors | None,
) -> PairValues:
    """Return u and t of pairs (TAL-MET-1), computed from the inputs of the implementation's assigner.

    Args:
        inputs: inputs of the assigner.
        image: index of the image.
        truths: its ground truths, as the assigner read them.
        pairs: two indices (P,), of ground truths and anchors.
        dtype: of the overlap.
        errors: how uncertain the inputs are; None if they are the implementation's own.
    """
    truth, anchor = pairs
    numbers, labels = inputs.hyperparameters, truths.labels[truth]  # (P,)
    naive = truths.boxes[truth], inputs.boxes[image, anchor]  # (P, 4) twice
    exact = naive[0].double(), naive[1].double()
    naive_overlap, overlap = (ciou(*boxes).clamp(min=0) for boxes in (naive, exact))  # (P,) twice
    moved: Tensor | float = 0.0 if errors is None else errors.boxes[anchor] + errors.truths.amax(1)[truth]
    unit = ciou_unit(*exact, moved, torch.finfo(dtype).eps)
    overlap_error = bound(naive_overlap, overlap, unit, dtype, "overlap u")

    naive_score = inputs.scores[image, anchor, labels]  # (P,)
    score, score_error = naive_score.double(), 0.0 if errors is None else errors.scores[anchor, labels]
    naive_metric = alignment_metric(naive_score, naive_overlap, numbers)
    metric = alignment_metric(score, overlap, numbers)
    most = score + score_error, overlap + overlap_error
    least = (score - score_error).clamp(min=0), (overlap - overlap_error).clamp(min=0)
    coarse = precision(inputs.scores.dtype, dtype)  # of the metric
    unit = metric_unit(*most, numbers.alpha, numbers.beta, torch.finfo(coarse).eps)
    rounding = bound(naive_metric, metric, unit, coarse, "metric t")
    low, high = alignment_metric(*least, numbers), alignment_metric(*most, numbers)
    error = torch.maximum(high - metric, metric - low) + rounding
    return PairValues(
        overlap, overlap_error, metric, error, low - rounding, high + rounding, naive_overlap, naive_metric
    )


def oracle(
    inputs: AssignerInputs, image: int, truths: int, dialect: Dialect, errors: InputErrors | None = None
) -> ImageOracle:
    """Return the values and choices that the specification admits for one image, given the assigner's inputs.

    Args:
        inputs: inputs of the assigner.
        image: index of the image.
        truths: its number of ground truths, without padding.
        dialect: the dialect to follow.
        errors: uncertainty of the inputs; None if they are the implementation's own.
    """
    numbers = inputs.hyperparameters
    dtype = precision(inputs.boxes.dtype, inputs.truth_boxes.dtype)  # of the overlap
    floor = dialect.floor(inputs.head.strides)
    small = GroundTruths(inputs.labels[image, :truths, 0].long(), inputs.truth_boxes[image, :truths])
    large = GroundTruths(small.labels, small.boxes.double())
    candidate, may_candidate = candidates_within(
        small, large, inputs.anchors.double(), floor, torch.finfo(dtype).eps, errors
    )  # (M, A) twice
    compared = overlap_mask(may_candidate, dialect)  # (M, A) where u and t are not zero
    pairs = compared.nonzero(as_tuple=True)  # (P,), (P,): few of all pairs
    values = pair_values(inputs, image, small, pairs, dtype, errors)
    u, u_error, t, t_error, least_u, most_u, least_t, most_t = values.scatter_pairs(
        pairs, overlap_mask(candidate, dialect)
    ).unbind()  # (M, A) each
    overlap_range, metric_range = Range(least_u, most_u), Range(least_t, most_t)
    rivals = metric_range
    if compared is not may_candidate:  # u and t are known off candidates too, which do not compete
        rivals = Range(least_t * candidate, most_t * may_candidate)
    selection = top_k_choices(rivals, candidate, may_candidate, numbers.topk)

    overlap, metric = (
        scatter_pairs(each, pairs, compared) for each in (values.naive_overlap, values.naive_metric)
    )
    naive_candidate = candidates_of(small, inputs.anchors, floor)  # (M, A)
    selected = top_k(metric * naive_candidate, numbers.topk) & naive_candidate
    positives = settle_contested(selected, overlap * overlap_mask(naive_candidate, dialect))
    topk2_rule = None
    if numbers.effective_topk2 is not None:
        topk2_rule = TopK2Rule(metric_range, numbers.effective_topk2)
        positives = positives & top_k(metric * positives, numbers.effective_topk2)
    same_dtype = {"overlap": overlap, "metric": metric, "positives": positives}
    return ImageOracle(
        candidate, may_candidate, u, u_error, t, t_error, overlap_range, metric_range, selection,
        may_own(overlap_range), same_dtype, numbers.topk, topk2_rule,
        dialect.overlaps_compared is OverlapsCompared.EVERYWHERE,
        floor,
    )  # fmt: skip
