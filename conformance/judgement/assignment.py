"""Judging an assignment: each stage on what the implementation itself had before it.

An implementation that shows its stages is judged on each stage's own ambiguity, every stage from the implementation's
own values of the stage before. One that shows only its outputs is judged on those: some admissible selection must lead
to them, and every weight must follow from them. M ground truths, A anchors, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.implementations import AssignerInputs, Assignment
from conformance.judgement.bounds import ROUNDINGS, bound, ciou_unit, metric_unit, precision, smallest
from conformance.judgement.choices import (
    Keeps,
    Owners,
    Range,
    Selection,
    is_reachable,
    may_own,
    top_k_choices,
)
from conformance.judgement.comparators import equal, finite, holds, within
from conformance.judgement.verdicts import STAGES, Agreement, Judgement, Mismatch, Uniqueness, Value
from reference import Dialect, GroundTruths, OverlapsCompared
from reference.assignment import (
    INSIDE,
    NORMALISATION_EPS,
    alignment_metric,
    candidates_of,
    distance_inside,
    normalised,
    overlaps_of,
    pairs_compared,
    settle_contested,
    top_k,
    widened,
)

PAIR = ("GT", "anchor")


@dataclass(frozen=True)
class InputErrors:
    """How far what the implementation read may lie from what we say it read; zero where it was shown to us.

    Attributes:
        boxes: (A,) pixels by which a predicted edge may differ.
        scores: (A, C) by which a score may differ.
        truths: (M, 4) pixels by which a ground truth's edge may differ.
    """

    boxes: Tensor
    scores: Tensor
    truths: Tensor


@dataclass(frozen=True)
class ImageOracle:
    """What the specification says of one image, with the rounding of its dtype.

    Attributes:
        candidate: (M, A) surely a candidate; may_candidate: surely or perhaps.
        overlap, overlap_error: (M, A) u in float64 and its bound; zero off may_candidate.
        metric, metric_error: (M, A) t likewise.
        overlap_range, metric_range: what u and t can be, given that a doubtful candidate may be none.
        selection: the admissible top-k.
        owners: (M, A) who may own a contested anchor.
        naive: the overlap, metric and positives that the reference finds in the batch's dtype.
        k: places that each ground truth takes.
        keeps: what it keeps of them, where TAL-CONF-2 applies.
        everywhere: u and t are compared off candidates too (TAL-CONF-1 of the oldest releases).
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
    naive: dict[str, Tensor]
    k: int
    keeps: Keeps | None
    everywhere: bool = False

    @property
    def uniqueness(self) -> Uniqueness:
        """Whether the specification leaves a choice here, and why."""
        open_places = self.selection.may & ~self.selection.must  # (M, A)
        doubtful = self.may_candidate & ~self.candidate
        rivals = self.selection.may.sum(0) > 1  # (A,) may be contested
        open_owners = rivals & (self.owners.sum(0) > 1)  # (A,)
        settled = not (open_places.any() or doubtful.any() or open_owners.any())
        if settled and not self.leaves_open_what_is_kept(self.metric_range):
            return Uniqueness.UNIQUE
        exact = Range.exact(self.metric)
        ties = top_k_choices(exact, self.candidate, self.candidate, self.k)
        tied_owner = (self.overlap == self.overlap.amax(0)).sum(0) > 1  # (A,)
        if (ties.may & ~ties.must).any() or (open_owners & tied_owner).any():
            return Uniqueness.TIE
        return Uniqueness.TIE if settled and self.leaves_open_what_is_kept(exact) else Uniqueness.NEAR_TIE

    def leaves_open_what_is_kept(self, metric: Range) -> bool:
        """T3: whether TAL-CONF-2 leaves a choice, where the stages before it leave none."""
        if self.keeps is None:
            return False
        taken = self.selection.must  # (M, A)
        own = torch.where(taken.sum(0) > 1, self.owners, taken)  # (M, A)
        choices = top_k_choices(Range(metric.low * own, metric.high * own), own, own, self.keeps.k)
        return bool((choices.may & ~choices.must).any())


