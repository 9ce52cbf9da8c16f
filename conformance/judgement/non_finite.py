"""Judging what becomes of a prediction that is no finite number (NaN, infinity).

The specification is silent here. What follows is what official code does, found by running releases on such batches,
and made a clause, so that an implementation that spreads or hides such a number is told so:

- NONFINITE-1: at an anchor that is no candidate of any ground truth it changes no target; only what is computed of
  that very number is not finite: the class loss if it is a class logit, and gradients on that anchor.
- NONFINITE-2: where a candidate's s or u is no number, the weights of its ground truth are none, nor are N and the
  three terms. It is not dropped: a loss that stays finite there hides it. Where the candidate's anchor went to another
  ground truth, TAL-NORM-1 looks at final positives alone and finds a number, and official code, which multiplies with
  masks, finds none: either is accepted.
  Of one bin, an infinite distance is an edge at infinity: u is zero there, or none where infinity is subtracted from
  itself, as the order of operations has it. Either is accepted, and so is what follows in its image and in the loss.
  So it is at an anchor of which rounding decides whether it is a candidate.
- NONFINITE-3: an infinite class logit is a score of 0 or 1 to the assigner. Plus infinity makes the class loss infinite
  or NaN; of minus infinity, whose cross-entropy is 0 in the limit, official code makes NaN, and either is accepted. So
  it is of a distance logit of minus infinity: as a bin without a share DFL leaves it out, or takes zero times infinity.

Which of NaN and the infinities a number is, is not compared: that depends on the order of operations (infinity minus
infinity). Where NONFINITE-1 says that nothing else changes, the outcome is also judged as that of the same batch with
a finite number in that place: targets, and the loss too if the number is a distance that no ground truth may learn
from. Elsewhere only whether numbers are finite is compared.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import LossOutcome, Outcome
from tal_conformance.core.verdicts import Agreement, Divergence, Judgement, Mismatch
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.execute import assigner_inputs, execute
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.bounds import precision
from tal_conformance.judgement.comparators import all_finite, equal
from tal_conformance.judgement.decode import exact_predictions, input_errors
from tal_conformance.judgement.judge import judge
from tal_conformance.judgement.oracle import candidates_within
from tal_reference import Dialect, GroundTruths, OverlapsCompared, ground_truths
from tal_reference.anchors import flatten

FAR = 1e4
"""Stands for infinity: as a logit, its sigmoid and softmax are exactly 0 or 1 in every dtype, and float16 holds it."""


def judge_any(batch: Batch, outcome: Outcome, dialect: Dialect) -> Judgement:
    """Judge any batch: predictions that are no numbers have clauses of their own (NONFINITE-1 to -3).

    Raises:
        Diverges: some stage computes something else; the judgement is in it.
    """
    return (judge if is_finite(batch) else judge_non_finite)(batch, outcome, dialect)


def is_finite(batch: Batch) -> bool:
    """Whether all predictions are finite numbers."""
    return all(all_finite(level) for level in batch.feature_maps)


def judge_non_finite(batch: Batch, outcome: Outcome, dialect: Dialect) -> Judgement:
    """Judge what a number that is none changes, and what it leaves alone (NONFINITE-1 to -3).

    Args:
        batch: what the implementation was given, with a prediction that is no finite number.
        outcome: what it made of it.
        dialect: what it is held to.

    Returns:
        A judgement whose verdict does not fail.

    Raises:
        Diverges: other numbers are finite than in the reference's outcome, or those that nothing changes are others.
    """
    judgement = Judgement(batch.family)
    reference = implementation_from(ReferenceAdapter(dialect), "reference")
    expected = execute(reference, batch)
    either = _edge_at_infinity(batch, expected) | _may_be_candidate(batch, expected, dialect)  # (B,)
    judgement.inconclusive = bool(either.any())
    clause = "NONFINITE-1" if _targets_finite(expected).all() else "NONFINITE-2"
    lost = _lost_numbers(expected) | either  # (B,)
    if outcome.assignment is not None:
        judgement.note("normalisation", _compare, "image with finite target scores", clause,
                       _targets_finite(outcome) | lost, _targets_finite(expected) | lost, ("image",))  # fmt: skip
    if outcome.loss is not None and not judgement.inconclusive:  # N is of the whole batch
        _judge_loss(judgement, batch, outcome, expected, clause, bool(lost.any()))
    if judgement.verdict.fails:
        raise Divergence(judgement)
    if clause == "NONFINITE-2" or lost.any():
        return judgement
    return judge(*_with_a_finite_number(batch, outcome, expected, dialect), dialect)


def _with_a_finite_number(
    batch: Batch, outcome: Outcome, expected: Outcome, dialect: Dialect
) -> tuple[Batch, Outcome]:
    """NONFINITE-1: the batch with a finite number in place of the other, and the outcome as that of this batch.

    What was computed of that very number is taken from the reference. The loss is left out where the number is part of
    it: a class logit, or a distance of a candidate.
    """
    maps = tuple(level.nan_to_num(0.0, FAR, -FAR) for level in batch.feature_maps)
    finite = replace(batch, feature_maps=maps)
    inputs = own = assigner_inputs(finite)
    if outcome.exposes_inputs:
        seen = outcome.inputs
        scores = seen.scores.where(seen.scores.isfinite(), own.scores)  # (B, A, C)
        boxes = seen.boxes.where(seen.boxes.isfinite().all(-1, keepdim=True), own.boxes)  # (B, A, 4)
        inputs = replace(seen, scores=scores, boxes=boxes)
    assignment, loss = outcome.assignment, outcome.loss
    if assignment is not None and dialect.overlaps_compared is OverlapsCompared.EVERYWHERE:
        assignment = replace(
            assignment, stages=None
        )  # u and t of that anchor are none for every ground truth
    _, logits = flatten(batch.feature_maps, batch.head)  # (B, A, C)
    if loss is not None and (
        not logits.isfinite().all() or (affected_anchors(batch) & _candidates(expected)).any()
    ):
        loss = None
    if loss is not None:
        loss = _without_gradients_of(batch, loss)
    return finite, Outcome(inputs, outcome.exposes_inputs, assignment, loss, outcome.from_loss, own)


def _without_gradients_of(batch: Batch, loss: LossOutcome) -> LossOutcome:
    """The loss with zero gradients on the distances of an anchor that has one which is no finite number."""
    sides = 4 * batch.head.reg_max

    def zeroed(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        spoilt = [~level[:, :sides].isfinite().all(1, keepdim=True) for level in batch.feature_maps]
        whole = zip(gradients, spoilt, strict=True)
        return tuple(torch.cat((each[:, :sides].where(~at, 0), each[:, sides:]), 1) for each, at in whole)

    return replace(
        loss, gradients=zeroed(loss.gradients), term_gradients=tuple(map(zeroed, loss.term_gradients))
    )


def _judge_loss(
    judgement: Judgement, batch: Batch, outcome: Outcome, expected: Outcome, clause: str, lost: bool
) -> None:
    """Which terms, and which gradients, are finite; where `lost`, N may be a number or none, and cls is none."""
    assert outcome.loss is not None
    assert expected.loss is not None
    distances, logits = flatten(batch.feature_maps, batch.head)  # (B, A, 4R), (B, A, C)
    below = (distances == -torch.inf).any(-1) & _candidates(expected)  # (B, A)
    free = [  # log(1 + e^x) is 0 there, as official code computes it NaN; a bin without a share is left out, or NaN
        term for term, one in (("cls", (logits == -torch.inf).any()), ("dfl", below.any())) if one
    ]
    for place, term in enumerate(term.name for term in batch.family.terms):
        if term in free or (term != "cls" and lost):
            continue
        named = (
            "NONFINITE-3"
            if term == "cls" and clause == "NONFINITE-1" and bool(logits.isinf().any())
            else clause
        )
        shown, wanted = outcome.loss.items[place].isfinite(), expected.loss.items[place].isfinite()
        judgement.note(term, _compare, f"{term} loss is finite", named, shown, wanted, ())
    shown, wanted = outcome.loss.total.isfinite(), expected.loss.total.isfinite()
    if not free:
        judgement.note("total", _compare, "total is finite", clause, shown, wanted, ())
    if clause == "NONFINITE-2" or lost:
        return  # N is no number: which gradients are zero times NaN, and which nothing, is a matter of masks
    spoilt = affected_anchors(batch)  # (B, A) free
    for name, shown in zip(batch.family.quantities, flatten(outcome.loss.gradients, batch.head), strict=True):
        finite = shown.isfinite().all(-1) | spoilt
        judgement.note("gradients", _compare, f"gradient on {name} is finite", clause, finite,
                       torch.ones_like(finite), ("image", "anchor"))  # fmt: skip


def _targets_finite(outcome: Outcome) -> Tensor:
    """(B,) all target scores of an image are finite."""
    assert outcome.assignment is not None
    return outcome.assignment.scores.isfinite().flatten(1).all(1)


def _lost_numbers(outcome: Outcome) -> Tensor:
    """(B,) a candidate whose t is no number is no positive of its ground truth: its anchor went to another."""
    assert outcome.assignment is not None
    stages = outcome.assignment.stages
    if stages is None:  # no ground truth: no candidate
        return torch.zeros(
            len(outcome.assignment.scores), dtype=torch.bool, device=outcome.assignment.scores.device
        )
    lost = ~stages.metric.isfinite() & (stages.candidates > 0) & ~(stages.positives > 0)  # (B, M, A)
    return lost.flatten(1).any(1)


def _candidates(outcome: Outcome) -> Tensor:
    """(B, A) the anchor is a candidate of some ground truth."""
    assert outcome.assignment is not None
    stages = outcome.assignment.stages
    nobody = torch.zeros_like(outcome.assignment.foreground, dtype=torch.bool)
    return nobody if stages is None else (stages.candidates > 0).any(1)


def _edge_at_infinity(batch: Batch, outcome: Outcome) -> Tensor:
    """(B,) the predicted box of a candidate has one."""
    edges = flatten(batch.feature_maps, batch.head)[0].isinf().any(-1)  # (B, A)
    return (_candidates(outcome) & edges).any(1) & (batch.head.reg_max == 1)


def _may_be_candidate(batch: Batch, outcome: Outcome, dialect: Dialect) -> Tensor:
    """(B,) rounding decides whether the anchor with the number is a candidate: a border there is not sharp."""
    inputs, floor = outcome.inputs, dialect.floor(batch.head.strides)
    eps = torch.finfo(precision(inputs.truth_boxes.dtype)).eps
    exact, here = exact_predictions(batch), affected_anchors(batch)  # (B, A)
    doubtful = torch.zeros_like(here[:, 0])  # (B,)
    truths = ground_truths(batch.annotations.double(), batch.images, batch.size)
    for image, (large, errors) in enumerate(zip(truths, input_errors(batch, exact, truths), strict=True)):
        small = GroundTruths(large.labels, inputs.truth_boxes[image, : len(large)])
        centres = inputs.anchors.double()  # (A, 2)
        sure, possible = candidates_within(small, large, centres, floor, eps, errors)  # (M, A) twice
        doubtful[image] = (possible & ~sure & here[image]).any()
    return doubtful


def affected_anchors(batch: Batch) -> Tensor:
    """(B, A) the anchors with a logit that is no finite number."""
    distances, logits = flatten(batch.feature_maps, batch.head)  # (B, A, 4R), (B, A, C)
    return ~(distances.isfinite().all(-1) & logits.isfinite().all(-1))


def _compare(
    quantity: str, clause: str, shown: Tensor, expected: Tensor, names: tuple[str, ...]
) -> Agreement:
    """Like `equal`, but says in words what is wrong with a single number."""
    if shown.ndim:
        return equal(quantity, clause, shown, expected, names)
    if bool(shown) != bool(expected):
        raise Mismatch(f"{quantity}: {bool(shown)}, expected {bool(expected)}", clause)
    return Agreement()
