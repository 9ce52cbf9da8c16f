"""Judging outcomes on batches with a non-finite prediction (NaN or infinity).

The specification does not cover such batches. The following clauses describe the behaviour of official code, found by
running releases on such batches, so that an implementation that spreads or hides such a value is reported:

- NONFINITE-1: at an anchor that is not a candidate of any ground truth, the value changes no target. Only results
  computed from this very value are not finite: the class loss if it is a class logit, and gradients on that anchor.
- NONFINITE-2: if s or u of a candidate is not finite, neither are the weights of its ground truth, nor N and the three
  terms. A loss that stays finite hides the value. If the candidate's anchor went to another ground truth, TAL-NORM-1
  considers final positives alone and finds a finite number; official code, which multiplies with masks, does not.
  Either is accepted.
  With one bin, an infinite distance is an edge at infinity: u is zero there, or NaN if infinity is subtracted from
  itself, depending on the order of operations. Either is accepted, with its consequences in the image and the loss.
  The same holds for an anchor if rounding decides whether it is a candidate.
  In dialects that compare overlaps everywhere (before 8.0.52), t of every ground truth and padding row of the image is
  computed at every anchor. NaN takes one of the k places of its row, candidate or not, and products with masks carry it
  into all target scores of the image, so that N and the three terms are not finite. An image that is left finite by
  TAL-NORM-1 is accepted too.
  Without a floor of N (before 8.0.35), an N of 0 divides zero by zero: which values are finite follows the reference.
- NONFINITE-3: an infinite class logit is a score of 0 or 1 to the assigner. Plus infinity makes the class loss infinite
  or NaN. Minus infinity has a cross-entropy of 0 in the limit, but official code returns NaN; either is accepted. The
  same holds for a distance logit of minus infinity: DFL omits it as a bin without a share, or multiplies zero by
  infinity.

NaN and the infinities are not distinguished: the result depends on the order of operations (infinity minus infinity).
Terms of keypoints and masks do not read weights (COR-2): which of them are finite follows the reference, also where the
weights are not. Their own predictions (keypoints, coefficients, prototypes) are finite in these batches.

Where NONFINITE-1 allows no other change, the outcome is also judged as that of the same batch with a finite value in
that place: targets, and the loss too if the value is a distance that no ground truth learns from. Elsewhere only the
finiteness of results is compared.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches
from tal_conformance.core.outcome import LossOutcome, Outcome
from tal_conformance.core.task import DETECT, POSE, SEGMENT, StageName
from tal_conformance.core.verdicts import Agreement, Divergence, Judgement, Mismatch
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.branches import merge_branch
from tal_conformance.judgement.comparators import Quantity, all_finite, assert_equal
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_conformance.judgement.rounding.bounds import precision
from tal_conformance.judgement.rounding.exact_loss import fields_of
from tal_conformance.judgement.undefined import undefined_anchors
from tal_reference import NEWEST, GroundTruths, OverlapsCompared
from tal_reference.varied_loss import has_no_distance_loss

FAR = 1e4
"""Stands for infinity: as a logit, its sigmoid and softmax are exactly 0 or 1 in every dtype, and float16 holds it."""


JUDGED = (DETECT.name, POSE.name, SEGMENT.name)
"""Tasks whose assignment compares upright boxes, in one branch."""


def judge_any(outcome: Outcome, expected: Expectation) -> Judgement:
    """Judge an outcome on any batch; if predictions are non-finite, by NONFINITE-1 to -3.

    Of rotated boxes, and of end-to-end heads of other tasks than detection, only outcomes on finite predictions are
    judged; for other outcomes the judgement is inconclusive.

    Raises:
        Divergence: a stage differs; the exception has the judgement.
    """
    batch = expected.batch
    if is_finite(batch):
        return judge(outcome, expected)
    if batch.task in JUDGED:
        return judge_non_finite(outcome, expected)
    if batch.family.branch_task == DETECT.name and outcome.branches:
        return _judge_branches(outcome, expected)
    judgement = Judgement(batch.family)
    judgement.inconclusive = judgement.undefined = True
    return judgement


def _judge_branches(outcome: Outcome, expected: Expectation) -> Judgement:
    """Judge an end-to-end outcome of which one branch has a non-finite prediction: each branch by itself.

    The other branch must be as if all predictions were finite. The total is finite if those of both branches are
    (E2E-3). The items of the whole loss are not judged: those of the branches are.

    Raises:
        Divergence: a branch, or the finiteness of the total, differs.
    """
    judgement, dialect = Judgement(expected.batch.family), expected.dialect
    finite = True
    for name, part in branch_batches(expected.batch, dialect).items():
        own = outcome.branches[name]
        try:
            judged = judge_any(own, Expectation(part, dialect))
        except Divergence as divergence:
            judged = divergence.judgement
        merge_branch(judgement, name, judged)
        finite = finite and (own.loss is None or all_finite(own.loss.total))
    if outcome.loss is not None and not judgement.inconclusive:
        quantity = Quantity("finiteness of the total", "E2E-3")
        of_total = torch.tensor(all_finite(outcome.loss.total))
        judgement.note(StageName.TOTAL, _assert_same, quantity, of_total, torch.tensor(finite))
    if judgement.verdict.fails:
        raise Divergence(judgement)
    return judgement


def is_finite(batch: Batch) -> bool:
    """Return True if all predictions are finite."""
    return all(all_finite(level) for level in batch.feature_maps)


def judge_non_finite(outcome: Outcome, expected: Expectation) -> Judgement:
    """Judge which values of an outcome a non-finite prediction changes or leaves unchanged (NONFINITE-1 to -3).

    Args:
        outcome: assignment and loss of the implementation.
        expected: expectation of the same batch, with a prediction that is NaN or infinite.

    Returns:
        A judgement whose verdict does not fail.

    Raises:
        Divergence: a value is finite although the reference's is not, or non-finite although the reference's is
            finite; or a value differs that the non-finite prediction must not change.
    """
    judgement = Judgement(expected.batch.family)
    implementation = implementation_from(ReferenceAdapter(expected.dialect), "reference")
    reference = execute(implementation, expected.batch, inputs=expected.inputs)
    either = _edge_at_infinity(expected.batch, reference) | _may_be_candidate(expected, reference)  # (B,)
    elsewhere = undefined_anchors(reference.inputs, expected.dialect) & ~affected_anchors(expected.batch)
    either = either | elsewhere.any(
        1
    )  # (B,) beside the non-finite prediction, zero is divided by zero (IOU-1)
    judgement.inconclusive = judgement.undefined = bool(either.any())
    clause = "NONFINITE-1" if _targets_finite(reference).all() else "NONFINITE-2"
    spreads = _spreads(outcome, expected, reference)  # (B,)
    lost = _lost_numbers(reference) | either | spreads  # (B,)
    if outcome.assignment is not None:
        quantity = Quantity("image with finite target scores", clause, ("image",))
        finite, own = _targets_finite(outcome) | lost, _targets_finite(reference) | lost  # (B,) twice
        judgement.note(StageName.NORMALISATION, _assert_same, quantity, finite, own)
    if outcome.loss is not None and not judgement.inconclusive:  # N is of the whole batch
        if _is_spread(outcome, spreads):
            _judge_spread_loss(judgement, outcome, expected, reference)
        else:
            _judge_loss(judgement, expected, outcome, reference, clause, bool((lost & ~spreads).any()))
    if judgement.verdict.fails:
        raise Divergence(judgement)
    if clause != "NONFINITE-2" and not lost.any():
        judgement = judge(*_with_a_finite_number(outcome, expected, reference))
    if outcome.loss is not None and not all_finite(outcome.loss.items):
        judgement.notes.append(f"the loss is not finite because predictions are not, as {clause} prescribes")
    return judgement


def _spreads(outcome: Outcome, expected: Expectation, reference: Outcome) -> Tensor:
    """Return (B,) bool: True if a non-finite prediction makes t of a ground truth or padding row non-finite.

    It is False in dialects that compute t of candidates only, and in a batch without ground truths.
    """
    batch, affected = expected.batch, affected_anchors(expected.batch)  # (B, A)
    everywhere = expected.dialect.overlaps_compared is OverlapsCompared.EVERYWHERE
    if not everywhere or not len(batch.annotations):
        return torch.zeros_like(affected[:, 0])
    inputs = reference.inputs
    labels = inputs.labels.long()[..., 0]  # (B, M), padding rows read class 0
    scores = inputs.scores.mT.gather(1, labels[..., None].expand(-1, -1, affected.shape[1]))  # (B, M, A)
    distances = fields_of(batch.feature_maps, batch)[0]  # (B, A, 4R)
    boxes = inputs.boxes.isfinite().all(-1) & distances.isfinite().all(
        -1
    )  # (B, A): of one bin also infinite edges
    return (affected & ~(boxes & scores.isfinite().all(1))).any(1)


def _is_spread(outcome: Outcome, spreads: Tensor) -> bool:
    """Return True if an image for which `spreads` (B,) is True has non-finite target scores.

    If the loss does not expose target scores, return True if its total is not finite.
    """
    if outcome.assignment is not None and outcome.from_loss:
        return bool((spreads & ~_targets_finite(outcome)).any())
    assert outcome.loss is not None
    return bool(spreads.any()) and not bool(outcome.loss.total.isfinite())


def _judge_spread_loss(
    judgement: Judgement, outcome: Outcome, expected: Expectation, reference: Outcome
) -> None:
    """Judge a loss over target scores that are not finite: no term is finite, unless it is 0 by definition.

    Without positives box and dfl are 0 (LOSS-GRAD-1); dfl is 0 too for a single bin, in dialects without a loss for it.
    """
    assert outcome.loss is not None
    assert reference.assignment is not None
    assigned = (
        outcome.assignment if outcome.assignment is not None and outcome.from_loss else reference.assignment
    )
    sums = [StageName.CLS, StageName.BOX] if assigned.foreground.any() else [StageName.CLS]
    if len(sums) > 1 and not has_no_distance_loss(expected.batch.head.reg_max, expected.dialect):
        sums.append(StageName.DFL)
    values = {
        name: outcome.loss.items[place]
        for place, name in enumerate(t.name for t in judgement.task.terms)
        if name in sums and outcome.loss.shows_items
    }
    for name, value in {**values, "total": outcome.loss.total}.items():
        quantity = Quantity("total is finite" if name == "total" else f"{name} loss is finite", "NONFINITE-2")
        judgement.note(name, _assert_same, quantity, value.isfinite(), torch.zeros_like(value.isfinite()))


def _with_a_finite_number(
    outcome: Outcome, expected: Expectation, reference: Outcome
) -> tuple[Outcome, Expectation]:
    """Return outcome and expectation with the non-finite predictions replaced by finite ones (NONFINITE-1).

    Values computed only from a non-finite prediction are taken from the reference. The outcome has no loss if such a
    prediction contributes to the loss: a class logit, or a distance of a candidate.
    """
    batch, dialect = expected.batch, expected.dialect
    maps = tuple(level.nan_to_num(0.0, FAR, -FAR) for level in batch.feature_maps)
    finite = Expectation(replace(batch, feature_maps=maps), dialect)
    inputs = finite.inputs
    if outcome.exposes_inputs:
        seen = outcome.inputs
        scores = seen.scores.where(seen.scores.isfinite(), inputs.scores)  # (B, A, C)
        boxes = seen.boxes.where(seen.boxes.isfinite().all(-1, keepdim=True), inputs.boxes)  # (B, A, 4)
        inputs = replace(seen, scores=scores, boxes=boxes)
    assignment, loss = outcome.assignment, outcome.loss
    if assignment is not None and dialect.overlaps_compared is OverlapsCompared.EVERYWHERE:
        assignment = replace(assignment, stages=None)  # u and t of that anchor are NaN for every ground truth
    logits = fields_of(batch.feature_maps, batch)[1]  # (B, A, C)
    learns = affected_anchors(batch) & _candidates(reference)  # (B, A)
    if loss is not None and (not logits.isfinite().all() or learns.any()):
        loss = None
    if loss is not None:
        loss = _without_gradients_of(batch, loss)
    return Outcome(inputs, outcome.exposes_inputs, assignment, loss, outcome.from_loss), finite


def _without_gradients_of(batch: Batch, loss: LossOutcome) -> LossOutcome:
    """Return the loss with zero gradients on the distances of anchors that have a non-finite distance."""
    sides = 4 * batch.head.reg_max

    def zeroed(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        affected = [~level[:, :sides].isfinite().all(1, keepdim=True) for level in batch.feature_maps]
        whole = zip(gradients, affected, strict=True)
        return tuple(torch.cat((level[:, :sides].where(~at, 0), level[:, sides:]), 1) for level, at in whole)

    return replace(
        loss, gradients=zeroed(loss.gradients), term_gradients=tuple(map(zeroed, loss.term_gradients))
    )


def _judge_loss(
    judgement: Judgement, expected: Expectation, outcome: Outcome, reference: Outcome, clause: str, lost: bool
) -> None:
    """Judge which loss terms and gradients are finite, by comparison with those of the reference.

    If `lost`, N may be finite or not; the term cls must then be non-finite.
    """
    assert outcome.loss is not None
    assert reference.loss is not None
    batch = expected.batch
    distances, logits = fields_of(batch.feature_maps, batch)[:2]  # (B, A, 4R), (B, A, C)
    below = (distances == -torch.inf).any(-1) & _candidates(reference)  # (B, A)
    free = [  # log(1 + e^x) is 0 there, or NaN as in official code; a bin without a share is omitted, or NaN
        term
        for term, infinite in ((StageName.CLS, (logits == -torch.inf).any()), (StageName.DFL, below.any()))
        if infinite
    ]
    for place, (term, weighted) in enumerate((term.name, term.weighted) for term in batch.family.terms):
        in_doubt = lost and weighted and term != StageName.CLS
        if term in free or in_doubt or not outcome.loss.shows_items:
            continue
        named = (
            "NONFINITE-3"
            if term == StageName.CLS and clause == "NONFINITE-1" and bool(logits.isinf().any())
            else clause
        )
        finite, own = outcome.loss.items[place].isfinite(), reference.loss.items[place].isfinite()
        judgement.note(term, _assert_same, Quantity(f"{term} loss is finite", named), finite, own)
    if not free:
        finite, own = outcome.loss.total.isfinite(), reference.loss.total.isfinite()
        judgement.note(StageName.TOTAL, _assert_same, Quantity("total is finite", clause), finite, own)
    if clause == "NONFINITE-2" or lost:
        return  # N is not finite: masks decide which gradients are zero times NaN, and which are zero
    affected = affected_anchors(batch)  # (B, A) either is accepted
    # N may be 0: infinity or 0 / 0, where the reference finds it
    divides = expected.dialect.score_sum_floor == 0
    own_gradients = fields_of(reference.loss.gradients, batch)
    gradients = fields_of(outcome.loss.gradients, batch)
    for field, gradient, own_gradient in zip(batch.family.fields, gradients, own_gradients, strict=True):
        name = field.quantity
        if field.place == "image":
            finite = gradient.isfinite().flatten(1).all(1)  # (B,)
            quantity = Quantity(f"gradient on {name} is finite", clause, ("image",))
            judgement.note(StageName.GRADIENTS, _assert_same, quantity, finite, torch.ones_like(finite))
            continue
        finite = gradient.isfinite().all(-1) | affected  # (B, A)
        wanted = own_gradient.isfinite().all(-1) | affected if divides else torch.ones_like(finite)
        quantity = Quantity(f"gradient on {name} is finite", clause, ("image", "anchor"))
        judgement.note(StageName.GRADIENTS, _assert_same, quantity, finite, wanted)


def _targets_finite(outcome: Outcome) -> Tensor:
    """Return (B,) bool: True if all target scores of the image are finite."""
    assert outcome.assignment is not None
    return outcome.assignment.scores.isfinite().flatten(1).all(1)


def _lost_numbers(outcome: Outcome) -> Tensor:
    """Return (B,) bool: True if the anchor of a candidate with non-finite t belongs to another ground truth."""
    assert outcome.assignment is not None
    stages = outcome.assignment.stages
    if stages is None:  # no ground truth: no candidate
        return torch.zeros(
            len(outcome.assignment.scores), dtype=torch.bool, device=outcome.assignment.scores.device
        )
    lost = ~stages.metric.isfinite() & (stages.candidates > 0) & ~(stages.positives > 0)  # (B, M, A)
    return lost.flatten(1).any(1)


def _candidates(outcome: Outcome) -> Tensor:
    """Return (B, A) bool: True if the anchor is a candidate of some ground truth."""
    assert outcome.assignment is not None
    stages = outcome.assignment.stages
    none = torch.zeros_like(outcome.assignment.foreground, dtype=torch.bool)
    return none if stages is None else (stages.candidates > 0).any(1)


def _edge_at_infinity(batch: Batch, outcome: Outcome) -> Tensor:
    """Return (B,) bool: True if the predicted box of a candidate has an infinite edge."""
    edges = fields_of(batch.feature_maps, batch)[0].isinf().any(-1)  # (B, A)
    return (_candidates(outcome) & edges).any(1) & (batch.head.reg_max == 1)


def _may_be_candidate(expected: Expectation, outcome: Outcome) -> Tensor:
    """Return (B,) bool: True if rounding decides whether an anchor with a non-finite prediction is a candidate."""
    inputs, floor = outcome.inputs, expected.dialect.floor(expected.batch.head.strides)
    eps = torch.finfo(precision(inputs.truth_boxes.dtype)).eps
    affected = affected_anchors(expected.batch)  # (B, A)
    doubtful = torch.zeros_like(affected[:, 0])  # (B,)
    for image, (large, errors) in enumerate(zip(expected.truths, expected.input_errors, strict=True)):
        small = GroundTruths(large.labels, inputs.truth_boxes[image, : len(large)])
        centres = inputs.anchors.double()  # (A, 2)
        sure, possible = expected.geometry.candidates_within(
            small, large, centres, floor, eps, errors, NEWEST
        )  # (M, A) twice
        doubtful[image] = (possible & ~sure & affected[image]).any()
    return doubtful


def affected_anchors(batch: Batch) -> Tensor:
    """Return (B, A) bool: True if the anchor has a logit that is not finite."""
    distances, logits = fields_of(batch.feature_maps, batch)[:2]  # (B, A, 4R), (B, A, C)
    return ~(distances.isfinite().all(-1) & logits.isfinite().all(-1))


def _assert_same(quantity: Quantity, observed: Tensor, expected: Tensor) -> Agreement:
    """Assert that two bool tensors are equal; the message names the place, except for scalars."""
    if observed.ndim:
        return assert_equal(quantity, observed, expected)
    if bool(observed) != bool(expected):
        raise Mismatch(f"{quantity.name}: {bool(observed)}, expected {bool(expected)}", quantity.clause)
    return Agreement()
