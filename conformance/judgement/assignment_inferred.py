"""Judging a loss that does not show its assignment: it is read back from the gradients that it made.

The gradient on a class logit is (sigma(x) - z) / N times gain and batch size (LOSS-CLS-1), so it says every target
score z; the gradient on the distance logits says which anchors have a box at all, and whose. The reference's own
assignment is replayed, and the loss is judged as if it had shown it; where that does not explain it, so is the one of
each image's admissible assignments that fits these gradients best. So a loss is only held to be wrong where no
admissible assignment explains it. B images, A anchors, C classes, M ground truths of an image, R bins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Assignment, LossOutcome, Outcome
from tal_conformance.core.verdicts import Judgement, Uniqueness, least_unique
from tal_conformance.judgement.admissible import Ownership, Selection, assignments
from tal_conformance.judgement.bounds import ROUNDINGS, bound, precision
from tal_conformance.judgement.comparators import assert_none
from tal_conformance.judgement.loss import judge_loss, judge_total
from tal_conformance.judgement.loss_rounding import AssignmentUncertainty
from tal_conformance.judgement.oracle import ImageOracle, InputErrors, oracle
from tal_reference import Dialect, GroundTruths, Targets, ground_truths
from tal_reference.anchors import Anchors, flatten
from tal_reference.assignment import alignment_metric, normalised, overlaps_of, targets_of
from tal_reference.loss import Positives, Predictions, assign_images, loss_items, read_predictions

MAX_CANDIDATES_TRIED = 128
"""Admissible assignments of an image among which the best fit is looked for; most images have one."""


@dataclass(frozen=True)
class GradientEvidence:
    """What a loss's gradients say of its assignment.

    Attributes:
        scores: (B, A, C) target scores z, float64; None where the gradients are no such numbers.
        learns: (B, A) the distance logits have a gradient: the anchor is a positive for sure.
        distances: (B, A, 4R) that gradient before N and batch size.
    """

    scores: Tensor | None
    learns: Tensor
    distances: Tensor


def judge_inferred_assignment(
    judgement: Judgement,
    batch: Batch,
    outcome: Outcome,
    dialect: Dialect,
    exact: Predictions,
    errors: list[InputErrors],
) -> None:
    """Judge the stages "cls" to "gradients" of a loss that does not show its assignment, into `judgement`.

    The reference's own assignment is tried first, then those that the gradients suggest, then any that is admissible.
    Where an image admits more than are tried and none of them explains the loss, it is undecided: the judgement says
    so, and only what holds for every assignment was judged.

    Args:
        judgement: takes the result.
        batch: what was computed on.
        outcome: what came out; its inputs are the reference's.
        dialect: what it is held to.
        exact: the batch's predictions in float64.
        errors: how far the loss's own inputs may lie from them, an image each.
    """
    loss = outcome.loss
    assert loss is not None
    predictions = read_predictions([level.detach() for level in batch.feature_maps], batch.head)
    finest = torch.promote_types(batch.annotations.dtype, batch.dtype)  # ground truths are never coarser
    truths = ground_truths(batch.annotations.to(finest), batch.images, batch.size)
    own = assign_images(predictions, truths, batch.head, batch.hyperparameters, dialect)
    oracles = [
        oracle(outcome.inputs, image, len(here), dialect, errors[image]) if len(here) else None
        for image, here in enumerate(truths)
    ]
    known = [expected for expected in oracles if expected is not None]
    judgement.uniqueness = least_unique(judgement.uniqueness, *(expected.uniqueness for expected in known))
    judge_background_gradients(judgement, batch, loss, oracles)
    reading = read(batch, loss, predictions, dialect)
    fits = {
        image: AssignmentFit(batch, predictions, exact, truths[image], image, expected, reading, own[image])
        for image, expected in enumerate(oracles)
        if expected is not None and expected.uniqueness is not Uniqueness.UNIQUE
    }
    replay = ReplayedLoss(batch, loss, dialect, exact, oracles, errors)
    complete, chosen = True, list(own)
    judged = replay.judged(chosen)
    for among in (AssignmentFit.likely, AssignmentFit.admissible):
        if not fits or not judged.verdict.fails:
            break  # there is no other, or this one explains it
        complete = True
        for fit in fits.values():
            chosen[fit.image], tried = fit.best(chosen[fit.image], among(fit))
            complete = complete and tried < MAX_CANDIDATES_TRIED
        judged = replay.judged(chosen)
    if judged.verdict.fails and not complete:
        judgement.inconclusive = True
        judge_total(judgement, batch, loss)
        return
    judgement.inconclusive = judged.inconclusive
    for name in ("cls", "box", "dfl", "total", "gradients"):
        judgement.stages[name].merge(judged.stages[name])
    judgement.chose_differently = any(
        not (
            torch.equal(one.foreground, other.foreground) and torch.equal(one.truth_index, other.truth_index)
        )
        for one, other in zip(chosen, own, strict=True)
    )


def judge_background_gradients(
    judgement: Judgement, batch: Batch, loss: LossOutcome, oracles: list[ImageOracle | None]
) -> None:
    """LOSS-GRAD-1: an anchor that no admissible assignment makes a positive has no gradient on its distance logits."""
    distances, _ = flatten(loss.gradients, batch.head)  # (B, A, 4R)
    for image, expected in enumerate(oracles):
        never = torch.ones_like(distances[image, :, 0], dtype=torch.bool)  # (A,)
        if expected is not None:
            never = ~expected.selection.may.any(0)
        wrong = never[:, None] & (distances[image] != 0)  # (A, 4R); NaN too
        judgement.note(
            "gradients", assert_none, "gradient on distance logits", "LOSS-GRAD-1", wrong, distances[image], "0",
            ("anchor", "channel"), image, "an anchor that nobody may own has a gradient",
        )  # fmt: skip


def read(batch: Batch, loss: LossOutcome, predictions: Predictions, dialect: Dialect) -> GradientEvidence:
    """What the gradients say: z = sigma(x) - N g, where g is the gradient on x over gain and batch size.

    With G the sum of all g and S that of all z, G = (sum of sigma - S) / N; so N = S = sum of sigma / (1 + G), or its
    floor where that is less (LOSS-SUM-1).
    """
    distances, logits = flatten(loss.gradients, batch.head)  # (B, A, 4R), (B, A, C)
    learns = (distances != 0).any(-1)  # (B, A)
    gain = batch.hyperparameters.cls_gain * batch.images
    if not gain:
        return GradientEvidence(None, learns, distances.double() / batch.images)
    score = predictions.logits.detach().double().sigmoid()  # (B, A, C)
    gradient = logits.double() / gain  # (B, A, C)
    score_sum = (score.sum() / (1 + gradient.sum())).clamp(min=dialect.score_sum_floor)
    scores = score - gradient * score_sum
    before = distances.double() * score_sum / batch.images
    return GradientEvidence(scores if bool(torch.isfinite(scores).all()) else None, learns, before)


@dataclass(frozen=True)
class AssignmentFit:
    """How well admissible assignments of one image fit what its gradients say.

    Attributes:
        batch, predictions: the whole batch.
        exact: its predictions in float64.
        truths: the image's ground truths.
        image: index of the image.
        expected: what the specification says of it.
        reading: what the gradients say of the batch.
        own: what the reference assigns.
    """

    batch: Batch
    predictions: Predictions
    exact: Predictions
    truths: GroundTruths
    image: int
    expected: ImageOracle
    reading: GradientEvidence
    own: Targets

    def best(self, so_far: Targets, others: Iterable[Ownership]) -> tuple[Targets, int]:
        """The best fit among `others` and what is best so far, which stays among equals; and how many were tried."""
        best, least, tried = so_far, self.misfit(so_far), 0
        for owners in others:
            tried += 1
            targets = self.targets(owners)
            misfit = self.misfit(targets)
            if misfit < least:
                best, least = targets, misfit
        return best, tried

    def admissible(self) -> Iterator[Ownership]:
        """Up to `TRIED` admissible assignments."""
        return assignments(
            self.expected.selection, self.expected.owners, MAX_CANDIDATES_TRIED, self.expected.keeps
        )

    def likely(self) -> Iterator[Ownership]:
        """Up to `TRIED` of those that the gradients suggest.

        An anchor that learns is selected, by the only ground truth that may have it; one that does not learn is not
        selected where its metric is above zero. Those whose metric is zero weigh nothing, whoever has them.
        """
        selection, learns = self.expected.selection, self.reading.learns[self.image]  # (M, A), (A,)
        may = selection.may & learns
        must = selection.must | (may & (may.sum(0) == 1))
        may = may | must
        most = torch.minimum(selection.max_count, may.sum(1))
        min_count = torch.maximum(torch.minimum(selection.min_count, most), must.sum(1))
        if (min_count > most).any():
            return iter(())
        narrowed = Selection(must, may, min_count, most)
        return assignments(narrowed, self.expected.owners, MAX_CANDIDATES_TRIED, self.expected.keeps)

    @cached_property
    def possible(self) -> Tensor:
        """(M, A) which pairs are positives in some admissible assignment, or in the reference's own."""
        may = self.expected.selection.may  # (M, A)
        contested = may.sum(0) > 1  # (A,)
        own = Ownership(self.own.foreground, self.own.truth_index).positives(len(may))  # (M, A)
        return may | (self.expected.owners & contested) | own

    @cached_property
    def measures(self) -> tuple[Tensor, Tensor]:
        """TAL-MET-1: t and u of the possible pairs as the reference computes them, (M, A) each; zero elsewhere."""
        boxes = self.predictions.boxes[self.image] * self.predictions.anchors.strides  # (A, 4)
        overlap = overlaps_of(self.truths.boxes, boxes.to(self.truths.boxes), self.possible)
        score = self.predictions.logits[self.image].detach().sigmoid().T[self.truths.labels]
        return alignment_metric(score, overlap, self.batch.hyperparameters), overlap

    @cached_property
    def pulls(self) -> tuple[Tensor, Tensor]:
        """LOSS-BOX-1, LOSS-DFL-1: what each possible pair adds to the gradient on its anchor's distance logits.

        Before N, and for a target score of 1, in which both losses are linear; as if each pair had an anchor to itself.
        Pairs without a metric have no target score either, and add nothing: nearly all, where class scores are zero.

        Returns:
            (P, 4R) a row a pair, and (M, A) the pair's row; -1 where it has none.
        """
        metric, _ = self.measures
        truth, anchor = pairs = (self.possible & (metric > 0)).nonzero(as_tuple=True)  # (P,), (P,)
        each, exact = torch.arange(len(truth), device=truth.device), self.exact
        distances = exact.distances[self.image, anchor][None].detach().requires_grad_()  # (1, P, 4R)
        anchors = Anchors(exact.anchors.centres[anchor], exact.anchors.strides[anchor])
        no_logits = distances.new_zeros(1, len(each), 1)
        alone = Predictions(distances, no_logits, anchors, exact.size)
        nowhere = torch.zeros_like(each)  # (P,) the first image and class
        boxes, weights = self.truths.boxes[truth].double(), distances.new_ones(len(each))
        targets = Positives(nowhere, each, nowhere, boxes, weights)
        items = loss_items(alone, targets, self.batch.head, self.batch.hyperparameters)  # over N, which is P
        (gradient,) = torch.autograd.grad(items.sum() * len(each), distances)  # (1, P, 4R)
        row = torch.full_like(self.possible, -1, dtype=torch.int64).index_put_(pairs, each)  # (M, A)
        return gradient[0], row

    def targets(self, owners: Ownership) -> Targets:
        """What the anchors learn where these own them (TAL-NORM-1, TAL-TGT-1)."""
        positives = owners.positives(len(self.truths))  # (M, A)
        return targets_of(self.truths, positives, normalised(*self.measures, positives))

    def misfit(self, targets: Targets) -> tuple[int, int, float]:
        """Anchors with a gradient that are no positives here, the largest difference of a target score, the residual.

        What comes first decides. The second is counted in what rounding may do to a score that is read from a gradient,
        so that equals are equal.
        """
        learns = self.reading.learns[self.image]
        missing, residual = int((learns & ~targets.foreground).sum()), self.residual(targets)
        if self.reading.scores is None:
            return missing, 0, residual
        scores = targets.scores(self.batch.head.classes).double()  # (A, C)
        noise = 2 * ROUNDINGS * 3 * torch.finfo(precision(self.batch.dtype)).eps
        difference = (scores - self.reading.scores[self.image]).abs().max()
        return missing, int(difference / noise), residual

    def residual(self, targets: Targets) -> float:
        """How far the gradient on the distance logits lies from what these targets lead to: whose box was learnt."""
        anchor = (targets.weights > 0).nonzero().flatten()  # (P,)
        pulls, row = self.pulls
        rows = row[targets.truth_index[anchor], anchor]  # (P,)
        assert (rows >= 0).all(), "an assignment that is not among the possible ones"
        weights = targets.weights[anchor, None].double()  # (P, 1)
        wanted = torch.zeros_like(self.reading.distances[self.image])  # (A, 4R)
        wanted[anchor] = pulls[rows] * weights
        return float((wanted - self.reading.distances[self.image]).abs().sum())


