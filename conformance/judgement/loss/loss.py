"""Judging a loss: its terms, their sum and the gradient, given the assignment that the loss itself used.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

import torch
from torch import Tensor

from tal_conformance.core.outcome import CheckedAssignment, LossOutcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Agreement, Judgement, Mismatch
from tal_conformance.judgement.comparators import (
    Bounded,
    Quantity,
    all_finite,
    assert_within,
)
from tal_conformance.judgement.expectation import Expectation, LossExpectation
from tal_conformance.judgement.loss.gradients import judge_gradients, like_division_by_zero
from tal_conformance.judgement.rounding.bounds import bound
from tal_conformance.judgement.rounding.exact_loss import loss_precision
from tal_conformance.judgement.rounding.loss_rounding import (
    LossRounding,
    divisor,
    no_jumps,
)
from tal_conformance.judgement.rounding.uncertainty import AssignmentUncertainty
from tal_reference import Dialect
from tal_reference.composed import total_factor

SCORE_SUM_CLAUSE = "LOSS-SUM-1"
"""Clause of the divisor N, which all terms share."""


def judge_loss(
    judgement: Judgement,
    assignment: CheckedAssignment,
    loss: LossOutcome,
    expected: Expectation,
    unsure: AssignmentUncertainty | None = None,
) -> None:
    """Judge the stages "cls" to "gradients" of a loss whose assignment is given.

    Args:
        judgement: the judgement of the batch, to which the results are added. It becomes inconclusive if the
            specification leaves the box loss undefined, so that only the other terms were judged.
        assignment: the assignment that the loss used; its values are not judged here.
        loss: loss, items and gradients of the implementation.
        expected: expectation of the batch.
        unsure: possible difference between `assignment` and the loss's own assignment; None if they are the same.
    """
    targets = expected.targets_of(assignment)
    known = expected.loss(targets, each_term=bool(loss.term_gradients))
    if unsure is None:
        nothing = no_jumps(expected.batch)
        slack = LossRounding(torch.zeros_like(known.rounding.items), nothing, nothing)
    else:
        slack = known.uncertainty(unsure)
    judgement.undefined = judgement.undefined or not known.is_defined
    judgement.inconclusive = judgement.inconclusive or judgement.undefined
    items = judge_items(judgement, loss, known, slack)
    if loss.knows_total and loss.shows_items:
        judge_total(judgement, expected, loss)
    elif known.is_defined:
        _judge_without_items(judgement, expected, loss, items)
    if loss.gradients:
        judge_gradients(judgement, loss, known, slack, defined_fields(known))


def judge_items(
    judgement: Judgement, loss: LossOutcome, known: LossExpectation, slack: LossRounding
) -> Bounded:
    """Judge each term of the loss, if it shows its terms, and return all expected terms with their tolerances (T,).

    Args:
        judgement: the judgement of the batch, to which the results are added.
        loss: loss and items of the implementation.
        known: expectation of the targets that the loss used.
        slack: additional tolerance for an uncertain assignment.
    """
    family, dialect = known.expected.batch.family, known.expected.dialect
    exact, allowed = known.exact.items, tolerated_items(known) + slack.items  # (T,) each
    items = like_division_by_zero(loss.items, known.same_dtype.items, dialect)  # (T,)
    same_dtype = like_overflow(known.same_dtype.items, items, known)  # (T,)
    bounded = Bounded(exact, allowed, same_dtype, slack.items, known.rounding.ranges)
    if not loss.shows_items:
        return bounded
    scores = known.targets.scores.double()
    remark = score_sum_remark(items.double(), exact, allowed, scores, dialect)
    for stage, place in family.item_of.items():
        if stage == StageName.BOX and not known.is_defined:
            continue
        clause = SCORE_SUM_CLAUSE if remark else judgement.task.clauses[stage]
        quantity = Quantity(family.terms[place].quantity, clause)
        judgement.note(stage, assert_term, quantity, items[place], bounded.at(place), remark)
    return bounded


def tolerated_items(known: LossExpectation) -> Tensor:
    """Return the largest admissible error of each term (T,) for a known assignment."""
    exact, unit, enclosed = known.exact.items, known.rounding.items, known.rounding.enclosed
    # the error of the naive computation is a part of the enclosed errors of 16-bit code
    naive = known.same_dtype.items if enclosed is None else exact
    dtype = loss_precision(known.expected.batch)
    rounding = [
        bound(naive[place], exact[place], unit[place], dtype, term.quantity if enclosed is None else "")
        for place, term in enumerate(known.expected.batch.family.terms)
    ]
    return torch.stack(rounding) + (0.0 if enclosed is None else enclosed)


def defined_fields(known: LossExpectation) -> tuple[str, ...]:
    """Return the names of the head fields whose gradients are defined.

    A term that is 0 / 0, as the mask loss of a box without area (SEG-3), leaves the gradients on the fields that it
    reads undefined: where the division is differentiated decides between 0 and NaN.
    """
    if not known.is_defined:
        return ("logits",)
    family, items = known.expected.batch.family, known.exact.items
    undefined = [term for term, item in zip(family.terms, items, strict=True) if not item.isfinite()]
    read = {name for term in undefined if not term.weighted for name in term.reads}
    return tuple(field.name for field in family.fields if field.name not in read)


def like_overflow(same_dtype: Tensor, items: Tensor, known: LossExpectation) -> Tensor:
    """Return `same_dtype` with an infinite class loss, if the implementation's is infinite because its dtype overflows.

    Without autocast, a sum of cross-entropies is stored in the dtype of the feature maps; float16 ends at 65,504, and
    the reference's own sum is in float32.
    """
    batch, dialect = known.expected.batch, known.expected.dialect
    place, gain = batch.family.item_of[StageName.CLS], batch.hyperparameters.cls_gain
    if not gain or dialect.is_varied or not bool(items[place].isposinf()):
        return same_dtype
    weights = known.targets.positives.weights.double()  # (P,)
    summed = known.exact.items[place] / gain * divisor(weights, batch.images, dialect)
    limits = torch.finfo(loss_precision(batch))
    overflow = torch.zeros_like(same_dtype, dtype=torch.bool)
    overflow[place] = summed >= limits.max * (1 - 4 * limits.eps)
    return same_dtype.masked_fill(overflow, torch.inf)


def score_sum_remark(items: Tensor, exact: Tensor, allowed: Tensor, scores: Tensor, dialect: Dialect) -> str:
    """Return a remark if a wrong divisor N explains all differing terms, or "" (LOSS-SUM-1).

    N divides every term, so at least two terms must be wrong by the same factor, and no term may be wrong otherwise. If
    only one term is not zero, a wrong N cannot be distinguished from a wrong term, unless N is zero.

    Args:
        items: (3,) terms of the implementation, float64.
        exact: (3,) expected terms.
        allowed: (3,) tolerances of the terms.
        scores: (B, A, C) target scores of the loss.
        dialect: the dialect, which prescribes the floor of N.
    """
    if bool(((items - exact).abs() <= allowed).all()) or not all_finite(exact):
        return ""
    total = float(scores.sum())
    score_sum = max(total, dialect.score_sum_floor)
    present = exact.abs() > allowed  # (T,)
    if total == 0 and bool(present.any()) and not items[present].isfinite().any():
        return (
            f"; the sum of all target scores is 0, and the loss is divided by N = 0, expected {score_sum:g}"
        )
    if int(present.sum()) < 2 or not all_finite(items):
        return ""
    largest = int((exact.abs() / allowed).where(present, 0).argmax())
    factor = float(items[largest] / exact[largest])
    tolerance = allowed * (1 + abs(factor)) + exact.abs() * allowed[largest] / exact[largest].abs()  # (T,)
    if not factor or bool(((items - factor * exact).abs() > tolerance).any()):
        return ""
    observed = score_sum / factor
    guesses = {
        "the sum of target scores without a floor": total,
        "the number of positives": float((scores > 0).any(-1).sum()),
        "the sum of target scores divided by the number of images": max(
            total / len(scores), dialect.score_sum_floor
        ),
    }
    close = [name for name, guess in guesses.items() if abs(observed - guess) <= 1e-4 * abs(guess)]
    as_if = f", {close[0]}" if close else ""
    return f"; all terms are {factor:.6g} times the expected ones: N is {observed:.6g}{as_if}, expected {score_sum:.6g}"


def assert_term(quantity: Quantity, observed: Tensor, bounded: Bounded, remark: str) -> Agreement:
    """Assert that a loss term lies within its tolerance; otherwise `remark` ends the message.

    Raises:
        Mismatch: the term lies outside its tolerance, or is not finite.
    """
    try:
        return assert_within(quantity, observed, bounded)
    except Mismatch as mismatch:
        summary = mismatch.summary + remark
        raise Mismatch(summary, mismatch.clause, mismatch.values, mismatch.verdict) from mismatch


def judge_total(judgement: Judgement, expected: Expectation, loss: LossOutcome) -> None:
    """Judge that the total loss is the sum of the loss's own items times the batch size (LOSS-GAIN-1)."""
    dtype = loss_precision(expected.batch)
    items, factor = loss.items.double(), total_factor(expected.batch.images, expected.dialect)
    total = items.sum() * factor
    same_dtype = loss.items.sum() * factor
    rounding = 4 * torch.finfo(dtype).eps * items.abs().sum() * factor
    error = bound(same_dtype, total, rounding, dtype, "total")
    quantity = Quantity("total", judgement.task.clauses[StageName.TOTAL])
    judgement.note(StageName.TOTAL, assert_within, quantity, loss.total, Bounded(total, error, same_dtype))