def edge_rounding(truths: GroundTruths, floor: tuple[int, int], exact: GroundTruths, eps: float) -> Tensor:
    """TAL-CAND-2: error (M, 1) in pixels of a box's edges after widening about its centre; zero where nothing rounds.

    Centre and sides are sums and differences of edges. Where those, and the widened edges, are the same numbers in the
    implementation's dtype as in float64, every way to compute them is exact, and the border is sharp.
    """
    small, large = truths.boxes, exact.boxes
    pairs = (
        (small[:, :2] + small[:, 2:], large[:, :2] + large[:, 2:]),
        (small[:, 2:] - small[:, :2], large[:, 2:] - large[:, :2]),
        (widened(small, floor), widened(large, floor)),
    )
    sharp = torch.stack([(ours.double() == theirs).all(1) for ours, theirs in pairs]).all(0)  # (M,)
    error = ROUNDINGS * eps * large.abs().amax(1)  # (M,)
    return error.where(~sharp, 0)[:, None]  # (M, 1)


def oracle(
    inputs: AssignerInputs, image: int, truths: int, dialect: Dialect, errors: InputErrors | None = None
) -> ImageOracle:
    """What the specification says of one image, from the numbers that the implementation's assigner read.

    Args:
        inputs: what the assigner read.
        image: index of the image.
        truths: its number of ground truths, without padding.
        dialect: whose choices to follow.
        errors: how uncertain the inputs are; None if they are the implementation's own.
    """
    numbers = inputs.hyperparameters
    dtype = precision(inputs.boxes.dtype, inputs.truth_boxes.dtype)  # of the overlap
    eps = torch.finfo(dtype).eps
    floor = dialect.floor(inputs.head.strides)
    small = GroundTruths(inputs.labels[image, :truths, 0].long(), inputs.truth_boxes[image, :truths])
    large = GroundTruths(small.labels, small.boxes.double())
    scores, boxes = inputs.scores[image].double(), inputs.boxes[image].double()  # (A, C), (A, 4)
    centres = inputs.anchors.double()  # (A, 2)

    edge = edge_rounding(small, floor, large, eps)  # (M, 1)
    if errors is not None:
        edge = edge + 2 * errors.truths.amax(1, keepdim=True)
    inside = distance_inside(large.boxes, centres, floor)  # (M, A)
    real = large.real[:, None]
    candidate = (inside > INSIDE + edge) & real  # (M, A)
    may_candidate = (inside > INSIDE - edge) & real  # (M, A)

    compared = pairs_compared(may_candidate, dialect)  # (M, A) where u and t are not zero
    score = scores.T[large.labels].where(compared, 0)  # (M, A)
    score_error = (
        torch.zeros_like(score) if errors is None else errors.scores.T[large.labels].where(compared, 0)
    )
    overlap = overlaps_of(large.boxes, boxes, compared)  # (M, A)
    naive_candidate = candidates_of(small, inputs.anchors, floor)  # (M, A)
    naive_overlap = overlaps_of(small.boxes, inputs.boxes[image], compared)  # (M, A)
    naive_score = inputs.scores[image].T[small.labels].where(compared, 0)  # (M, A)
    naive_metric = alignment_metric(naive_score, naive_overlap, numbers)  # (M, A)

    moved: Tensor | float = 0.0 if errors is None else errors.boxes + errors.truths.amax(1, keepdim=True)
    unit = ciou_unit(large.boxes[:, None], boxes, moved, eps)  # (M, A)
    overlap_error = bound(naive_overlap, overlap, unit, dtype, "overlap u").where(compared, 0)
    metric = alignment_metric(score, overlap, numbers)  # (M, A)
    coarse = precision(inputs.scores.dtype, dtype)  # of the metric
    coarse_eps = torch.finfo(coarse).eps
    rounding = metric_unit(
        score + score_error, overlap + overlap_error, numbers.alpha, numbers.beta, coarse_eps
    )
    rounding = bound(naive_metric, metric, rounding, coarse, "metric t").where(compared, 0)
    low = alignment_metric(
        (score - score_error).clamp(min=0), (overlap - overlap_error).clamp(min=0), numbers
    )
    high = alignment_metric(score + score_error, overlap + overlap_error, numbers)
    metric_error = torch.maximum(high - metric, metric - low) + rounding  # (M, A)

    shown = pairs_compared(candidate, dialect).to(metric.dtype)  # (M, A) surely not zero
    overlap_range = Range((overlap - overlap_error).clamp(min=0) * shown, overlap + overlap_error)
    metric_range = Range((low - rounding).clamp(min=0) * shown, high + rounding)
    rivals = Range(metric_range.low * candidate, metric_range.high * may_candidate)
    selection = top_k_choices(rivals, candidate, may_candidate, numbers.topk)
    selected = top_k(naive_metric * naive_candidate, numbers.topk) & naive_candidate
    positives = settle_contested(selected, naive_overlap * pairs_compared(naive_candidate, dialect))
    keeps = None
    if numbers.kept is not None:
        keeps = Keeps(metric_range, numbers.kept)
        positives = positives & top_k(naive_metric * positives, numbers.kept)
    naive = {"overlap": naive_overlap, "metric": naive_metric, "positives": positives}
    return ImageOracle(
        candidate, may_candidate, overlap, overlap_error, metric, metric_error,
        overlap_range, metric_range, selection, may_own(overlap_range), naive, numbers.topk, keeps,
        dialect.overlaps_compared is OverlapsCompared.EVERYWHERE,
    )  # fmt: skip


