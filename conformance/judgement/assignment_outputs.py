"""Judging one image whose implementation shows its outputs alone: foreground, owners, targets and weights.

Some admissible selection must lead to the owners. Where none does, the first stage that explains it is told from what
is wrong: which anchors, and whether the weights follow the metric and the overlap that they should have been made of.
"""

import torch
from torch import Tensor

from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Agreement, Mismatch
from tal_conformance.judgement.admissible import Ownership, is_reachable
from tal_conformance.judgement.assignment_base import PAIR, ImageJudge
from tal_conformance.judgement.bounds import ROUNDINGS, bound, smallest
from tal_conformance.judgement.comparators import Bounded, assert_none
from tal_reference.assignment import NORMALISATION_EPS, normalised


class OutputsJudge(ImageJudge):
    """Judges one image with at least one ground truth, on its outputs."""

    def judge(self) -> None:
        """Judge foreground, owners, targets and weights where nothing else is shown."""
        image = self.image
        foreground, index = self.assignment.foreground[image], self.assignment.truth_index[image].long()
        outside = foreground & ((index < 0) | (index >= self.truths))
        if outside.any():
            problem = "a positive's GT index is none of its image's"
            quantity, allowed = self.quantity("GT index", "TAL-TGT-1", "anchor"), f"0 to {self.truths - 1}"
            self.judgement.note(StageName.TARGETS, assert_none, quantity, outside, index, allowed, problem)
            return
        owners = Ownership(foreground, index.where(foreground, 0))
        positives = owners.positives(self.truths)  # (M, A)
        stage, mismatch = self.diagnose(owners, positives)
        if mismatch is not None:
            self.judgement.stages[stage].fail(mismatch)
        else:
            for quiet in (StageName.CANDIDATES, StageName.TOP_K, StageName.CONFLICT):
                self.judgement.stages[quiet].add(Agreement())
            if not torch.equal(positives, self.oracle.same_dtype["positives"]):
                self.judgement.chose_differently = True
        self.judgement.note(StageName.TARGETS, self.check_labels_and_boxes, foreground, owners.index)
        try:
            clauses = self.judgement.task.clauses
            agreement = self.check_replayed_weights(positives, clauses[StageName.NORMALISATION])
        except Mismatch:  # where labels are wrong, weights stand under another class: nothing earlier is
            mislabelled = self.judgement.stages[StageName.TARGETS].mismatch is not None
            stage = StageName.NORMALISATION if mislabelled else self.weights_stage(positives)
            self.judgement.note(stage, self.check_replayed_weights, positives, clauses[stage])
        else:
            self.judgement.stages[StageName.NORMALISATION].add(agreement)

    def diagnose(self, owners: Ownership, positives: Tensor) -> tuple[str, Mismatch | None]:
        """The first stage that explains why no admissible selection leads to these owners; none if one does."""
        expected = self.oracle
        rivals = expected.selection.may.sum(0) > 1  # (A,) may be contested
        winnable = expected.owners & rivals  # (M, A) may be won without being selected
        never = positives & ~expected.may_candidate & ~winnable
        if never.any() and (never <= rivals).all():
            problem = "a contested anchor went to a ground truth that does not hold it"
            return StageName.CONFLICT, self.wrong(
                never, positives, "TAL-CONF-1", "False: another owner", problem
            )
        if never.any():
            clause, problem = self.clause_of(never), "a positive is no candidate"
            return StageName.CANDIDATES, self.wrong(never, positives, clause, "False: no candidate", problem)
        if self.reachable(owners):
            return "", None
        if not self.shares_follow_metric(positives):
            claim = "target scores of a ground truth's positives are not in the ratio of t = s^alpha u^beta"
            return self.weights_stage(positives), Mismatch(f"image {self.image}: the {claim}", "TAL-MET-1")
        dropped = self.dropped(positives)  # (A,)
        if dropped is None:
            claim = "a ground truth keeps more anchors than it may"
            return StageName.CONFLICT, Mismatch(
                f"image {self.image}: {claim}", "TAL-CONF-2", self.counts(positives)
            )
        return self.wrong_selection(owners, positives, dropped, winnable)

    def wrong_selection(
        self, owners: Ownership, positives: Tensor, dropped: Tensor, winnable: Tensor
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
            return StageName.CANDIDATES, self.wrong(
                lost & few, positives, clause, "True: a candidate", problem
            )
        if lost.any():
            problem = "an anchor among the k best is background"
            return StageName.TOP_K, self.wrong(
                lost, positives, "TAL-TOPK-1", "True: among the k best", problem
            )
        extra = positives & ~expected.selection.may & ~winnable
        stolen = positives & (expected.selection.must.sum(0) > 1) & ~expected.owners
        if (extra & ~stolen).any():
            problem = "a positive is not among the k best"
            return StageName.TOP_K, self.wrong(extra, positives, "TAL-TOPK-1", "False: background", problem)
        if stolen.any():
            problem = "a contested anchor has the wrong owner"
            return StageName.CONFLICT, self.wrong(
                stolen, positives, "TAL-CONF-1", "False: another owner", problem
            )
        claim = f"image {self.image}: no selection of k anchors a ground truth leads to these owners"
        if expected.keeps is not None:
            return StageName.CONFLICT, Mismatch(claim, "TAL-CONF-2", self.counts(positives))
        return StageName.TOP_K, Mismatch(claim, "TAL-TOPK-1", self.counts(positives))

    def dropped(self, positives: Tensor) -> Tensor | None:
        """TAL-CONF-2: background (A,) that somebody may have owned and dropped; None: not so many may be kept."""
        if self.oracle.keeps is None:
            return torch.zeros_like(positives[0])
        may_be_dropped = self.oracle.keeps.may_be_dropped(positives)  # (M, A)
        return None if may_be_dropped is None else (may_be_dropped & self.oracle.may_candidate).any(0)

    def reachable(self, owners: Ownership) -> bool:
        """Whether these owners are admissible, TAL-CONF-2 included."""
        return is_reachable(self.oracle.selection, self.oracle.owners, owners, self.oracle.keeps)

    def wrong(self, where: Tensor, observed: Tensor, clause: str, expected: str, problem: str) -> Mismatch:
        """The mismatch of `holds`, as a value."""
        try:
            assert_none(self.quantity("positive", clause, *PAIR), where, observed, expected, problem)
        except Mismatch as mismatch:
            return mismatch
        raise AssertionError("nothing is wrong")

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

        A wrong u is seen in the shares and in the best weight; a wrong t in the shares, and in the best weight only as
        far as t/(t + eps) goes: that is never above u. A best weight that is wrong while the shares are right has its
        fault in the normalisation; but one positive has no shares, and nor have several of the same t.
        """
        best = self.best_follows_overlap(positives)  # (M,)
        told_by_metric = best | self.up_to_overlap(positives)  # (M,)
        if not self.shares_follow_metric(positives):
            return StageName.METRIC if told_by_metric.all() else StageName.OVERLAP
        metric = self.oracle.metric.where(positives, torch.nan)  # (M, A)
        largest = metric.nan_to_num(nan=-torch.inf).amax(1)  # (M,)
        shared = largest > metric.nan_to_num(nan=torch.inf).amin(1)  # (M,)
        alone = positives.any(1) & ~shared  # (M,)
        if shared.any() and not (alone & ~best).any():
            return StageName.NORMALISATION
        return StageName.METRIC if told_by_metric[alone].all() else StageName.OVERLAP

    def up_to_overlap(self, positives: Tensor) -> Tensor:
        """TAL-NORM-1: (M,) whether the best weight is no more than the best overlap, as any t may make it."""
        best_weight = self.implied(positives)[2][:, 0]  # (M,)
        slack = (self.oracle.overlap_error * positives).amax(1) + ROUNDINGS * 8 * torch.finfo(self.dtype).eps
        return best_weight <= (self.oracle.overlap * positives).amax(1) + slack

    def check_replayed_weights(self, positives: Tensor, clause: str) -> Agreement:
        """TAL-NORM-1 on the implementation's own positives, with what u and t should have been."""
        same_dtype = normalised(
            self.oracle.same_dtype["metric"], self.oracle.same_dtype["overlap"], positives
        )
        exact, rounding, moved = self.oracle.weights(positives, self.dtype)
        error = bound(same_dtype, exact, rounding, self.dtype, "target score w") + moved
        return self.check_scores(Bounded(exact, error, same_dtype, moved), positives, clause)
