"""The oracle of one image: values and choices that the specification admits, given the inputs of an assigner.

Values are float64, with bounds for the rounding of the implementation's dtype; they determine which choices are forced,
possible and forbidden (specification section 6). M ground truths, A anchors, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs
from tal_conformance.core.verdicts import Uniqueness
from tal_conformance.judgement.oracle.admissible import Range, Selection, TopK2Rule, top_k_choices
from tal_conformance.judgement.oracle.choices import may_win, pick_choices
from tal_conformance.judgement.rounding.bounds import bound, metric_unit, precision, smallest
from tal_conformance.judgement.rounding.geometry import UPRIGHT, Geometry, InputErrors, Pairs
from tal_conformance.judgement.rounding.mixed_precision import power_error
from tal_reference import NEWEST, Dialect, GroundTruths, Hyperparameters, OverlapsCompared
from tal_reference.assignment import (
    alignment_metric,
    normalised,
    overlap_mask,
    scatter_pairs,
    settle_contested,
    top_k,
)
from tal_reference.composed import reach_of
from tal_reference.variations import Contested
from tal_reference.varied_assignment import counting, picks, radius_of, rank
from tal_reference.varied_assignment import normalised as varied_normalised


@dataclass(frozen=True)
class ImageOracle:
    """Values and choices that the specification admits for one image, with bounds of rounding errors.

    Attributes:
        candidate: (M, A) bool: certainly a candidate; may_candidate: possibly a candidate, includes `candidate`.
        overlap, overlap_error: (M, A) overlap u in float64 and its bound; zero off `may_candidate`.
        metric, metric_error: (M, A) metric t in float64 and its bound; zero off `may_candidate`.
        overlap_range, metric_range: (M, A) ranges of u and t, which include zero for an uncertain candidate.
        selection: the admissible top-k.
        owners: (M, A) bool: the ground truth may own the anchor if several select it.
        same_dtype: "overlap", "metric" and "positives" (M, A) of the reference, in the batch's dtype.
        k: number of anchors that each ground truth selects.
        topk2_rule: the second top-k (TAL-CONF-2); None without `topk2`.
        everywhere: True if u and t are computed for non-candidates too (TAL-CONF-1 of the oldest releases).
        floor: a side shorter than the first number is widened to the second, both in pixels (TAL-CAND-2).
        dialect: the dialect, which may replace some hyperparameters.
        rivals_overlap: (M, A) ranges of the overlap of all pairs, candidates or not, if the dialect compares these to
            resolve contested anchors; None otherwise.
        geometry: the geometry of the task's boxes.
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
    dialect: Dialect = NEWEST
    rivals_overlap: Range | None = None
    geometry: Geometry = UPRIGHT

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
        """Return True if the second top-k admits several results, given a unique result of the first top-k (T3)."""
        if self.topk2_rule is None:
            return False
        taken = self.selection.must  # (M, A)
        own = torch.where(taken.sum(0) > 1, self.owners, taken)  # (M, A)
        choices = top_k_choices(Range(metric.low * own, metric.high * own), own, own, self.topk2_rule.k)
        return bool((choices.may & ~choices.must).any())

    def largest_weights(self, positives: Tensor) -> Tensor:
        """Return an upper limit (A,) of each positive's weight: the best overlap of its owner (TAL-NORM-1)."""
        best = (self.overlap_range.high * positives).amax(1, keepdim=True)  # (M, 1)
        return (best * positives).sum(0).clamp(max=1)  # a CIoU is at most 1

    def weights(self, positives: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights of positives (M, A), their rounding units, and the effect of the errors of u and t; (A,) each.

        TAL-NORM-1 defines the weights. A rounding unit is the effect of one rounding in each operation.
        """
        among, eps = self.normalising(positives), self.dialect.norm_eps
        metric_errors, overlap_errors, surely = self.metric_error, self.overlap_error, among  # (M, A) each
        doubtful = self.maybe_without_overlap  # (M, A)
        if not self.dialect.is_varied:
            doubtful = doubtful & positives
        if self.dialect.is_varied or doubtful.any():
            metric_errors = metric_errors + self.metric * doubtful
            overlap_errors, surely = overlap_errors + self.overlap * doubtful, among & ~doubtful
        metric, metric_error = self.metric * positives, metric_errors * positives  # (M, A) twice
        best, best_overlap, best_error, best_overlap_error = (
            (value * among).amax(1, keepdim=True)
            for value in (self.metric, self.overlap, metric_errors, overlap_errors)
        )  # (M, 1) each
        least = ((self.metric - self.metric_error) * surely).amax(1, keepdim=True)  # (M, 1)
        if not self.dialect.norm_scaled:
            best_overlap, best_overlap_error = torch.ones_like(best_overlap), torch.zeros_like(best_overlap)
        best = best.clamp(min=eps) if self.dialect.norm_clamped else best + eps
        exact = self.normalised(self.metric, self.overlap, positives)  # (A,)
        moved = (
            metric_error * (best_overlap + best_overlap_error)
            + metric * best_overlap_error
            + metric * best_overlap * best_error / best
        )
        low = (best - best_error).clamp(min=eps) if surely is among else least.clamp(min=eps)
        unit = 4 * torch.finfo(dtype).eps * exact + smallest(dtype) / eps
        return exact, unit, (moved / low).sum(0)

    @cached_property
    def maybe_without_overlap(self) -> Tensor:
        """(M, A) bool: True if a ground truth may own the anchor without being a candidate; then u and t are zero.

        Rounding decides whether the anchor is a candidate. If it is not, the ground truth wins the anchor only if
        at least two others select it and the largest overlap is zero (TAL-CONF-1); varied dialects have other rules.
        """
        doubtful = self.may_candidate & ~self.candidate  # (M, A)
        if self.dialect.is_varied or not doubtful.any():
            return doubtful
        may = self.selection.may  # (M, A)
        others = may.sum(0) - may.int()  # (M, A)
        return doubtful & (others > 1) & (self.overlap_range.low.amax(0) <= 0)

    def normalising(self, positives: Tensor) -> Tensor:
        """Return the pairs (M, A) whose largest t and u normalise a ground truth's weights (TAL-NORM-1)."""
        if not self.dialect.norm_before_conflict:
            return positives
        return self.selection.must | (self.selection.may & positives)

    def normalised(self, metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
        """Return the weights (A,) of positives (M, A) for given t and u (TAL-NORM-1)."""
        if not self.dialect.is_varied:
            return normalised(metric, overlap, positives)
        return varied_normalised(metric, overlap, positives, self.normalising(positives), self.dialect)


@dataclass(frozen=True)
class PairValues:
    """Overlap u and metric t of P pairs of ground truth and anchor, (P,) each.

    Attributes:
        overlap, metric: u and t in float64.
        overlap_error, metric_error: bounds of u and t.
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

    def scatter_pairs(self, pairs: tuple[Tensor, ...], certain: Tensor, signed: bool = False) -> Tensor:
        """Return (8, M, A): u, its error, t, its error, then the ranges of u and t; zero off the pairs.

        Args:
            pairs: two indices (P,), of ground truths and anchors.
            certain: (M, A) pairs whose u and t are certainly not replaced by zero.
            signed: True if u may be negative.
        """
        surely = certain[pairs]  # (P,)
        least, most = self.overlap - self.overlap_error, self.overlap + self.overlap_error  # (P,) twice
        least = least if signed else least.clamp(min=0)
        values = torch.stack(
            (
                *(self.overlap, self.overlap_error, self.metric, self.metric_error),
                *(least.where(surely, least.clamp(max=0)), most.where(surely, most.clamp(min=0))),
                *(self.metric_low.clamp(min=0) * surely, self.metric_high),
            )
        )  # (8, P)
        matrices = values.new_zeros(len(values), *certain.shape)  # (8, M, A)
        truth, anchor = pairs
        matrices[:, truth, anchor] = values
        return matrices


def metric_bound(
    score: Tensor,
    overlap: Tensor,
    exact: Tensor,
    most: tuple[Tensor, Tensor],
    numbers: Hyperparameters,
    dtype: torch.dtype,
    score_dtype: torch.dtype,
) -> Tensor:
    """Return the bound of the metric t for given class scores s and overlaps u (TAL-MET-1).

    The power of s rounds to the dtype of the scores, where that has 16 bits. The rest is computed in the dtype of u.

    Args:
        score: (P,) s as the implementation read it.
        overlap: (P,) u computed from what the implementation read.
        exact: (P,) t computed from `score` and `overlap` in float64.
        most: largest s and largest absolute u that the implementation may have used, float64.
        numbers: alpha and beta.
        dtype: dtype of u.
        score_dtype: dtype of s.
    """
    naive = alignment_metric(score.to(torch.promote_types(score.dtype, dtype)), overlap, numbers)
    unit = metric_unit(*most, numbers.alpha, numbers.beta, torch.finfo(dtype).eps)
    rounding = bound(naive, exact, unit, dtype, "metric t")
    return rounding + power_error(*most, numbers.alpha, numbers.beta, score_dtype)


@dataclass(frozen=True)
class CandidatePairs:
    """The pairs of ground truth and anchor of one image whose overlap u and metric t are computed.

    Attributes:
        image: index of the image.
        small, large: the ground truths as the assigner read them, and in float64.
        candidate, may_candidate: (M, A) bool: certain candidates, and possible candidates.
        compared: (M, A) bool: pairs whose u and t are not zero.
        pairs: indices (P,) of ground truths, and indices (P,) of anchors.
        errors: possible differences of the inputs; None if they are the implementation's own.
    """

    image: int
    small: GroundTruths
    large: GroundTruths
    candidate: Tensor
    may_candidate: Tensor
    compared: Tensor
    pairs: tuple[Tensor, ...]
    errors: InputErrors | None

    @classmethod
    def of(
        cls,
        inputs: AssignerInputs,
        image: int,
        truths: int,
        dialect: Dialect,
        errors: InputErrors | None,
        geometry: Geometry,
    ) -> "CandidatePairs":
        """Return the pairs of one image; the arguments are those of `oracles`."""
        small = GroundTruths(inputs.labels[image, :truths, 0].long(), inputs.truth_boxes[image, :truths])
        large = GroundTruths(small.labels, small.boxes.double())
        strides = inputs.strides.double()  # (A, 1)
        reach = reach_of(strides, inputs.head.reg_max) if dialect.reach_limits else None
        candidate, may_candidate = geometry.candidates_within(
            small,
            large,
            inputs.anchors.double(),
            dialect.floor(inputs.head.strides),
            torch.finfo(precision(inputs.boxes.dtype, inputs.truth_boxes.dtype)).eps,
            errors,
            dialect,
            reach,
            radius_of(strides, dialect),
        )  # (M, A) twice
        compared = overlap_mask(may_candidate, dialect)  # (M, A)
        anywhere = dialect.contested is Contested.ANY_OVERLAP
        pairs = (torch.ones_like(compared) if anywhere else compared).nonzero(as_tuple=True)  # few of all
        return cls(image, small, large, candidate, may_candidate, compared, pairs, errors)

    def read(self, inputs: AssignerInputs) -> tuple[Tensor, ...]:
        """Return what an assigner reads of the pairs, (P, ...) each, and by how much that may differ, if it may.

        Returns:
            Boxes of ground truths and anchors, class scores; with `errors`, errors of the edges and of the scores too.
        """
        truth, anchor = self.pairs
        labels = self.small.labels[truth]  # (P,)
        scores = inputs.scores[self.image, anchor, labels]  # (P,)
        values = self.small.boxes[truth], inputs.boxes[self.image, anchor], scores
        if self.errors is None:
            return values
        moved = self.errors.boxes[anchor] + self.errors.truths.amax(1)[truth]  # (P,)
        return *values, moved, self.errors.scores[anchor, labels]


def pair_values(
    inputs: AssignerInputs,
    images: Sequence[CandidatePairs],
    score_dtype: torch.dtype,
    dialect: Dialect = NEWEST,
    geometry: Geometry = UPRIGHT,
) -> list[PairValues]:
    """Return overlap u and metric t of the pairs of each image (TAL-MET-1), from the inputs of the assigner.

    The pairs of all images are computed together: a batch of small images costs as much as one of them.

    Args:
        inputs: inputs of the assigner.
        images: the pairs of at least one image; the errors of all images are known, or of none.
        score_dtype: dtype of the class scores that the implementation read.
        dialect: the dialect to follow.
        geometry: the geometry of the task's boxes.
    """
    numbers, errors = inputs.hyperparameters, images[0].errors
    dtype = precision(inputs.boxes.dtype, inputs.truth_boxes.dtype)  # of the overlap
    read = [torch.cat(parts) for parts in zip(*(image.read(inputs) for image in images), strict=True)]
    naive_score, differences = read[2], read[3:]  # (P,) each
    moved, score_error = differences or (0.0, 0.0)
    attained = errors is not None and errors.around is not None
    truth, anchor = (torch.cat(parts) for parts in zip(*(image.pairs for image in images), strict=True))
    image_of = torch.cat([torch.full_like(image.pairs[0], image.image) for image in images])  # (P,)
    certain = torch.cat([image.candidate[image.pairs] for image in images])  # (P,)
    pairs = Pairs(
        image_of, truth, anchor, read[0], read[1], naive_score, certain, moved, score_error, attained
    )
    naive_overlap, overlap, overlap_error = geometry.pair_overlaps(
        pairs, dtype, dialect, numbers
    )  # (P,) each

    score = naive_score.double()  # (P,)
    naive_metric = alignment_metric(naive_score, naive_overlap, numbers)
    metric = alignment_metric(score, overlap, numbers)
    size = overlap.abs()  # of a negative overlap an even power is taken
    most = score + score_error, size + overlap_error
    least = (score - score_error).clamp(min=0), (size - overlap_error).clamp(min=0)
    rounding = metric_bound(naive_score, naive_overlap, metric, most, numbers, dtype, score_dtype)
    low, high = alignment_metric(*least, numbers), alignment_metric(*most, numbers)
    error = torch.maximum(high - metric, metric - low) + rounding
    values = (
        overlap, overlap_error, metric, error, low - rounding, high + rounding, naive_overlap, naive_metric
    )  # fmt: skip
    counts = [len(image.pairs[0]) for image in images]
    return [PairValues(*parts) for parts in zip(*(value.split(counts) for value in values), strict=True)]


def oracle(
    inputs: AssignerInputs,
    image: int,
    truths: int,
    dialect: Dialect,
    errors: InputErrors | None = None,
    geometry: Geometry = UPRIGHT,
) -> ImageOracle:
    """Return the values and choices that the specification admits for one image; the arguments are as in `oracles`."""
    return oracles(inputs, {image: truths}, dialect, None if errors is None else {image: errors}, geometry)[
        image
    ]


def oracles(
    inputs: AssignerInputs,
    truths: Mapping[int, int],
    dialect: Dialect,
    errors: Mapping[int, InputErrors] | None = None,
    geometry: Geometry = UPRIGHT,
) -> dict[int, ImageOracle]:
    """Return the values and choices that the specification admits for each image, given the assigner's inputs.

    Args:
        inputs: inputs of the assigner.
        truths: number of ground truths of each image, without padding, by the index of the image.
        dialect: the dialect to follow.
        errors: possible differences of the inputs of each image; None if they are the implementation's own.
        geometry: the geometry of the task's boxes.
    """
    if not truths:
        return {}
    score_dtype = inputs.scores.dtype
    first = None if errors is None else next(iter(errors.values()))
    if errors is not None and first is not None and first.around is not None:
        assert all(each.around is first.around for each in errors.values()), (
            "the images have different inputs"
        )
        inputs = first.around
    images = [
        CandidatePairs.of(inputs, image, count, dialect, errors[image] if errors else None, geometry)
        for image, count in truths.items()
    ]
    values = pair_values(inputs, images, score_dtype, dialect, geometry)
    return {
        image.image: _image_oracle(inputs, image, own, dialect, geometry)
        for image, own in zip(images, values, strict=True)
    }


def _image_oracle(
    inputs: AssignerInputs, found: CandidatePairs, values: PairValues, dialect: Dialect, geometry: Geometry
) -> ImageOracle:
    """Return the values and choices that the specification admits for one image, given those of its pairs."""
    numbers, floor = inputs.hyperparameters, dialect.floor(inputs.head.strides)
    small, large, pairs, compared = found.small, found.large, found.pairs, found.compared
    candidate, may_candidate = found.candidate, found.may_candidate  # (M, A) twice
    anywhere = dialect.contested is Contested.ANY_OVERLAP
    matrices = values.scatter_pairs(
        pairs, overlap_mask(candidate, dialect), dialect.signed_overlap
    )  # (8, M, A)
    rivals_overlap = None
    if anywhere:
        low, high = matrices[0] - matrices[1], matrices[0] + matrices[1]  # (M, A) twice
        rivals_overlap = Range(low if dialect.signed_overlap else low.clamp(min=0), high)
        matrices = matrices.where(compared, 0)
    u, u_error, t, t_error, least_u, most_u, least_t, most_t = matrices.unbind()  # (M, A) each
    if dialect.metric_masked:
        t, t_error, least_t, most_t = (
            *(value.where(may_candidate, 0) for value in (t, t_error)),
            *(least_t.where(candidate, 0), most_t.where(may_candidate, 0)),
        )
    overlap_range, metric_range = Range(least_u, most_u), Range(least_t, most_t)
    selection = pick_choices(
        metric_range, candidate, may_candidate, counting(large, dialect), numbers.topk, dialect
    )

    overlap, metric = (
        scatter_pairs(value, pairs, compared) for value in (values.naive_overlap, values.naive_metric)
    )
    naive_candidate = geometry.candidates_of(small, inputs.anchors, floor)  # (M, A)
    if dialect.is_varied:
        naive_candidate = candidate | (may_candidate & naive_candidate)
        everywhere, overlap, metric = overlap, overlap * compared, metric * compared
        if dialect.metric_masked:
            metric = metric * naive_candidate
        selected = picks(metric, naive_candidate, counting(small, dialect), numbers.topk, dialect)
        own = overlap * overlap_mask(naive_candidate, dialect)
        positives = settle_contested(selected, rank(selected, own, everywhere, metric, dialect))
    else:
        selected = top_k(metric * naive_candidate, numbers.topk) & naive_candidate
        positives = settle_contested(selected, overlap * overlap_mask(naive_candidate, dialect))
    topk2_rule = None
    if numbers.effective_topk2 is not None:
        topk2_rule = TopK2Rule(metric_range, numbers.effective_topk2)
        positives = positives & top_k(metric * positives, numbers.effective_topk2)
    same_dtype = {"overlap": overlap, "metric": metric, "positives": positives}
    ranges = overlap_range if rivals_overlap is None else rivals_overlap
    return ImageOracle(
        candidate, may_candidate, u, u_error, t, t_error, overlap_range, metric_range, selection,
        may_win(selection, ranges, metric_range, dialect), same_dtype, numbers.topk, topk2_rule,
        dialect.overlaps_compared is OverlapsCompared.EVERYWHERE,
        floor, dialect, rivals_overlap, geometry.of_image(found.image),
    )  # fmt: skip
