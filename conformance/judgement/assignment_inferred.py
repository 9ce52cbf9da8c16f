"""Judging a loss that does not expose its assignment, which is inferred from its gradients.

The gradient on a class logit is (sigma(x) - z) / N times gain and batch size (LOSS-CLS-1), which determines every
target score z; the gradient on the distance logits shows which anchors have a box, and whose box. The loss is judged as
if it had exposed the reference's own assignment. If that does not explain the loss, it is judged with the admissible
assignment of each image that fits the gradients best. So a loss only diverges if no admissible assignment explains it.

B images, A anchors, C classes, M ground truths of an image, R bins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Assignment, LossOutcome, Outcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement, Uniqueness, least_unique
from tal_conformance.judgement.admissible import Ownership, Selection, assignments
from tal_conformance.judgement.bounds import ROUNDINGS, bound
from tal_conformance.judgement.comparators import Quantity, assert_none
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.loss import judge_loss, judge_total
from tal_conformance.judgement.loss_rounding import AssignmentUncertainty
from tal_conformance.judgement.oracle import ImageOracle
from tal_reference import ClassLoss, GroundTruths, ScoreSum, Targets, WeightBroadcast
from tal_reference.anchors import Anchors, flatten
from tal_reference.assignment import alignment_metric, overlaps_of, targets_of
from tal_reference.composed import loss_items, total_factor
from tal_reference.loss import Positives, Predictions

MAX_CANDIDATES_TRIED = 128
"""Number of admissible assignments of an image that are tried; most images have one."""


@dataclass(frozen=True)
class GradientEvidence:
    """Properties of a loss's assignment that its gradients determine.

    Attributes:
        scores: (B, A, C) target scores z, float64; None if they cannot be computed from the gradients.
        learns: (B, A) the distance logits have a gradient: the anchor is certainly a positive.
        distances: (B, A, 4R) gradient on the distance logits, times N, without the batch size.
    """

    scores: Tensor | None
    learns: Tensor
    distances: Tensor


def judge_inferred_assignment(judgement: Judgement, outcome: Outcome, expected: Expectation) -> None:
    """Judge the stages "cls" to "gradients" of a loss that does not expose its assignment, into `judgement`.

    The reference's own assignment is tried first, then those that the gradients suggest, then any that is admissible.
    An image may admit more assignments than are tried. If none of those tried explains the loss, the judgement is
    inconclusive: only the requirements that hold for every assignment were judged.

    Args:
        judgement: takes the result.
        outcome: loss and gradients of the implementation; its inputs are the reference's.
        expected: of the same batch.
    """
    loss, batch, own = outcome.loss, expected.batch, expected.assignment
    assert loss is not None
    oracles = [
        expected.image(image, outcome.inputs, expected.input_errors[image]) if count else None
        for image, count in enumerate(expected.counts)
    ]
    uniqueness = (oracle.uniqueness for oracle in oracles if oracle is not None)
    judgement.uniqueness = least_unique(judgement.uniqueness, *uniqueness)
    judge_background_gradients(judgement, batch, loss, oracles)
    evidence = gradient_evidence(loss, expected)
    fits = {
        image: AssignmentFit(expected, image, oracle, evidence)
        for image, oracle in enumerate(oracles)
        if oracle is not None and oracle.uniqueness is not Uniqueness.UNIQUE
    }
    replay = ReplayedLoss(loss, expected, oracles)
    complete, chosen = True, list(own)
    judged = replay.judged(chosen)
    for among in (AssignmentFit.likely, AssignmentFit.admissible):
        if not fits or not judged.verdict.fails:
            break  # there is no other assignment, or this one explains the loss
        complete = True
        for fit in fits.values():
            chosen[fit.image], tried = fit.best(chosen[fit.image], among(fit))
            complete = complete and tried < MAX_CANDIDATES_TRIED
        judged = replay.judged(chosen)
    if judged.verdict.fails and not complete:
        judgement.inconclusive = True
        judge_total(judgement, expected, loss)
        return
    judgement.inconclusive = judged.inconclusive
    for name in judgement.task.stages_of("term", "total", "gradients"):
        judgement.stages[name].merge(judged.stages[name])
    judgement.chose_differently = any(
        not (torch.equal(a.foreground, b.foreground) and torch.equal(a.truth_index, b.truth_index))
        for a, b in zip(chosen, own, strict=True)
    )


def judge_background_gradients(
    judgement: Judgement, batch: Batch, loss: LossOutcome, oracles: list[ImageOracle | None]
) -> None:
    """Judge anchors that cannot be positives: they have no gradient on their distance logits (LOSS-GRAD-1)."""
    distances, _ = flatten(loss.gradients, batch.head)  # (B, A, 4R)
    for image, oracle in enumerate(oracles):
        never = torch.ones_like(distances[image, :, 0], dtype=torch.bool)  # (A,)
        if oracle is not None:
            never = ~oracle.selection.may.any(0)
        wrong = never[:, None] & (distances[image] != 0)  # (A, 4R), True for NaN
        quantity = Quantity("gradient on distance logits", "LOSS-GRAD-1", ("anchor", "channel"), image)
        problem = "an anchor that cannot be a positive has a gradient"
        judgement.note(StageName.GRADIENTS, assert_none, quantity, wrong, distances[image], "0", problem)


def gradient_evidence(loss: LossOutcome, expected: Expectation) -> GradientEvidence:
    """Return the assignment's properties: z = sigma(x) - N g, where g is the gradient on x over gain and batch size.

    With G the sum of all g and S that of all z, G = (sum of sigma - S) / N; so N = S = sum of sigma / (1 + G), or its
    floor where that is less (LOSS-SUM-1).
    """
    batch, dialect = expected.batch, expected.dialect
    distances, logits = flatten(loss.gradients, batch.head)  # (B, A, 4R), (B, A, C)
    learns = (distances != 0).any(-1)  # (B, A)
    factor = total_factor(batch.images, dialect)
    gain = batch.hyperparameters.cls_gain * factor
    if (
        not gain or dialect.class_loss is ClassLoss.POSITIVES
    ):  # then the background's gradient shows no target score
        return GradientEvidence(None, learns, distances.double() / factor)
    score = expected.rounded_predictions.logits.double().sigmoid()  # (B, A, C)
    gradient = logits.double() / gain  # (B, A, C)
    if dialect.class_loss is ClassLoss.MEAN:
        gradient = gradient * logits.numel()
    match dialect.score_sum:
        case ScoreSum.BATCH:
            score_sum = score.sum() / (1 + gradient.sum())
        case ScoreSum.PER_IMAGE:
            score_sum = score.sum() / (batch.images + gradient.sum())
        case ScoreSum.POSITIVES:
            score_sum = learns.sum().double()
    score_sum = score_sum.clamp(min=dialect.score_sum_floor)
    scores = score - gradient * score_sum
    before = distances.double() * score_sum / factor
    return GradientEvidence(scores if bool(torch.isfinite(scores).all()) else None, learns, before)


@dataclass(frozen=True)
class AssignmentFit:
    """Scores admissible assignments of one image by how well they reproduce its gradients.

    Attributes:
        expected: of the batch.
        image: index of the image.
        oracle: the admissible values and choices of the image.
        evidence: properties that the gradients of the batch determine.
    """

    expected: Expectation
    image: int
    oracle: ImageOracle
    evidence: GradientEvidence

    @property
    def truths(self) -> GroundTruths:
        """The image's ground truths, as target boxes."""
        return self.expected.target_truths[self.image]

    @property
    def learns(self) -> Tensor:
        """(A,) the distance logits have a gradient."""
        return self.evidence.learns[self.image]

    def best(self, so_far: Targets, candidates: Iterable[Ownership]) -> tuple[Targets, int]:
        """Return the best of `candidates` and `so_far`, which wins a tie, and the number of candidates."""
        best, least, tried = so_far, self.misfit(so_far), 0
        for owners in candidates:
            tried += 1
            targets = self.targets(owners)
            misfit = self.misfit(targets)
            if misfit < least:
                best, least = targets, misfit
        return best, tried

    def admissible(self) -> Iterator[Ownership]:
        """Yield up to `MAX_CANDIDATES_TRIED` admissible assignments."""
        return assignments(
            self.oracle.selection, self.oracle.owners, MAX_CANDIDATES_TRIED, self.oracle.topk2_rule
        )

    def likely(self) -> Iterator[Ownership]:
        """Yield up to `MAX_CANDIDATES_TRIED` admissible assignments that the gradients suggest.

        An anchor with a gradient is selected; if a single ground truth may select it, by that one. An anchor without a
        gradient is not selected if its metric is above zero. Anchors whose metric is zero have no weight anyway.
        """
        selection, learns = self.oracle.selection, self.learns  # (M, A), (A,)
        may = selection.may & learns
        must = selection.must | (may & (may.sum(0) == 1))
        may = may | must
        most = torch.minimum(selection.max_count, may.sum(1))
        min_count = torch.maximum(torch.minimum(selection.min_count, most), must.sum(1))
        if (min_count > most).any():
            return iter(())
        narrowed = Selection(must, may, min_count, most)
        return assignments(narrowed, self.oracle.owners, MAX_CANDIDATES_TRIED, self.oracle.topk2_rule)

    @cached_property
    def possible(self) -> Tensor:
        """(M, A) the pair is a positive in some admissible assignment, or in the reference's own."""
        may = self.oracle.selection.may  # (M, A)
        contested = may.sum(0) > 1  # (A,)
        reference = self.expected.assignment[self.image]
        own = Ownership(reference.foreground, reference.truth_index).positives(len(may))  # (M, A)
        return may | (self.oracle.owners & contested) | own

    @cached_property
    def measures(self) -> tuple[Tensor, Tensor]:
        """t and u of the possible pairs as the reference computes them, (M, A) each; zero elsewhere (TAL-MET-1)."""
        if self.expected.dialect.is_varied:
            return self.oracle.metric.where(self.possible, 0), self.oracle.overlap.where(self.possible, 0)
        predictions = self.expected.rounded_predictions
        boxes = predictions.boxes[self.image] * predictions.anchors.strides  # (A, 4)
        overlap = overlaps_of(self.truths.boxes, boxes.to(self.truths.boxes), self.possible)
        score = predictions.logits[self.image].sigmoid().T[self.truths.labels]
        return alignment_metric(score, overlap, self.expected.batch.hyperparameters), overlap

    @cached_property
    def pulls(self) -> tuple[Tensor, Tensor]:
        """Contribution of every possible pair to the gradient on its anchor's distance logits (LOSS-BOX-1, LOSS-DFL-1).

        They are given before division by N and for a target score of 1, in which both losses are linear, as if every
        pair had an anchor of its own. Pairs with a metric of zero have no target score and contribute nothing: nearly
        all pairs, if class scores are zero.

        Returns:
            (P, 4R) one row for each pair, and (M, A) the row of each pair; -1 for pairs without a row.
        """
        metric, _ = self.measures
        truth, anchor = pairs = (self.possible & (metric > 0)).nonzero(as_tuple=True)  # (P,), (P,)
        each, exact = torch.arange(len(truth), device=truth.device), self.expected.predictions
        distances = exact.distances[self.image, anchor][None].detach().requires_grad_()  # (1, P, 4R)
        anchors = Anchors(exact.anchors.centres[anchor], exact.anchors.strides[anchor])
        no_logits = distances.new_zeros(1, len(each), 1)
        alone = Predictions(distances, no_logits, anchors, exact.size)
        nowhere = torch.zeros_like(each)  # (P,) the first image and class
        boxes, weights = self.truths.boxes[truth].double(), distances.new_ones(len(each))
        targets = Positives(nowhere, each, nowhere, boxes, weights)
        numbers = self.expected.batch.head, self.expected.batch.hyperparameters
        own = replace(self.expected.dialect, weights_meet=WeightBroadcast.PER_POSITIVE)
        items = loss_items(alone, targets, *numbers, own)  # over N, which is P
        (gradient,) = torch.autograd.grad(items.sum() * len(each), distances)  # (1, P, 4R)
        row = torch.full_like(self.possible, -1, dtype=torch.int64).index_put_(pairs, each)  # (M, A)
        return gradient[0], row

    def targets(self, owners: Ownership) -> Targets:
        """Return the targets of the anchors for these owners (TAL-NORM-1, TAL-TGT-1)."""
        positives = owners.positives(len(self.truths))  # (M, A)
        return targets_of(self.truths, positives, self.oracle.normalised(*self.measures, positives))

    def misfit(self, targets: Targets) -> tuple[int, int, float]:
        """Return a measure of how badly targets fit the gradients, compared lexicographically; smaller is better.

        Returns:
            The number of anchors that have a gradient but are not positives; the largest difference of a target score,
            in multiples of its rounding, so that equal scores compare equal; and the residual.
        """
        learns = self.learns
        missing, residual = int((learns & ~targets.foreground).sum()), self.residual(targets)
        if self.evidence.scores is None:
            return missing, 0, residual
        scores = targets.scores(self.expected.batch.head.classes).double()  # (A, C)
        noise = 2 * ROUNDINGS * 3 * self.expected.eps
        difference = (scores - self.evidence.scores[self.image]).abs().max()
        return missing, int(difference / noise), residual

    def residual(self, targets: Targets) -> float:
        """Return the L1 distance of the gradients on the distance logits from those of these targets."""
        anchor = (targets.weights > 0).nonzero().flatten()  # (P,)
        pulls, row = self.pulls
        rows = row[targets.truth_index[anchor], anchor]  # (P,)
        assert (rows >= 0).all(), "the assignment has a pair that is not possible"
        weights = targets.weights[anchor, None].double()  # (P, 1)
        wanted = torch.zeros_like(self.evidence.distances[self.image])  # (A, 4R)
        wanted[anchor] = pulls[rows] * weights
        return float((wanted - self.evidence.distances[self.image]).abs().sum())


