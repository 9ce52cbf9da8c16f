"""Admissible assignments of one image, scored by how well they reproduce a loss's gradients.

The loss does not expose its assignment. A anchors, C classes, M ground truths of an image, R bins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.outcome import LossOutcome
from tal_conformance.core.verdicts import Undecided
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.oracle.admissible import Ownership, Selection, assignments, is_reachable
from tal_conformance.judgement.oracle.oracle import ImageOracle
from tal_conformance.judgement.rounding.bounds import ROUNDINGS
from tal_conformance.judgement.rounding.exact_loss import (
    DISTANCE_ITEMS_BY_TASK,
    at_anchors,
    class_factors_of,
    fields_of,
)
from tal_reference import ClassLoss, GroundTruths, ScoreSum, Targets, WeightBroadcast
from tal_reference.anchors import Anchors
from tal_reference.assignment import alignment_metric, targets_of
from tal_reference.composed import total_factor
from tal_reference.loss import Positives

MAX_CANDIDATES_TRIED = 128
"""Number of admissible assignments of an image that are tried; most images have one."""


@dataclass(frozen=True)
class GradientEvidence:
    """Properties of a loss's assignment that its gradients determine.

    Attributes:
        scores: (B, A, C) target scores z, float64; None if they cannot be computed from the gradients.
        learns: (B, A) the distance logits have a gradient: the anchor is certainly a positive.
        distances: (B, A, 4R) gradients on the distance logits, times the loss's divisor N over the batch size.
    """

    scores: Tensor | None
    learns: Tensor
    distances: Tensor


def gradient_evidence(loss: LossOutcome, expected: Expectation) -> GradientEvidence:
    """Return the properties of a loss's assignment that follow from the loss's gradients.

    A logit x has the target score z = sigma(x) - N g, where N is the loss's divisor, and g is the gradient on x over
    gain, batch size and the class's factor (COR-7). With G the sum of all g and S the sum of all z,
    G = (sum of sigma - S) / N. N is S, so that N = sum of sigma / (1 + G), or the floor of N if that is larger
    (LOSS-SUM-1).
    """
    batch, dialect = expected.batch, expected.dialect
    distances, logits, *_ = fields_of(loss.gradients, batch)  # (B, A, 4R), (B, A, C)
    learns = (distances != 0).any(-1)  # (B, A)
    factor = total_factor(batch.images, dialect)
    gain = batch.hyperparameters.cls_gain * factor * class_factors_of(batch, logits)  # (C,), or a scalar
    if not bool((gain > 0).all()) or dialect.class_loss not in (
        ClassLoss.SUM,
        ClassLoss.MEAN,
    ):  # then the gradients do not show target scores
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
    """Scores admissible assignments of one image by how well they reproduce the loss's gradients.

    Attributes:
        expected: expectation of the batch.
        image: index of the image.
        oracle: the admissible values and choices of the image.
        evidence: properties of the assignment that the gradients of the batch determine.
    """

    expected: Expectation
    image: int
    oracle: ImageOracle
    evidence: GradientEvidence

    @property
    def truths(self) -> GroundTruths:
        """The image's ground truths, with the boxes that positives learn."""
        return self.expected.target_truths[self.image]

    @property
    def learns(self) -> Tensor:
        """(A,) bool: True if the anchor's distance logits have a gradient, so that the anchor is a positive."""
        return self.evidence.learns[self.image]

    def best(self, so_far: Targets, candidates: Iterable[Ownership]) -> tuple[Targets, int]:
        """Return the assignment that fits the gradients best, and the number of `candidates`.

        The assignment is `so_far` unless one of `candidates` fits better.
        """
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

        An anchor with a gradient is selected; if only one ground truth may select it, then by this ground truth. An
        anchor without a gradient is not selected if its metric is above zero. Anchors whose metric is zero have no
        weight, selected or not.
        """
        if self.suggested is None:
            return iter(())
        return assignments(self.suggested, self.oracle.owners, MAX_CANDIDATES_TRIED, self.oracle.topk2_rule)

    @cached_property
    def suggested(self) -> Selection | None:
        """The admissible selections that agree with the gradients; None if there are none."""
        selection, learns = self.oracle.selection, self.learns  # (M, A), (A,)
        may = selection.may & learns
        must = selection.must | (may & (may.sum(0) == 1))
        may = may | must
        most = torch.minimum(selection.max_count, may.sum(1))
        min_count = torch.maximum(torch.minimum(selection.min_count, most), must.sum(1))
        if (min_count > most).any():
            return None
        return Selection(must, may, min_count, most)

    def explains(self, owners: Ownership) -> bool:
        """Return True if an admissible selection, or a selection that the gradients suggest, leads to `owners`.

        Raises:
            Undecided: the time limit was reached for one of the two selections, and the other selection does not
                lead to `owners`.
        """
        rules = self.oracle.owners, owners, self.oracle.topk2_rule
        undecided: Undecided | None = None
        for selection in (self.oracle.selection, self.suggested):
            try:
                if selection is not None and is_reachable(selection, *rules):
                    return True
            except Undecided as error:
                undecided = error
        if undecided is not None:
            raise undecided
        return False

    @cached_property
    def possible(self) -> Tensor:
        """(M, A) bool: True if the reference's or an admissible assignment gives the anchor to the ground truth."""
        may = self.oracle.selection.may  # (M, A)
        contested = may.sum(0) > 1  # (A,)
        reference = self.expected.assignment[self.image]
        own = Ownership(reference.foreground, reference.truth_index).positives(len(may))  # (M, A)
        return may | (self.oracle.owners & contested) | own

    @cached_property
    def measures(self) -> tuple[Tensor, Tensor]:
        """Metric t and overlap u (M, A) of the possible pairs, as the reference computes them; zero elsewhere."""
        if self.expected.dialect.is_varied:
            return self.oracle.metric.where(self.possible, 0), self.oracle.overlap.where(self.possible, 0)
        predictions = self.expected.rounded_predictions
        if self.expected.batch.head.parts_assign:
            own = self.oracle.same_dtype
            return own["metric"].where(self.possible, 0), own["overlap"].where(self.possible, 0)
        boxes = predictions.pixels[self.image]  # (A, 4)
        overlap = self.expected.geometry.overlaps_of(
            self.truths.boxes, boxes.to(self.truths.boxes), self.possible
        )
        score = predictions.logits[self.image].sigmoid().T[self.truths.labels]
        return alignment_metric(score, overlap, self.expected.batch.hyperparameters), overlap

    @cached_property
    def pulls(self) -> tuple[Tensor, Tensor]:
        """Contribution of every possible pair to the gradient on its anchor's distance logits (LOSS-BOX-1, LOSS-DFL-1).

        Contributions are computed before division by N and for a target score of 1, as if every pair had an anchor of
        its own; both losses are linear in the target score. Pairs with a metric of zero have no target score and
        contribute nothing (nearly all pairs, if class scores are zero).

        Returns:
            (P, 4R) one row for each pair, and (M, A) the row of each pair; -1 for pairs without a row.
        """
        metric, _ = self.measures
        truth, anchor = pairs = (self.possible & (metric > 0)).nonzero(as_tuple=True)  # (P,), (P,)
        each, exact = torch.arange(len(truth), device=truth.device), self.expected.predictions
        distances = exact.distances[self.image, anchor][None].detach().requires_grad_()  # (1, P, 4R)
        anchors = Anchors(exact.anchors.centres[anchor], exact.anchors.strides[anchor])
        no_logits = distances.new_zeros(1, len(each), 1)
        alone = at_anchors(exact, self.image, anchor, distances, no_logits, anchors)
        nowhere = torch.zeros_like(each)  # (P,) the first image and class
        boxes, weights = self.truths.boxes[truth].double(), distances.new_ones(len(each))
        targets = Positives(nowhere, each, nowhere, boxes, weights)
        numbers = self.expected.batch.head, self.expected.batch.hyperparameters
        own = replace(self.expected.dialect, weights_meet=WeightBroadcast.PER_POSITIVE)
        # the items are divided by N, which is P
        items = DISTANCE_ITEMS_BY_TASK[self.expected.batch.task](alone, targets, *numbers, own)
        (gradient,) = torch.autograd.grad(items.sum() * len(each), distances)  # (1, P, 4R)
        row = torch.full_like(self.possible, -1, dtype=torch.int64).index_put_(pairs, each)  # (M, A)
        return gradient[0], row

    def targets(self, owners: Ownership) -> Targets:
        """Return labels, boxes and scores that the anchors learn if `owners` own them (TAL-NORM-1, TAL-TGT-1)."""
        positives = owners.positives(len(self.truths))  # (M, A)
        return targets_of(self.truths, positives, self.oracle.normalised(*self.measures, positives))

    def misfit(self, targets: Targets) -> tuple[int, int, float]:
        """Return a measure of how badly targets fit the gradients, compared lexicographically; smaller is better.

        Returns:
            The number of anchors that have a gradient but are not positives; the largest difference of a target score,
            in whole multiples of its rounding error, so that equal scores compare equal; and the result of `residual`.
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
        """Return the L1 distance between the loss's gradients on the distance logits and those of `targets`."""
        anchor = (targets.weights > 0).nonzero().flatten()  # (P,)
        pulls, row = self.pulls
        rows = row[targets.truth_index[anchor], anchor]  # (P,)
        assert (rows >= 0).all(), "the assignment has a pair that is not possible"
        weights = targets.weights[anchor, None].double()  # (P, 1)
        wanted = torch.zeros_like(self.evidence.distances[self.image])  # (A, 4R)
        wanted[anchor] = pulls[rows] * weights
        return float((wanted - self.evidence.distances[self.image]).abs().sum())