def _judge_without_items(
    judgement: Judgement, expected: Expectation, loss: LossOutcome, items: Bounded
) -> None:
    """Judge the total of a loss without items; if the total is not known either, store the expected items."""
    if not loss.knows_total:
        judgement.open_items = tuple(zip(items.expected.tolist(), items.tolerance.tolist(), strict=True))
        return
    assert items.same_dtype is not None
    summed = Bounded(items.expected.sum(), items.tolerance.sum(), items.same_dtype.sum())
    judge_hidden_items(judgement, expected, loss, summed)


def judge_hidden_items(
    judgement: Judgement, expected: Expectation, loss: LossOutcome, summed: Bounded
) -> None:
    """Judge the total of a loss without items: the sum of the expected items, times the batch size (LOSS-GAIN-1).

    Args:
        judgement: the judgement of the batch, to which the result is added.
        expected: expectation of the batch.
        loss: total of the implementation.
        summed: sum of the expected items, with the sum of their tolerances.
    """
    assert summed.same_dtype is not None
    dtype, factor = loss_precision(expected.batch), total_factor(expected.batch.images, expected.dialect)
    total, same_dtype = summed.expected * factor, summed.same_dtype * factor
    rounding = bound(same_dtype, total, 4 * torch.finfo(dtype).eps * total.abs(), dtype, "total")
    bounded = Bounded(total, summed.tolerance * factor + rounding, same_dtype)
    quantity = Quantity("total", judgement.task.clauses[StageName.TOTAL])
    observed = like_division_by_zero(loss.total, same_dtype, expected.dialect)
    judgement.note(StageName.TOTAL, assert_within, quantity, observed, bounded)