def judge_assignment(
    judgement: Judgement,
    assignment: Assignment,
    inputs: AssignerInputs,
    counts: list[int],
    dialect: Dialect,
    errors: list[InputErrors] | None = None,
) -> None:
    """Judge the stages "candidates" to "normalisation" of every image, into `judgement`.

    Args:
        judgement: takes the result.
        assignment: what the assigner returned.
        inputs: what it read.
        counts: ground truths of each image, without padding.
        dialect: what it is held to.
        errors: uncertainty of the inputs, an image each; None if they are the implementation's own.
    """
    if not _all_finite(judgement, assignment):
        return
    for image, truths in enumerate(counts):
        judge_padding(judgement, assignment, image, truths)
        if not truths:
            judge_background(judgement, assignment, image)
            continue
        expected = oracle(inputs, image, truths, dialect, errors[image] if errors else None)
        judgement.uniqueness = _less_unique(judgement.uniqueness, expected.uniqueness)
        truth_error = errors[image].truths if errors else None
        judged = ImageJudge(judgement, assignment, inputs, image, truths, expected, truth_error)
        if assignment.stages is not None:
            judged.shown_stages()
        else:
            judged.outputs_alone()


def _all_finite(judgement: Judgement, assignment: Assignment) -> bool:
    """Note every shown number that is none (NaN, infinity) at its stage, before anything is computed from it."""
    stages = assignment.stages
    shown = [
        ("targets", "target box", "TAL-TGT-1", assignment.boxes.where(assignment.foreground[..., None], 0))
    ]
    shown.append(("normalisation", "target score w", "TAL-NORM-1", assignment.scores))
    if stages is not None:
        shown.append(("overlap", "overlap u", "TAL-MET-1", stages.overlap))
        shown.append(("metric", "metric t", "TAL-MET-1", stages.metric))
    before = {name for name, stage in judgement.stages.items() if stage.mismatch}
    for stage, quantity, clause, value in shown:
        names = ("image", "anchor", "column") if stage in ("targets", "normalisation") else ("image", *PAIR)
        _note(judgement, stage, finite, quantity, clause, value, names)
    return before == {name for name, stage in judgement.stages.items() if stage.mismatch}


def judge_padding(judgement: Judgement, assignment: Assignment, image: int, truths: int) -> None:
    """ANN-4: no padding row is a candidate, selected or owner; no number of it is anything but zero."""
    stages = assignment.stages
    if stages is None:
        return
    for stage, name in (
        ("candidates", "candidates"),
        ("overlap", "overlap"),
        ("metric", "metric"),
        ("top-k", "selected"),
        ("conflict", "positives"),
    ):
        rows = getattr(stages, name)[image, truths:]
        _note(judgement, stage, holds, f"{name} of a padding row", "ANN-4", rows != 0, rows, "0", PAIR, image)


def judge_background(judgement: Judgement, assignment: Assignment, image: int) -> None:
    """TAL-EMPTY-1 and TAL-TGT-1 for an image without ground truths: all background, all target scores zero."""
    foreground, scores = assignment.foreground[image], assignment.scores[image]
    _note(
        judgement, "targets", holds, "foreground", "TAL-EMPTY-1", foreground, foreground, "False", ("anchor",), image,
        "an image without ground truths has a positive",
    )  # fmt: skip
    names = ("anchor", "class")
    _note(
        judgement, "normalisation", holds, "target score", "TAL-EMPTY-1", scores != 0, scores, "0", names, image,
        "an image without ground truths has a target score",
    )  # fmt: skip


