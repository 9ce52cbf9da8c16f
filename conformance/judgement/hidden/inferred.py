"""Judging a loss that does not expose its assignment, which is inferred from its gradients.

The gradient on a class logit is (sigma(x) - z) / N times gain and batch size (LOSS-CLS-1), which determines every
target score z; the gradient on the distance logits shows which anchors are positives, and which ground truth owns each
of them. The loss is judged as if it had exposed the reference's own assignment. If this assignment does not explain the
loss, the loss is judged with the admissible assignment of each image that fits the gradients best. So a loss only
diverges if no admissible assignment explains it, or if the loss violates a condition that holds for every admissible
assignment.

B images, A anchors, C classes, M ground truths of an image, R bins.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import CheckedAssignment, LossOutcome, Outcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement, Undecided, Uniqueness, least_unique
from tal_conformance.judgement.comparators import Quantity, assert_none
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.hidden.fit import MAX_CANDIDATES_TRIED, AssignmentFit, gradient_evidence
from tal_conformance.judgement.hidden.read import ReadAssignment, WeightRange
from tal_conformance.judgement.hidden.rounding_sequences import judge_by_sequence
from tal_conformance.judgement.hidden.weights import narrowed_by_gradients
from tal_conformance.judgement.loss.loss import SCORE_SUM_CLAUSE, judge_loss, judge_total
from tal_conformance.judgement.oracle.admissible import Ownership
from tal_conformance.judgement.oracle.oracle import ImageOracle
from tal_conformance.judgement.rounding.bounds import bound
from tal_conformance.judgement.rounding.exact_loss import fields_of
from tal_conformance.judgement.rounding.mixed_precision import Interval, is_coarse
from tal_conformance.judgement.rounding.uncertainty import AssignmentUncertainty
from tal_reference import Targets
from tal_reference.composed import total_factor

TOO_MANY = (
    f"the assignment is not visible, an image admits at least {MAX_CANDIDATES_TRIED} assignments, and none of those "
    "tried explains the loss"
)
"""Reason for an inconclusive judgement."""
IN_FULL = (
    "the assignment is not visible, an image admits several, and positives of weight 0, which have no gradient on class"
    " logits, count in full in terms of the loss (COR-2)"
)
"""Reason for an inconclusive judgement of a loss with terms that do not depend on weights."""


def judge_inferred_assignment(judgement: Judgement, outcome: Outcome, expected: Expectation) -> None:
    """Judge the stages "cls" to "gradients" of a loss that does not expose its assignment.

    The reference's own assignment is tried first, then assignments that the gradients suggest, then other admissible
    assignments. An image may admit more assignments than are tried. If no assignment that was tried explains the loss,
    the judgement is inconclusive. The requirements that hold for every assignment are judged always
    (`read`).

    Args:
        judgement: the judgement of the batch, to which the results are added.
        outcome: loss and gradients of the implementation; its inputs are the reference's.
        expected: expectation of the same batch.
    """
    loss, batch, own = outcome.loss, expected.batch, expected.assignment
    assert loss is not None
    with_truths = [image for image, count in enumerate(expected.counts) if count]
    known = expected.images(with_truths, outcome.inputs, dict(enumerate(expected.input_errors)))
    oracles = [known.get(image) for image in range(batch.images)]
    uniqueness = (oracle.uniqueness for oracle in oracles if oracle is not None)
    judgement.uniqueness = least_unique(judgement.uniqueness, *uniqueness)
    judge_background_gradients(judgement, batch, loss, oracles)
    if judge_wrong_total(judgement, loss, expected, oracles):
        return
    every = fits_of(loss, expected, oracles)
    in_full = batch.family.counts_in_full
    read = None if in_full else ReadAssignment.of(loss, expected, every)
    from_gradients = None if read is None else read.settled(loss, expected, every)
    judged, chosen, untried = explained_by_an_assignment(ReplayedLoss(loss, expected, oracles), every, read)
    if in_full and judged.verdict.fails and judgement.uniqueness is not Uniqueness.UNIQUE:
        untried = untried or IN_FULL
    if read is not None:
        for image, fit in every.items():
            read.judge_weights(judgement, image, WeightRange.of(fit))
    undecided = judged.verdict.fails and bool(untried)
    judgement.undefined = judged.undefined
    judgement.inconclusive = judged.inconclusive
    if undecided:
        judgement.leave_open(untried)
    if undecided and from_gradients is None:
        if loss.knows_total:
            judge_total(judgement, expected, loss)
        return
    if from_gradients is not None and (undecided or from_gradients.verdict.fails):
        # a wrong divisor N explains all terms, and scales the weights that are computed from the gradients
        is_wrong_sum = judged.first is not None and judged.first.clause == SCORE_SUM_CLAUSE
        if not (is_wrong_sum and from_gradients.verdict.fails):
            judged = from_gradients
    add_judged(judgement, judged, chosen, own)
    judge_by_sequence(judgement, loss, expected, chosen, oracles)


def judge_wrong_total(
    judgement: Judgement, loss: LossOutcome, expected: Expectation, oracles: list[ImageOracle | None]
) -> bool:
    """Judge a loss whose total does not follow from its items, but whose items and scaled gradients are explained.

    Returns:
        True if the loss was judged; False if its total is right, or if more than its total is wrong.
    """
    consistent = scaled_to_items(loss, expected)
    if consistent is loss:
        return False
    every = fits_of(consistent, expected, oracles)
    in_full = expected.batch.family.counts_in_full
    read = None if in_full else ReadAssignment.of(consistent, expected, every)
    of_items, chosen, _ = explained_by_an_assignment(ReplayedLoss(consistent, expected, oracles), every, read)
    if of_items.verdict.fails:
        return False
    judged = ReplayedLoss(loss, expected, oracles).judged(chosen)
    judgement.undefined, judgement.inconclusive = judged.undefined, judged.inconclusive
    add_judged(judgement, judged, chosen, expected.assignment)
    return True


def scaled_to_items(loss: LossOutcome, expected: Expectation) -> LossOutcome:
    """Return a loss with the total and the gradients that its items demand, or the loss itself if its total is right.

    Gradients are those of the total. If only its factor is wrong, they show the assignment once they are scaled; read
    as they are, they show wrong target scores, and the terms would seem wrong.
    """
    if not (loss.shows_items and loss.knows_total) or not bool(
        loss.total.isfinite() & loss.items.isfinite().all()
    ):
        return loss
    trial = Judgement(expected.batch.family)
    judge_total(trial, expected, loss)
    wanted = loss.items.double().sum() * total_factor(expected.batch.images, expected.dialect)
    factor = float(wanted / loss.total) if float(loss.total) else 0.0
    if not trial.verdict.fails or not 0 < factor < torch.inf:
        return loss
    gradients = tuple((level.double() * factor).to(level.dtype) for level in loss.gradients)
    return replace(loss, total=wanted.to(loss.total.dtype), gradients=gradients)


def fits_of(
    loss: LossOutcome, expected: Expectation, oracles: list[ImageOracle | None]
) -> dict[int, AssignmentFit]:
    """Return an `AssignmentFit` for each image with ground truths, by the image's index."""
    evidence = gradient_evidence(loss, expected)
    return {
        image: AssignmentFit(expected, image, oracle, evidence)
        for image, oracle in enumerate(oracles)
        if oracle is not None
    }