@dataclass(frozen=True)
class ReplayedLoss:
    """Judges the loss as if it had shown an assignment.

    Attributes:
        batch: what was computed on.
        loss: what came out.
        dialect: what it is held to.
        exact: the batch's predictions in float64.
        oracles: what the specification says of each image; None without ground truths.
        errors: how far the loss's own inputs may lie from ours, an image each.
    """

    batch: Batch
    loss: LossOutcome
    dialect: Dialect
    exact: Predictions
    oracles: list[ImageOracle | None]
    errors: list[InputErrors]

    def judged(self, targets: list[Targets]) -> Judgement:
        """The stages "cls" to "gradients" for this assignment, with float64's weights."""
        weights, moved, edges = (
            torch.stack(parts) for parts in zip(*map(self.weights, range(len(targets)), targets), strict=True)
        )  # (B, A) each
        labels = torch.stack([image.labels for image in targets])  # (B, A)
        scores = weights.new_zeros(*labels.shape, self.batch.head.classes)
        assignment = Assignment(
            labels=labels,
            boxes=torch.stack([image.boxes for image in targets]),
            scores=scores.scatter(2, labels[..., None], weights[..., None]),
            foreground=torch.stack([image.foreground for image in targets]),
            truth_index=torch.stack([image.truth_index for image in targets]),
        )
        judgement = Judgement(self.batch.family)
        unsure = AssignmentUncertainty(moved, edges)
        judge_loss(judgement, self.batch, assignment, self.loss, self.dialect, self.exact, unsure)
        return judgement

    def weights(self, image: int, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, by how much they may differ, and pixels by which the target boxes' edges may, (A,) each."""
        expected = self.oracles[image]
        if expected is None:
            none = targets.weights.double()
            return none, none, none
        positives = Ownership(targets.foreground, targets.truth_index).positives(
            len(expected.candidate)
        )  # (M, A)
        dtype = precision(self.batch.dtype)
        exact, unit, moved = expected.weights(positives, dtype)
        same_dtype = normalised(expected.same_dtype["metric"], expected.same_dtype["overlap"], positives)
        error = bound(same_dtype, exact, unit, dtype, "target score w") + moved
        edges = (self.errors[image].truths.amax(1)[:, None] * positives).sum(0)  # (A,)
        return exact, error * positives.any(0), edges
