"""Judging an image's assignment of which the implementation exposes only foreground, owners, targets and weights.

An admissible selection must lead to the owners. If no admissible selection does, the first stage whose fault explains
the outputs is inferred from the wrong anchors, and from the weights, which should follow from the expected metric and
overlap.
"""

import torch
from torch import Tensor

from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Agreement, Mismatch, Undecided
from tal_conformance.judgement.assignment.base import PAIR, ImageJudge
from tal_conformance.judgement.comparators import Bounded, assert_none
from tal_conformance.judgement.oracle.admissible import Ownership, is_reachable
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, bound, smallest
from tal_reference.assignment import NORMALISATION_EPS


class OutputsJudge(ImageJudge):
    """Judges the assignment of one image that has ground truths, from the assigner's outputs alone."""

    def judge(self) -> None:
        """Judge foreground, owners, targets and weights."""
        image = self.image
        foreground, index = self.assignment.foreground[image], self.assignment.truth_index[image].long()
        outside = foreground & ((index < 0) | (index >= self.truths))
        if outside.any():
            problem = "the GT index of a positive is not an index of a ground truth of its image"
            quantity, allowed = self.quantity("GT index", "TAL-TGT-1", "anchor"), f"0 to {self.truths - 1}"
            self.judgement.note(StageName.TARGETS, assert_none, quantity, outside, index, allowed, problem)
            return
        owners = Ownership(foreground, index.where(foreground, 0))
        positives = owners.positives(self.truths)  # (M, A)
        self.judge_owners(owners, positives)
        self.judgement.note(StageName.TARGETS, self.check_labels_and_boxes, foreground, owners.index)
        try:
            clauses = self.judgement.task.clauses
            agreement = self.check_replayed_weights(positives, clauses[StageName.NORMALISATION])
        except Mismatch:  # a weight under a wrong label does not make an earlier stage wrong
            mislabelled = self.judgement.stages[StageName.TARGETS].mismatch is not None
            stage = StageName.NORMALISATION if mislabelled else self.weights_stage(positives)
            self.judgement.note(stage, self.check_replayed_weights, positives, clauses[stage])
        else:
            self.judgement.stages[StageName.NORMALISATION].add(agreement)

    def judge_owners(self, owners: Ownership, positives: Tensor) -> None:
        """Judge the stages that lead to the owners: "candidates", "top-k" and "conflict"."""
        try:
            stage, mismatch = self.diagnose(owners, positives)
        except Undecided as undecided:
            self.judgement.leave_open(undecided.reason)
            return
        if mismatch is not None:
            self.judgement.stages[stage].fail(mismatch)
            return
        for quiet in (StageName.CANDIDATES, StageName.TOP_K, StageName.CONFLICT):
            self.judgement.stages[quiet].add(Agreement())
        if not torch.equal(positives, self.oracle.same_dtype["positives"]):
            self.judgement.chose_differently = True

    def diagnose(self, owners: Ownership, positives: Tensor) -> tuple[str, Mismatch | None]:
        """Return the first stage whose fault explains the owners, and its mismatch; "" and None if they are admissible.

        Raises:
            Undecided: the time limit was reached before the owners were found to be admissible or not.
        """
        expected = self.oracle
        rivals = expected.selection.may.sum(0) > 1  # (A,) possibly contested
        winnable = expected.owners & rivals  # (M, A) may be won without having been selected
        never = positives & ~(expected.may_candidate | expected.selection.may) & ~winnable
        if never.any() and (never <= rivals).all():
            problem = "a contested anchor went to a ground truth that does not contain it"
            return StageName.CONFLICT, self.wrong(
                never, positives, "TAL-CONF-1", "False: another owner", problem
            )
        if never.any():
            clause, problem = (
                self.clause_of(never),
                self.about_candidates("a positive is not a candidate", never),
            )
            return StageName.CANDIDATES, self.wrong(
                never, positives, clause, "False: not a candidate", problem
            )
        if self.reachable(owners):
            return "", None
        if not self.shares_follow_metric(positives):
            claim = "target scores of a ground truth's positives are not proportional to t = s^alpha u^beta"
            return self.weights_stage(positives), Mismatch(f"image {self.image}: {claim}", "TAL-MET-1")
        dropped = self.dropped(positives)  # (A,)
        if dropped is None:
            claim = "a ground truth keeps more anchors than topk2"
            return StageName.CONFLICT, Mismatch(
                f"image {self.image}: {claim}", "TAL-CONF-2", self.counts(positives)
            )
        return self.wrong_selection(owners, positives, dropped, winnable)

    def wrong_selection(
        self, owners: Ownership, positives: Tensor, dropped: Tensor, winnable: Tensor
    ) -> tuple[str, Mismatch]:
        """Return the stage and mismatch of anchors that were wrongly selected or omitted, or have a wrong owner.

        Args:
            owners: the observed assignment.
            positives: (M, A) bool, the same assignment as pairs.
            dropped: (A,) bool, anchors that the second top-k may have dropped (TAL-CONF-2).
            winnable: (M, A) bool, anchors that a ground truth may own without having selected them.
        """
        expected = self.oracle
        lost = expected.selection.must & ~owners.foreground & ~dropped  # (M, A)
        if lost.any():
            return self.lost_anchors(lost, positives)
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
        claim = f"image {self.image}: no selection of k anchors for each ground truth leads to the observed owners"
        if expected.topk2_rule is not None:
            return StageName.CONFLICT, Mismatch(claim, "TAL-CONF-2", self.counts(positives))
        return StageName.TOP_K, Mismatch(claim, "TAL-TOPK-1", self.counts(positives))

    def lost_anchors(self, lost: Tensor, positives: Tensor) -> tuple[str, Mismatch]:
        """Return the stage that best explains why the pairs `lost` (M, A) are not positives, and the mismatch.

        These pairs must be selected, but their anchors are background. A ground truth with at most k candidates selects
        all of them, so the fault is in the candidates or in the selection; only the positions and metrics of the lost
        pairs tell which.
        """
        contested = self.oracle.selection.may.sum(0) > 1  # (A,) perhaps
        few = self.oracle.may_candidate.sum(1, keepdim=True) <= self.inputs.hyperparameters.topk  # (M, 1)
        of_few = lost & few  # (M, A)
        if self.no_metric(lost, positives) and not (of_few <= self.on_edge).all():
            problem = "an anchor among the k best is background; its metric t is about 0, so it may not be a candidate"
            return StageName.TOP_K, self.wrong(
                lost, positives, "TAL-TOPK-1", "True: among the k best", problem
            )
        widened = of_few.any() and self.clause_of(of_few) != self.judgement.task.clauses[StageName.CANDIDATES]
        shared = bool((lost <= contested & ~self.on_edge).all()) and not self.are_last_picks(lost)
        if shared and not widened:
            problem = "an anchor that several ground truths select has no owner"
            return StageName.CONFLICT, self.wrong(lost, positives, "TAL-CONF-1", "True for one GT", problem)
        if of_few.any() and self.best_follows_overlap(positives).all():
            clause, problem = (
                self.clause_of(of_few),
                "a ground truth with at most k candidates does not select all",
            )
            problem = self.about_candidates(problem, of_few)
            return StageName.CANDIDATES, self.wrong(of_few, positives, clause, "True: a candidate", problem)
        problem = "an anchor among the k best is background"
        return StageName.TOP_K, self.wrong(lost, positives, "TAL-TOPK-1", "True: among the k best", problem)

    def no_metric(self, lost: Tensor, positives: Tensor) -> bool:
        """Return True if the metric t of all pairs `lost` (M, A) is below 1e-9, and below t of every positive.

        TAL-NORM-1 adds 1e-9 to the largest t before it divides by the sum.
        """
        most = (self.oracle.metric - self.oracle.metric_error)[lost].amax()  # ()
        least = (self.oracle.metric + self.oracle.metric_error)[positives]  # (P,)
        return bool(most <= NORMALISATION_EPS) and bool((least >= most).all())

    def are_last_picks(self, lost: Tensor) -> bool:
        """Return True if every pair of `lost` (M, A) may have the least t of the k best pairs of its ground truth.

        A selection of too few anchors loses such pairs, whether or not several ground truths select the anchors.
        """
        low, high = (self.oracle.metric + sign * self.oracle.metric_error for sign in (-1, 1))  # (M, A) twice
        others = self.oracle.selection.must & ~lost  # (M, A)
        least = high.masked_fill(~others, torch.inf).amin(1, keepdim=True)  # (M, 1)
        return bool(((low <= least) & others.any(1, keepdim=True))[lost].all())

    def dropped(self, positives: Tensor) -> Tensor | None:
        """Return the mask (A,) of background anchors that the second top-k may have dropped (TAL-CONF-2).

        The result is None if a ground truth has more than k positives, which is not admissible.
        """
        if self.oracle.topk2_rule is None:
            return torch.zeros_like(positives[0])
        may_be_dropped = self.oracle.topk2_rule.may_be_dropped(positives)  # (M, A)
        return None if may_be_dropped is None else (may_be_dropped & self.oracle.may_candidate).any(0)

    def reachable(self, owners: Ownership) -> bool:
        """Return True if the given owners are admissible; the second top-k (TAL-CONF-2) is taken into account."""
        return is_reachable(self.oracle.selection, self.oracle.owners, owners, self.oracle.topk2_rule)

    def wrong(self, where: Tensor, observed: Tensor, clause: str, expected: str, problem: str) -> Mismatch:
        """Return the mismatch that `assert_none` raises if the mask `where` of wrong anchors or pairs is given."""
        try:
            assert_none(self.quantity("positive", clause, *PAIR), where, observed, expected, problem)
        except Mismatch as mismatch:
            return mismatch
        raise AssertionError("expected at least one wrong anchor, got none")

    def implied(self, positives: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the weight and the expected t of positives, (M, A) each, then the largest of both per ground truth.

        The largest weight and the largest t of each ground truth have the shape (M, 1).
        """
        weight = self.observed_weights(positives).double() * positives  # (M, A)
        metric = self.oracle.metric * positives  # (M, A)
        return weight, metric, weight.amax(1, keepdim=True), metric.amax(1, keepdim=True)

    def shares_follow_metric(self, positives: Tensor) -> bool:
        """Return True if the weights of each ground truth's positives are proportional to t (TAL-MET-1, TAL-NORM-1).

        Anchors that a second ground truth may also select are omitted, because their owner may be wrong.
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
        """Return (M,) bool: True if the largest weight of the ground truth is u* t* / (t* + eps) (TAL-NORM-1).

        u* and t* are the ground truth's largest overlap and metric. Ground truths whose best anchor may belong to
        another ground truth count as True.
        """
        _, _, best_weight, best_metric = self.implied(positives)
        overlap, error = self.oracle.overlap * positives, self.oracle.overlap_error * positives
        scale = best_metric / (best_metric + NORMALISATION_EPS)
        expected = overlap.amax(1, keepdim=True) * scale
        slack = error.amax(1, keepdim=True) + ROUNDINGS * 8 * torch.finfo(self.dtype).eps
        slack = slack + (self.oracle.metric_error * positives).amax(1, keepdim=True) / (
            best_metric + NORMALISATION_EPS
        )
        wanted = self.oracle.selection.may & positives.any(0)  # (M, A)
        contested = (wanted & (wanted.sum(0) > 1)).any(1)  # (M,) its best anchor may have been lost, or won
        follows = ((best_weight - expected).abs() <= slack)[:, 0]  # (M,)
        return follows | contested | ~positives.any(1)

    def weights_stage(self, positives: Tensor) -> str:
        """Return the name of the stage whose fault explains wrong weights.

        A wrong u changes the ratio of the weights and the best weight; a wrong t changes the ratio, and the best weight
        only through t/(t + eps), which never raises it above u. A wrong best weight with right ratios means that the
        normalisation is wrong; but a single positive has no ratio, and the ratios of positives of equal t show nothing.
        """
        best = self.best_follows_overlap(positives)  # (M,)
        explained_by_metric = best | self.up_to_overlap(positives)  # (M,)
        if not self.shares_follow_metric(positives):
            return StageName.METRIC if explained_by_metric.all() else StageName.OVERLAP
        metric = self.oracle.metric.where(positives, torch.nan)  # (M, A)
        largest = metric.nan_to_num(nan=-torch.inf).amax(1)  # (M,)
        shared = largest > metric.nan_to_num(nan=torch.inf).amin(1)  # (M,)
        alone = positives.any(1) & ~shared  # (M,)
        if shared.any() and not (alone & ~best).any():
            return StageName.NORMALISATION
        return StageName.METRIC if explained_by_metric[alone].all() else StageName.OVERLAP

    def up_to_overlap(self, positives: Tensor) -> Tensor:
        """Return (M,) bool: True if the largest weight is at most the largest overlap, as for every t (TAL-NORM-1)."""
        best_weight = self.implied(positives)[2][:, 0]  # (M,)
        slack = (self.oracle.overlap_error * positives).amax(1) + ROUNDINGS * 8 * torch.finfo(self.dtype).eps
        return best_weight <= (self.oracle.overlap * positives).amax(1) + slack

    def check_replayed_weights(self, positives: Tensor, clause: str) -> Agreement:
        """Compare the target scores with weights computed from the expected u and t of the observed positives."""
        own = self.oracle.same_dtype
        same_dtype = self.oracle.normalised(own["metric"], own["overlap"], positives)
        exact, rounding, moved = self.oracle.weights(positives, self.dtype)
        error = bound(same_dtype, exact, rounding, self.dtype, "target score w") + moved
        return self.check_scores(Bounded(exact, error, same_dtype, moved), positives, clause)