def add_judged(judgement: Judgement, judged: Judgement, chosen: list[Targets], own: list[Targets]) -> None:
    """Add the results of judging a loss with the `chosen` targets to a judgement; `own` are the reference's targets."""
    judgement.notes += judged.notes
    judgement.open_items = judged.open_items
    for name in judgement.task.stages_of("term", "total", "gradients"):
        judgement.stages[name].merge(judged.stages[name])
    judgement.chose_differently = any(
        not (torch.equal(a.foreground, b.foreground) and torch.equal(a.truth_index, b.truth_index))
        for a, b in zip(chosen, own, strict=True)
    )


def explained_by_an_assignment(
    replay: "ReplayedLoss", every: dict[int, AssignmentFit], read: ReadAssignment | None
) -> tuple[Judgement, list[Targets], str]:
    """Judge a loss with one admissible assignment after another until an assignment explains the loss.

    Args:
        replay: judges the loss for an assignment.
        every: an `AssignmentFit` for each image with ground truths, by the image's index.
        read: the assignment that was computed from the gradients; None if they do not determine one.

    Returns:
        The last judgement, its assignment, and the reason why an untried assignment may be admissible; "" if all
        assignments were tried.
    """
    fits = [fit for fit in every.values() if fit.oracle.uniqueness is not Uniqueness.UNIQUE]
    chosen, out_of_time = list(replay.expected.assignment), ""
    judged = replay.judged(chosen)
    if not fits or not judged.verdict.fails:
        return judged, chosen, ""  # no other assignment is admissible, or the chosen one explains the loss
    if read is not None:
        try:
            targets = read.targets(fits, chosen)
        except Undecided as undecided:
            targets, out_of_time = chosen, undecided.reason
        explained = judged if out_of_time else replay.judged(targets)
        if not explained.verdict.fails:
            return explained, targets, ""
    for among in (AssignmentFit.likely, AssignmentFit.admissible):
        complete = True
        for fit in fits:
            chosen[fit.image], tried = fit.best(chosen[fit.image], among(fit))
            complete = complete and tried < MAX_CANDIDATES_TRIED
        judged = replay.judged(chosen)
        if not judged.verdict.fails:
            break
    return judged, chosen, out_of_time or ("" if complete else TOO_MANY)