@dataclass(frozen=True)
class ImageJudge:
    """Judges one image with at least one ground truth.

    Attributes:
        judgement: takes the result.
        assignment, inputs: of the whole batch.
        image: index of the image.
        truths: M, its number of ground truths.
        oracle: what the specification says of it.
        truth_error: (M, 4) by which its ground truths' edges may differ from those in `inputs`; None: not at all.
    """

    judgement: Judgement
    assignment: Assignment
    inputs: AssignerInputs
    image: int
    truths: int
    oracle: ImageOracle
    truth_error: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest dtype that takes part in the assignment."""
        return precision(self.inputs.scores.dtype, self.inputs.boxes.dtype, self.assignment.scores.dtype)

    def shown_stages(self) -> None:
        """Judge every stage from the implementation's own values of the stage before."""
        assert self.assignment.stages is not None
        candidates, overlap, metric, selected, positives = (
            getattr(self.assignment.stages, name)[self.image, : self.truths]
            for name in ("candidates", "overlap", "metric", "selected", "positives")
        )
        self.note("candidates", self.check_candidates, candidates)
        self.note("overlap", self.check_overlap, overlap, candidates)
        self.note("metric", self.check_metric, metric, overlap, candidates)
        self.note("top-k", self.check_selected, selected, metric, candidates)
        self.note("conflict", self.check_positives, positives, selected, overlap, metric)
        self.note("targets", self.check_targets, positives)
        self.note("normalisation", self.check_weights, positives, metric, overlap)
        if not torch.equal(positives, self.oracle.naive["positives"]):
            self.judgement.chose = True

    def check_candidates(self, candidates: Tensor) -> Agreement:
        """TAL-CAND-1, TAL-CAND-2."""
        expected = self.oracle.candidate
        wrong = (candidates & ~self.oracle.may_candidate) | (~candidates & expected)
        clause = self.clause_of(wrong)
        return equal(
            "candidate", clause, candidates, torch.where(wrong, expected, candidates), PAIR, self.image
        )

    def clause_of(self, wrong: Tensor) -> str:
        """The clause that wrong candidates (M, A) are about: do they lie in ground truths that count, or small ones?"""
        boxes = self.inputs.truth_boxes[self.image, : self.truths].double()[wrong.any(1)]  # (.., 4)
        if len(boxes) and (boxes.sum(1) <= 0).all():
            return "ANN-3"
        strides = self.inputs.head.strides
        sides = boxes[:, 2:] - boxes[:, :2]  # (.., 2)
        small = (sides < strides[min(1, len(strides) - 1)]).any(1)  # (..,) some dialect widens it
        return "TAL-CAND-2" if small.all() else "TAL-CAND-1"

    def check_overlap(self, overlap: Tensor, candidates: Tensor) -> Agreement:
        """TAL-MET-1: u on the implementation's own candidates, zero elsewhere."""
        known = candidates & self.oracle.may_candidate  # others were a mismatch already
        if self.oracle.everywhere:
            candidates = known = torch.ones_like(candidates)
        expected = torch.where(candidates & ~known, overlap.double(), self.oracle.overlap * known)
        error = self.oracle.overlap_error * known
        naive = torch.where(candidates & ~known, overlap, self.oracle.naive["overlap"] * known)
        return within("overlap u", "TAL-MET-1", overlap, expected, error, naive, PAIR, self.image)

    def check_metric(self, metric: Tensor, overlap: Tensor, candidates: Tensor) -> Agreement:
        """TAL-MET-1: t of the implementation's own u; zero off its candidates."""
        numbers = self.inputs.hyperparameters
        if self.oracle.everywhere:
            candidates = torch.ones_like(candidates)
        labels = self.inputs.labels[self.image, : self.truths, 0].long()
        score = self.inputs.scores[self.image].T[labels].where(candidates, 0)  # (M, A)
        overlap = overlap.clamp(min=0).nan_to_num()  # a u that is none was a mismatch already
        exact = alignment_metric(score.double(), overlap.double(), numbers)
        naive = alignment_metric(score, overlap, numbers)
        dtype = precision(score.dtype, overlap.dtype)
        unit = metric_unit(
            score.double(), overlap.double(), numbers.alpha, numbers.beta, torch.finfo(dtype).eps
        )
        error = bound(naive, exact, unit, dtype, "metric t").where(candidates, 0)
        return within("metric t", "TAL-MET-1", metric, exact, error, naive, PAIR, self.image)

    def check_selected(self, selected: Tensor, metric: Tensor, candidates: Tensor) -> Agreement:
        """TAL-TOPK-1 on the implementation's own metric: only equal values leave a choice."""
        k = self.inputs.hyperparameters.topk
        rivals = Range.exact(metric.double().nan_to_num().where(candidates, 0))
        choices = top_k_choices(rivals, candidates, candidates, k)
        return check_selection(selected, choices, k, "TAL-TOPK-1", self.image)

    def check_positives(
        self, positives: Tensor, selected: Tensor, overlap: Tensor, metric: Tensor
    ) -> Agreement:
        """TAL-CONF-1 and TAL-CONF-2 on the implementation's own selection and overlap."""
        image, k = self.image, self.inputs.hyperparameters.kept
        contested = selected.sum(0) > 1  # (A,)
        largest = may_own(Range.exact(overlap.double().nan_to_num()))  # (M, A)
        allowed = torch.where(contested, largest, selected)  # (M, A)
        wrong = positives & ~allowed
        holds(
            "owner",
            "TAL-CONF-1",
            wrong,
            positives,
            "not the owner",
            PAIR,
            image,
            "an anchor has the wrong owner",
        )
        owners = positives.sum(0)  # (A,)
        holds(
            "owners",
            "TAL-CONF-1",
            owners > 1,
            owners,
            "1",
            ("anchor",),
            image,
            "an anchor has several owners",
        )
        if k is None:
            lost = selected.any(0) & (owners == 0)
            return holds(
                "owners",
                "TAL-CONF-1",
                lost,
                owners,
                "1",
                ("anchor",),
                image,
                "a selected anchor has no owner",
            )
        exact = Range.exact(metric.double().nan_to_num().clamp(min=0))
        counts = selected.sum(1)  # (M,)
        taken = Selection(selected, selected, counts, counts)
        shown = Owners(positives.any(0), positives.int().argmax(0))
        if is_reachable(taken, largest, shown, Keeps(exact, k)):
            return Agreement()
        first = torch.zeros_like(allowed).scatter(0, allowed.int().argmax(0, keepdim=True), True) & allowed
        before = torch.where(
            positives.any(0), positives, first
        )  # (M, A), owners that TAL-CONF-2 may have found
        value = Range.exact(exact.low * before)
        check_selection(positives, top_k_choices(value, before, before, k), k, "TAL-CONF-2", image)
        raise Mismatch(
            f"image {image}: nobody can have dropped these anchors", "TAL-CONF-2", self.counts(positives)
        )

    def check_targets(self, positives: Tensor) -> Agreement:
        """TAL-TGT-1: foreground, index, label and box follow from the positives; scores stand at the label alone."""
        at, image = ("anchor",), self.image
        foreground, index = positives.any(0), positives.int().argmax(0)  # (A,), (A,)
        shown = self.assignment
        equal("foreground", "TAL-TGT-1", shown.foreground[image], foreground, at, image)
        equal("GT index", "TAL-TGT-1", shown.truth_index[image], index, at, image, where=foreground)
        return self.check_labels_and_boxes(foreground, index)

    def check_labels_and_boxes(self, foreground: Tensor, index: Tensor) -> Agreement:
        """TAL-TGT-1: label and box are the owner's own; to the bit, where its ground truths are known."""
        at, image = ("anchor",), self.image
        labels = self.inputs.labels[image, : self.truths, 0].long()
        boxes = self.inputs.truth_boxes[image, : self.truths]
        equal(
            "label",
            "TAL-TGT-1",
            self.assignment.labels[image].long(),
            labels[index],
            at,
            image,
            where=foreground,
        )
        sides = ("anchor", "side")
        if self.truth_error is not None:
            shown = self.assignment.boxes[image].where(foreground[:, None], 0)
            expected = boxes[index].double().where(foreground[:, None], 0)
            return within(
                "target box",
                "TAL-TGT-1",
                shown,
                expected,
                self.truth_error[index],
                boxes[index],
                sides,
                image,
            )
        return equal(
            "target box",
            "TAL-TGT-1",
            self.assignment.boxes[image],
            boxes[index],
            sides,
            image,
            where=foreground,
        )

    def check_weights(self, positives: Tensor, metric: Tensor, overlap: Tensor) -> Agreement:
        """TAL-NORM-1 on the implementation's own metric, overlap and positives."""
        metric, overlap = metric.nan_to_num(), overlap.nan_to_num()
        exact = normalised(metric.double(), overlap.double(), positives)  # (A,)
        naive = normalised(metric, overlap, positives)
        dtype = precision(metric.dtype, self.assignment.scores.dtype)
        eps = torch.finfo(dtype).eps
        unit = (
            eps * 4 * exact + smallest(dtype) / NORMALISATION_EPS
        )  # t u* may underflow before it is divided
        return self.check_scores(exact, bound(naive, exact, unit, dtype, "target score w"), naive, positives)

    def check_scores(
        self, exact: Tensor, error: Tensor, naive: Tensor, positives: Tensor, clause: str = "TAL-NORM-1"
    ) -> Agreement:
        """TAL-TGT-1: the weight at the label of each positive; zero elsewhere."""
        observed = self.assignment.scores[self.image]  # (A, C)
        labels = self.inputs.labels[self.image, : self.truths, 0].long()[positives.int().argmax(0)]  # (A,)
        here = torch.zeros_like(observed, dtype=torch.bool).scatter(
            1, labels[:, None], positives.any(0)[:, None]
        )
        zero = torch.zeros_like(observed, dtype=torch.float64)
        names = ("anchor", "class")
        return within(
            "target score w", clause, observed, torch.where(here, exact[:, None], zero),
            torch.where(here, error[:, None], zero), torch.where(here, naive[:, None], 0), names, self.image,
        )  # fmt: skip

    def outputs_alone(self) -> None:
        """Judge foreground, owners, targets and weights where nothing else is shown."""
        image = self.image
        foreground, index = self.assignment.foreground[image], self.assignment.truth_index[image].long()
        outside = foreground & ((index < 0) | (index >= self.truths))
        if outside.any():
            problem = "a positive's GT index is none of its image's"
            _note(
                self.judgement, "targets", holds, "GT index", "TAL-TGT-1", outside, index,
                f"0 to {self.truths - 1}", ("anchor",), image, problem,
            )  # fmt: skip
            return
        owners = Owners(foreground, index.where(foreground, 0))
        positives = owners.positives(self.truths)  # (M, A)
        stage, mismatch = self.diagnose(owners, positives)
        if mismatch is not None:
            self.judgement.stages[stage].fail(mismatch)
        else:
            for quiet in ("candidates", "top-k", "conflict"):
                self.judgement.stages[quiet].add(Agreement())
            if not torch.equal(positives, self.oracle.naive["positives"]):
                self.judgement.chose = True
        self.note("targets", self.check_labels_and_boxes, foreground, owners.index)
        stage = self.weights_stage(positives)
        self.note(stage, self.check_replayed_weights, positives, STAGES[stage])

    def diagnose(self, owners: Owners, positives: Tensor) -> tuple[str, Mismatch | None]:
        """The first stage that explains why no admissible selection leads to these owners; none if one does."""
        expected = self.oracle
        rivals = expected.selection.may.sum(0) > 1  # (A,) may be contested
        winnable = expected.owners & rivals  # (M, A) may be won without being selected
        never = positives & ~expected.may_candidate & ~winnable
        if never.any() and (never <= rivals).all():
            problem = "a contested anchor went to a ground truth that does not hold it"
            return "conflict", self.wrong(never, positives, "TAL-CONF-1", "False: another owner", problem)
        if never.any():
            clause, problem = self.clause_of(never), "a positive is no candidate"
            return "candidates", self.wrong(never, positives, clause, "False: no candidate", problem)
        if self.reachable(owners):
            return "", None
        if not self.shares_follow_metric(positives):
            claim = "target scores of a ground truth's positives are not in the ratio of t = s^alpha u^beta"
            return self.weights_stage(positives), Mismatch(f"image {self.image}: the {claim}", "TAL-MET-1")
        dropped = self.dropped(positives)  # (A,)
        if dropped is None:
            claim = "a ground truth keeps more anchors than it may"
            return "conflict", Mismatch(f"image {self.image}: {claim}", "TAL-CONF-2", self.counts(positives))
        return self.wrong_selection(owners, positives, dropped, winnable)

    def wrong_selection(
        self, owners: Owners, positives: Tensor, dropped: Tensor, winnable: Tensor
    ) -> tuple[str, Mismatch]:
        """Which anchors should have been taken, left or won otherwise.

        Args:
            owners: the observed assignment.
            positives: the same as (M, A).
            dropped: (A,) anchors that TAL-CONF-2 may have made background.
            winnable: (M, A) anchors that may be won without being selected.
        """
        expected = self.oracle
        lost = expected.selection.must & ~owners.foreground & ~dropped  # (M, A)
        few = expected.may_candidate.sum(1, keepdim=True) <= self.inputs.hyperparameters.topk  # (M, 1)
        if (lost & few).any() and self.best_follows_overlap(positives).all():
            clause, problem = self.clause_of(lost & few), "a candidate is left out of no more than k"
            return "candidates", self.wrong(lost & few, positives, clause, "True: a candidate", problem)
        if lost.any():
            problem = "an anchor among the k best is background"
            return "top-k", self.wrong(lost, positives, "TAL-TOPK-1", "True: among the k best", problem)
        extra = positives & ~expected.selection.may & ~winnable
        if extra.any():
            problem = "a positive is not among the k best"
            return "top-k", self.wrong(extra, positives, "TAL-TOPK-1", "False: background", problem)
        stolen = positives & (expected.selection.must.sum(0) > 1) & ~expected.owners
        if stolen.any():
            problem = "a contested anchor has the wrong owner"
            return "conflict", self.wrong(stolen, positives, "TAL-CONF-1", "False: another owner", problem)
        claim = f"image {self.image}: no selection of k anchors a ground truth leads to these owners"
        if expected.keeps is not None:
            return "conflict", Mismatch(claim, "TAL-CONF-2", self.counts(positives))
        return "top-k", Mismatch(claim, "TAL-TOPK-1", self.counts(positives))

    def dropped(self, positives: Tensor) -> Tensor | None:
        """TAL-CONF-2: background (A,) that somebody may have owned and dropped; None: not so many may be kept."""
        if self.oracle.keeps is None:
            return torch.zeros_like(positives[0])
        droppable = self.oracle.keeps.droppable(positives)  # (M, A)
        return None if droppable is None else (droppable & self.oracle.may_candidate).any(0)

    def reachable(self, owners: Owners) -> bool:
        """Whether these owners are admissible, TAL-CONF-2 included."""
        return is_reachable(self.oracle.selection, self.oracle.owners, owners, self.oracle.keeps)

    def wrong(self, where: Tensor, observed: Tensor, clause: str, expected: str, problem: str) -> Mismatch:
        """The mismatch of `holds`, as a value."""
        try:
            holds("positive", clause, where, observed, expected, PAIR, self.image, problem)
        except Mismatch as mismatch:
            return mismatch
        raise AssertionError("nothing is wrong")

    def counts(self, positives: Tensor) -> list[Value]:
        """How many positives each ground truth has, for a message."""
        fewest, most = self.oracle.selection.fewest.tolist(), self.oracle.selection.most.tolist()
        return [
            Value(
                f"image {self.image}, GT {g}",
                "positives",
                f"{fewest[g]} to {most[g]} selected",
                str(n),
                "none",
            )
            for g, n in enumerate(positives.sum(1).tolist())
        ]

    def implied(self, positives: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Observed weight of each positive, t, and their largest a ground truth: (M, A) twice, (M, 1) twice."""
        weight = self.assignment.scores[self.image].sum(1).double() * positives  # (M, A)
        metric = self.oracle.metric * positives  # (M, A)
        return weight, metric, weight.amax(1, keepdim=True), metric.amax(1, keepdim=True)

    def shares_follow_metric(self, positives: Tensor) -> bool:
        """TAL-MET-1 by TAL-NORM-1: weights of one ground truth's positives are in the ratio of their t.

        Anchors that another ground truth may want too are left out: there the conflict may be what is wrong.
        """
        positives = positives & (self.oracle.selection.may.sum(0) <= 1)
        weight, metric, best_weight, best_metric = self.implied(positives)
        eps = torch.finfo(self.dtype).eps
        scale = 1 / (best_metric + NORMALISATION_EPS)  # (M, 1)
        metric_error = self.oracle.metric_error * positives
        error = (metric_error + metric * scale * metric_error.amax(1, keepdim=True)) * scale * best_weight
        tiny = smallest(self.dtype) / NORMALISATION_EPS
        off = (weight * best_metric - metric * best_weight).abs() * scale
        return bool((off <= 2 * error + ROUNDINGS * (8 * eps * weight + tiny)).all())

    def best_follows_overlap(self, positives: Tensor) -> Tensor:
        """TAL-NORM-1, TAL-MET-1: (M,) whether the best weight is the best overlap times t*/(t* + eps)."""
        _, _, best_weight, best_metric = self.implied(positives)
        overlap, error = self.oracle.overlap * positives, self.oracle.overlap_error * positives
        scale = best_metric / (best_metric + NORMALISATION_EPS)
        expected = overlap.amax(1, keepdim=True) * scale
        slack = error.amax(1, keepdim=True) + ROUNDINGS * 8 * torch.finfo(self.dtype).eps
        slack = slack + (self.oracle.metric_error * positives).amax(1, keepdim=True) / (
            best_metric + NORMALISATION_EPS
        )
        wanted = self.oracle.selection.may & positives.any(0)  # (M, A)
        fought_for = (wanted & (wanted.sum(0) > 1)).any(1)  # (M,) its best may have been lost, or won
        follows = ((best_weight - expected).abs() <= slack)[:, 0]  # (M,)
        return follows | fought_for | ~positives.any(1)

    def weights_stage(self, positives: Tensor) -> str:
        """Which stage explains weights that are wrong, where only outputs are shown.

        A wrong u is seen in the shares and in the best weight, a wrong t in the shares alone. A best weight that is
        wrong while the shares are right has its fault in the normalisation; of one positive there are no shares.
        """
        best = self.best_follows_overlap(positives)  # (M,)
        if not self.shares_follow_metric(positives):
            return "metric" if best.all() else "overlap"
        shared = (self.oracle.metric * positives > 0).sum(1) > 1  # (M,)
        return "overlap" if (~best & ~shared).any() else "normalisation"

    def check_replayed_weights(self, positives: Tensor, clause: str) -> Agreement:
        """TAL-NORM-1 on the implementation's own positives, with what u and t should have been."""
        shown = self.oracle
        metric, overlap = shown.metric * positives, shown.overlap * positives  # (M, A) twice
        metric_error, overlap_error = shown.metric_error * positives, shown.overlap_error * positives
        best = metric.amax(1, keepdim=True) + NORMALISATION_EPS  # (M, 1)
        best_overlap = overlap.amax(1, keepdim=True)  # (M, 1)
        best_error, best_overlap_error = (
            metric_error.amax(1, keepdim=True),
            overlap_error.amax(1, keepdim=True),
        )
        exact = normalised(metric, overlap, positives)  # (A,)
        moved = (
            metric_error * best_overlap
            + metric * best_overlap_error
            + metric * best_overlap * best_error / best
        )
        low = (best - best_error).clamp(min=NORMALISATION_EPS)
        dtype = self.dtype
        naive = normalised(shown.naive["metric"], shown.naive["overlap"], positives)
        rounding = 4 * torch.finfo(dtype).eps * exact + smallest(dtype) / NORMALISATION_EPS
        error = bound(naive, exact, rounding, dtype, "target score w") + (moved / low).sum(0)
        return self.check_scores(exact, error, naive, positives, clause)

    def note(self, stage: str, check: object, *arguments: object) -> None:
        """Run a check and note what it says."""
        _note(self.judgement, stage, check, *arguments)


def check_selection(selected: Tensor, choices: Selection, k: int, clause: str, image: int) -> Agreement:
    """A selection is among the admissible ones: no more, no less, no fewer.

    Raises:
        Mismatch: it is not.
    """
    where = selected & ~choices.may
    holds(
        "selected",
        clause,
        where,
        selected,
        "not selected",
        PAIR,
        image,
        f"an anchor not among the {k} best is taken",
    )
    where = choices.must & ~selected
    holds(
        "selected",
        clause,
        where,
        selected,
        "selected",
        PAIR,
        image,
        f"an anchor among the {k} best is not taken",
    )
    counts = selected.sum(1)  # (M,)
    wrong = (counts < choices.fewest) | (counts > choices.most)
    expected = f"{choices.fewest.tolist()} to {choices.most.tolist()}"
    return holds(
        "selected anchors", clause, wrong, counts, expected, ("GT",), image, "the number of selected anchors"
    )


def _note(judgement: Judgement, stage: str, check: object, *arguments: object) -> None:
    assert callable(check)
    try:
        judgement.stages[stage].add(check(*arguments))
    except Mismatch as mismatch:
        judgement.stages[stage].fail(mismatch)


def _less_unique(one: Uniqueness, other: Uniqueness) -> Uniqueness:
    return max((one, other), key=[Uniqueness.UNIQUE, Uniqueness.NEAR_TIE, Uniqueness.TIE].index)
