"""Judging one image of an assigner that exposes its stages: each stage, given the previous stage's values."""

import torch
from torch import Tensor

from tal_conformance.core.outcome import STAGE_OF_FIELD
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Agreement, Mismatch
from tal_conformance.judgement.assignment.base import PAIR, ImageJudge
from tal_conformance.judgement.comparators import (
    Bounded,
    Quantity,
    assert_equal,
    assert_none,
    assert_within_at,
)
from tal_conformance.judgement.oracle.admissible import (
    Ownership,
    Range,
    Selection,
    TopK2Rule,
    is_reachable,
    top_k_choices,
)
from tal_conformance.judgement.oracle.choices import may_win, pick_choices
from tal_conformance.judgement.oracle.oracle import metric_bound
from tal_conformance.judgement.rounding.bounds import bound, smallest
from tal_reference import GroundTruths
from tal_reference.assignment import alignment_metric
from tal_reference.varied_assignment import counting


class StagesJudge(ImageJudge):
    """Judges the assignment of one image with at least one ground truth, stage by stage."""

    def judge(self) -> None:
        """Judge every stage, given the values that the implementation computed in the previous stage."""
        assert self.assignment.stages is not None
        candidates, overlap, metric, selected, positives = (
            getattr(self.assignment.stages, name)[self.image, : self.truths] for name in STAGE_OF_FIELD
        )
        self.judgement.note(StageName.CANDIDATES, self.check_candidates, candidates)
        self.judgement.note(StageName.OVERLAP, self.check_overlap, overlap, candidates)
        self.judgement.note(StageName.METRIC, self.check_metric, metric, overlap, candidates)
        self.judgement.note(StageName.TOP_K, self.check_selected, selected, metric, candidates)
        self.judgement.note(StageName.CONFLICT, self.check_positives, positives, selected, overlap, metric)
        self.judgement.note(StageName.TARGETS, self.check_targets, positives)
        self.judgement.note(StageName.NORMALISATION, self.check_weights, positives, metric, overlap)
        if not torch.equal(positives, self.oracle.same_dtype["positives"]):
            self.judgement.chose_differently = True

    def check_candidates(self, candidates: Tensor) -> Agreement:
        """Compare the implementation's candidates (M, A) with the admissible candidates (TAL-CAND-1, TAL-CAND-2)."""
        expected = self.oracle.candidate
        wrong = (candidates & ~self.oracle.may_candidate) | (~candidates & expected)
        clause = self.clause_of(wrong) if wrong.any() else self.judgement.task.clauses[StageName.CANDIDATES]
        expected = torch.where(wrong, expected, candidates)
        name = self.about_candidates("candidate", wrong) if wrong.any() else "candidate"
        return assert_equal(self.quantity(name, clause, *PAIR), candidates, expected)

    def check_overlap(self, overlap: Tensor, candidates: Tensor) -> Agreement:
        """Compare u of the implementation's candidates with the oracle's u; u must be zero elsewhere (TAL-MET-1)."""
        if self.oracle.everywhere:
            candidates = torch.ones_like(candidates)
        else:
            wrong = candidates & ~self.oracle.may_candidate  # already a mismatch of the stage "candidates"
            overlap, candidates = overlap.where(~wrong, 0), candidates & ~wrong
        pairs = candidates.nonzero(as_tuple=True)  # (P,), (P,)
        expected, error = self.oracle.overlap[pairs], self.oracle.overlap_error[pairs]
        same_dtype = self.oracle.same_dtype["overlap"][pairs]
        quantity = self.quantity("overlap u", self.judgement.task.clauses[StageName.OVERLAP], *PAIR)
        return assert_within_at(quantity, overlap, pairs, Bounded(expected, error, same_dtype))

    def check_metric(self, metric: Tensor, overlap: Tensor, candidates: Tensor) -> Agreement:
        """Compare the implementation's metric t with t computed from its own overlap; 0 off candidates (TAL-MET-1)."""
        numbers = self.inputs.hyperparameters
        if self.oracle.everywhere and not self.dialect.metric_masked:
            candidates = torch.ones_like(candidates)
        truth, anchor = pairs = candidates.nonzero(as_tuple=True)  # (P,), (P,)
        labels = self.inputs.labels[self.image, : self.truths, 0].long()
        score = self.inputs.scores[self.image, anchor, labels[truth]]  # (P,)
        overlap = overlap[pairs] if self.dialect.signed_overlap else overlap[pairs].clamp(min=0)  # (P,)
        exact = alignment_metric(score.double(), overlap.double(), numbers)
        same_dtype = alignment_metric(score, overlap, numbers)
        most = score.double(), overlap.double()
        error = metric_bound(score, overlap, exact, most, numbers, self.dtype, score.dtype)
        quantity = self.quantity("metric t", "TAL-MET-1", *PAIR)
        return assert_within_at(quantity, metric, pairs, Bounded(exact, error, same_dtype))

    def check_selected(self, selected: Tensor, metric: Tensor, candidates: Tensor) -> Agreement:
        """Compare the implementation's selection with the top k of its own metric, where ties are open (TAL-TOPK-1)."""
        k = self.inputs.hyperparameters.topk
        exact, boxes = metric.double(), self.inputs.truth_boxes[self.image, : self.truths]
        real = counting(
            GroundTruths(self.inputs.labels[self.image, : self.truths, 0].long(), boxes), self.dialect
        )
        if not self.dialect.at_least_one:
            exact = exact.where(candidates, 0)
        choices = pick_choices(Range.exact(exact), candidates, candidates, real, k, self.dialect)
        return check_selection(selected, choices, k, "TAL-TOPK-1", self.image)

    def check_positives(
        self, positives: Tensor, selected: Tensor, overlap: Tensor, metric: Tensor
    ) -> Agreement:
        """Compare the positives with the owners that exposed selection and overlap allow (TAL-CONF-1, TAL-CONF-2)."""
        image, k = self.image, self.inputs.hyperparameters.effective_topk2
        contested = selected.sum(0) > 1  # (A,)
        counts = selected.sum(1)  # (M,)
        taken = Selection(selected, selected, counts, counts)
        compared = self.oracle.rivals_overlap or Range.exact(overlap.double())
        largest = may_win(taken, compared, Range.exact(metric.double()), self.dialect)  # (M, A)
        allowed = torch.where(contested, largest, selected)  # (M, A)
        wrong = positives & ~allowed
        owner = self.quantity("owner", "TAL-CONF-1", *PAIR)
        assert_none(owner, wrong, positives, "not the owner", "an anchor has the wrong owner")
        owners, number = positives.sum(0), self.quantity("owners", "TAL-CONF-1", "anchor")  # (A,)
        assert_none(number, owners > 1, owners, "1", "an anchor has several owners")
        if k is None:
            lost = selected.any(0) & (owners == 0)
            return assert_none(number, lost, owners, "1", "a selected anchor has no owner")
        exact = Range.exact(metric.double().clamp(min=0))
        shown = Ownership(positives.any(0), positives.int().argmax(0))
        if is_reachable(taken, largest, shown, TopK2Rule(exact, k)):
            return Agreement()
        first = torch.zeros_like(allowed).scatter(0, allowed.int().argmax(0, keepdim=True), True) & allowed
        before = torch.where(positives.any(0), positives, first)  # (M, A) possible owners before TAL-CONF-2
        value = Range.exact(exact.low * before)
        check_selection(positives, top_k_choices(value, before, before, k), k, "TAL-CONF-2", image)
        raise Mismatch(
            f"image {image}: a background anchor was selected, and the second top-k cannot have dropped it",
            "TAL-CONF-2",
            self.counts(positives),
        )

    def check_targets(self, positives: Tensor) -> Agreement:
        """Compare foreground, index, label and box with the values that the positives determine (TAL-TGT-1)."""
        foreground, index = positives.any(0), positives.int().argmax(0)  # (A,), (A,)
        quantity = self.quantity("foreground", "TAL-TGT-1", "anchor")
        assert_equal(quantity, self.assignment.foreground[self.image], foreground)
        quantity = self.quantity("GT index", "TAL-TGT-1", "anchor")
        assert_equal(quantity, self.assignment.truth_index[self.image], index, where=foreground)
        return self.check_labels_and_boxes(foreground, index)

    def check_weights(self, positives: Tensor, metric: Tensor, overlap: Tensor) -> Agreement:
        """Compare the target scores with weights computed from the exposed metric, overlap, positives (TAL-NORM-1)."""
        exact = self.oracle.normalised(metric.double(), overlap.double(), positives)  # (A,)
        same_dtype = self.oracle.normalised(metric, overlap, positives)
        eps = torch.finfo(self.dtype).eps
        # t u* may underflow before it is divided
        unit = eps * 4 * exact + smallest(self.dtype) / self.dialect.norm_eps
        error = bound(same_dtype, exact, unit, self.dtype, "target score w")
        return self.check_scores(Bounded(exact, error, same_dtype), positives)


def check_selection(selected: Tensor, choices: Selection, k: int, clause: str, image: int) -> Agreement:
    """Assert that a selection (M, A) is admissible: only possible anchors, all forced ones, and the required number.

    Raises:
        Mismatch: the selection is not admissible.
    """
    quantity = Quantity("selected", clause, PAIR, image)
    wrong, problem = selected & ~choices.may, f"an anchor that is not among the {k} best is selected"
    assert_none(quantity, wrong, selected, "not selected", problem)
    wrong, problem = choices.must & ~selected, f"an anchor among the {k} best is not selected"
    assert_none(quantity, wrong, selected, "selected", problem)
    counts = selected.sum(1)  # (M,)
    wrong = (counts < choices.min_count) | (counts > choices.max_count)
    expected = f"{choices.min_count.tolist()} to {choices.max_count.tolist()}"
    quantity = Quantity("selected anchors", clause, ("GT",), image)
    return assert_none(quantity, wrong, counts, expected, "the number of selected anchors")
