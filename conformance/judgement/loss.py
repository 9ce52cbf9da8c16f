"""Judging a loss: its terms, their sum and the gradient, given the assignment that the loss itself used.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from functools import partial

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Assignment, LossOutcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement
from tal_conformance.judgement.bounds import (
    bound,
)
from tal_conformance.judgement.comparators import assert_within, assert_within_at
from tal_conformance.judgement.loss_reference import Computed, compute, is_defined, loss_precision
from tal_conformance.judgement.loss_rounding import (
    NO_JUMP,
    ROUNDING_UNITS_BY_TASK,
    AssignmentUncertainty,
    LossRounding,
    _plus,
    gradient_bound,
    uncertainty_units,
)
from tal_reference import BatchTargets, Dialect, Predictions
from tal_reference.anchors import flatten


def judge_loss(
    judgement: Judgement,
    batch: Batch,
    assignment: Assignment,
    loss: LossOutcome,
    dialect: Dialect,
    predictions: Predictions,
    unsure: AssignmentUncertainty | None = None,
) -> None:
    """Judge the stages "cls" to "gradients", into `judgement`.

    Args:
        judgement: takes the result; undecided where the loss is not defined, and only the rest of it was judged.
        batch: what was computed on.
        assignment: what the loss used; its numbers are taken as they are.
        loss: what came out.
        dialect: what it is held to.
        predictions: the batch's in float64.
        unsure: how far the loss's own may lie from it; None if it is the loss's own.
    """
    targets = BatchTargets(assignment.foreground, assignment.boxes.double(), assignment.scores)
    each_term = bool(loss.term_gradients)
    exact = compute(batch, targets, torch.float64, dialect, each_term, predictions)
    same_dtype = compute(batch, targets, batch.dtype, dialect, each_term)
    unit = ROUNDING_UNITS_BY_TASK[batch.task](batch, targets, exact, dialect)
    if unsure is None:
        slack = LossRounding(torch.zeros_like(unit.items), NO_JUMP, NO_JUMP)
    else:
        slack = uncertainty_units(batch, targets, exact, unit, unsure, dialect)
    at = targets.foreground.nonzero(as_tuple=True)  # (P,), (P,)
    defined = is_defined(exact, at)
    judgement.inconclusive = judgement.inconclusive or not defined
    dtype = loss_precision(batch)
    for stage, place in batch.family.item_of.items():
        if stage == StageName.BOX and not defined:
            continue
        quantity = batch.family.terms[place].quantity
        allowed = bound(same_dtype.items[place], exact.items[place], unit.items[place], dtype, quantity)
        judgement.note(
            stage, assert_within, quantity, judgement.task.clauses[stage], loss.items[place], exact.items[place],
            allowed + slack.items[place], same_dtype.items[place], (), extra_tolerance=slack.items[place],
        )  # fmt: skip
    judge_total(judgement, batch, loss)
    judge_gradients(
        judgement, batch, loss, at, exact, same_dtype, unit, slack, None if defined else ("logits",)
    )


def judge_total(judgement: Judgement, batch: Batch, loss: LossOutcome) -> None:
    """LOSS-GAIN-1: what is differentiated is the sum of the implementation's own items, times the batch size."""
    dtype = loss_precision(batch)
    items = loss.items.double()
    total = items.sum() * batch.images
    same_dtype = loss.items.sum() * batch.images
    rounding = 4 * torch.finfo(dtype).eps * items.abs().sum() * batch.images
    error = bound(same_dtype, total, rounding, dtype, "total")
    clause = judgement.task.clauses[StageName.TOTAL]
    judgement.note(StageName.TOTAL, assert_within, "total", clause, loss.total, total, error, same_dtype, ())


def judge_gradients(
    judgement: Judgement, batch: Batch, loss: LossOutcome, at: tuple[Tensor, ...], exact: Computed,
    same_dtype: Computed, unit: LossRounding, slack: LossRounding, on: tuple[str, ...] | None = None,
) -> None:  # fmt: skip
    """LOSS-GRAD-1: the gradients of each term, and of the total, on every head field, or on those named by `on`.

    Background learns no distance: off the positives, whose images and anchors `at` gives, they are zero.
    """
    rows = [
        (
            "total",
            loss.gradients,
            exact.of_total,
            same_dtype.of_total,
            unit.of_total,
            unit.jumps_of_total,
            slack.of_total,
        )
    ]
    if loss.term_gradients:
        of_terms = exact.of_terms, same_dtype.of_terms, unit.of_terms, unit.jumps, slack.of_terms
        rows = [
            *zip([term.name for term in batch.family.terms], loss.term_gradients, *of_terms, strict=True),
            *rows,
        ]
    names = ("image", "anchor", "channel")
    for term, maps, *computed in rows:
        distances, logits = flatten(maps, batch.head)  # (B, A, 4R), (B, A, C)
        right, ours, *rest = (each[0] for each in computed)
        of_positives = [right[at], ours[at], *rest]  # (P, 4R), or a number
        for field, check, observed, (expected, approximate, rounding, jump, moves) in (
            (batch.family.field("distances"), partial(assert_within_at, at=at), distances, of_positives),
            (batch.family.field("logits"), assert_within, logits, [each[1] for each in computed]),
        ):
            if on is not None and field.name not in on:
                continue
            name = field.quantity
            extra_tolerance = _plus(jump, moves)
            allowed = _plus(gradient_bound(batch, name, expected, approximate, rounding), extra_tolerance)
            judgement.note(
                StageName.GRADIENTS, check, f"gradient of {term} on {name}",
                judgement.task.clauses[StageName.GRADIENTS], observed,
                expected=expected, bound=allowed, same_dtype=approximate, names=names, extra_tolerance=extra_tolerance,
            )  # fmt: skip