def judge_background_gradients(
    judgement: Judgement, batch: Batch, loss: LossOutcome, oracles: list[ImageOracle | None]
) -> None:
    """Judge that anchors which cannot be positives have no gradient on their distance logits (LOSS-GRAD-1)."""
    distances = fields_of(loss.gradients, batch)[0]  # (B, A, 4R)
    for image, oracle in enumerate(oracles):
        never = torch.ones_like(distances[image, :, 0], dtype=torch.bool)  # (A,)
        if oracle is not None:
            never = ~oracle.selection.may.any(0)
        wrong = never[:, None] & (distances[image] != 0)  # (A, 4R), True for NaN
        quantity = Quantity("gradient on distance logits", "LOSS-GRAD-1", ("anchor", "channel"), image)
        problem = "an anchor that cannot be a positive has a gradient"
        judgement.note(StageName.GRADIENTS, assert_none, quantity, wrong, distances[image], "0", problem)


@dataclass(frozen=True)
class ReplayedLoss:
    """Judges a loss under the assumption that it used a given assignment.

    Attributes:
        loss: loss, items and gradients of the implementation.
        expected: expectation of the batch.
        oracles: the admissible values and choices of each image; None for an image without ground truths.
    """

    loss: LossOutcome
    expected: Expectation
    oracles: list[ImageOracle | None]

    def judged(self, targets: list[Targets]) -> Judgement:
        """Judge the stages "cls" to "gradients", assuming that the loss used `targets` with float64 weights."""
        weights, moved, edges = (
            torch.stack(parts) for parts in zip(*map(self.weights, range(len(targets)), targets), strict=True)
        )  # (B, A) each
        labels = torch.stack([image.labels for image in targets])  # (B, A)
        foreground = torch.stack([image.foreground for image in targets])  # (B, A)
        score_sum = None
        most = self.largest_weights(targets)  # (B, A)
        wide = is_coarse(self.expected.dtype) and self.expected.batch.autocast
        if (wide or not (moved <= most).all()) and not self.expected.dialect.is_varied:
            low, high = (weights - moved).nan_to_num(nan=0.0), (weights + moved).nan_to_num(nan=torch.inf)
            admissible = Interval(low.clamp(min=0), torch.minimum(high, most))
            known = narrowed_by_gradients(admissible, labels, foreground, self.loss, self.expected)
            weights, moved = known.weights.middle, known.weights.radius  # (B, A) twice
            score_sum = known.score_sum
        scores = weights.new_zeros(*labels.shape, self.expected.batch.head.classes)
        assignment = CheckedAssignment(
            labels=labels,
            boxes=torch.stack([image.boxes for image in targets]),
            scores=scores.scatter(2, labels[..., None], weights[..., None]),
            foreground=foreground,
            truth_index=torch.stack([image.truth_index for image in targets]),
        )
        judgement = Judgement(self.expected.batch.family)
        unsure = AssignmentUncertainty(moved, edges, score_sum)
        judge_loss(judgement, assignment, self.loss, self.expected, unsure)
        return judgement

    def largest_weights(self, targets: list[Targets]) -> Tensor:
        """Return upper limits (B, A) of the positives' weights: the best overlap of their owners (TAL-NORM-1)."""
        most = torch.zeros_like(torch.stack([own.weights for own in targets]), dtype=torch.float64)  # (B, A)
        for image, (oracle, own) in enumerate(zip(self.oracles, targets, strict=True)):
            if oracle is not None:
                positives = Ownership(own.foreground, own.truth_index).positives(
                    len(oracle.candidate)
                )  # (M, A)
                most[image] = oracle.largest_weights(positives)
        return most

    def weights(self, image: int, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Return an image's expected weights, their bounds, and the bounds of target box edges in pixels, (A,) each."""
        oracle = self.oracles[image]
        if oracle is None:
            none = targets.weights.double()
            return none, none, none
        owners = Ownership(targets.foreground, targets.truth_index)
        positives = owners.positives(len(oracle.candidate))  # (M, A)
        dtype = self.expected.assigner_dtype
        exact, unit, moved = oracle.weights(positives, dtype)
        same_dtype = oracle.normalised(oracle.same_dtype["metric"], oracle.same_dtype["overlap"], positives)
        error = bound(same_dtype, exact, unit, dtype, "target score w") + moved
        edges = (self.expected.input_errors[image].truths.amax(1)[:, None] * positives).sum(0)  # (A,)
        return exact, error * positives.any(0), edges