@dataclass(frozen=True)
class ReplayedLoss:
    """Judges a loss as if it had exposed an assignment.

    Attributes:
        loss: loss, items and gradients of the implementation.
        expected: of the batch.
        oracles: the admissible values and choices of each image; None for an image without ground truths.
    """

    loss: LossOutcome
    expected: Expectation
    oracles: list[ImageOracle | None]

    def judged(self, targets: list[Targets]) -> Judgement:
        """Return the judgement of the stages "cls" to "gradients" for this assignment, with weights in float64."""
        weights, moved, edges = (
            torch.stack(parts) for parts in zip(*map(self.weights, range(len(targets)), targets), strict=True)
        )  # (B, A) each
        labels = torch.stack([image.labels for image in targets])  # (B, A)
        scores = weights.new_zeros(*labels.shape, self.expected.batch.head.classes)
        assignment = Assignment(
            labels=labels,
            boxes=torch.stack([image.boxes for image in targets]),
            scores=scores.scatter(2, labels[..., None], weights[..., None]),
            foreground=torch.stack([image.foreground for image in targets]),
            truth_index=torch.stack([image.truth_index for image in targets]),
        )
        judgement = Judgement(self.expected.batch.family)
        unsure = AssignmentUncertainty(moved, edges)
        judge_loss(judgement, assignment, self.loss, self.expected, unsure)
        return judgement

    def weights(self, image: int, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights, their possible difference, and that of the target boxes' edges in pixels, (A,) each."""
        oracle = self.oracles[image]
        if oracle is None:
            none = targets.weights.double()
            return none, none, none
        owners = Ownership(targets.foreground, targets.truth_index)
        positives = owners.positives(len(oracle.candidate))  # (M, A)
        dtype = self.expected.dtype
        exact, unit, moved = oracle.weights(positives, dtype)
        same_dtype = oracle.normalised(oracle.same_dtype["metric"], oracle.same_dtype["overlap"], positives)
        error = bound(same_dtype, exact, unit, dtype, "target score w") + moved
        edges = (self.expected.input_errors[image].truths.amax(1)[:, None] * positives).sum(0)  # (A,)
        return exact, error * positives.any(0), edges
