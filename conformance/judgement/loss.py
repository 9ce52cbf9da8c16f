"""Judging a loss: its terms, their sum and the gradient, given the assignment that the loss itself used.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from functools import partial

import torch

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Assignment, LossOutcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement
from tal_conformance.judgement.bounds import bound
from tal_conformance.judgement.comparators import Bounded, Quantity, assert_within, assert_within_at
from tal_conformance.judgement.expectation import Expectation, LossExpectation
from tal_conformance.judgement.loss_reference import loss_precision
from tal_conformance.judgement.loss_rounding import (
    NO_JUMP,
    AssignmentUncertainty,
    LossRounding,
    add_gradients,
    gradient_bound,
)
from tal_reference import BatchTargets
from tal_reference.anchors import flatten


def judge_loss(
    judgement: Judgement,
    assignment: Assignment,
    loss: LossOutcome,
    expected: Expectation,
    unsure: AssignmentUncertainty | None = None,
) -> None:
    """Judge the stages "cls" to "gradients", into `judgement`.

    Args:
        judgement: takes the result; inconclusive if the loss is not defined, so that only the rest of it was judged.
        assignment: the assignment that the loss used; its values are not judged here.
        loss: loss, items and gradients of the implementation.
        expected: of the batch.
        unsure: possible difference between `assignment` and the loss's own one; None if they are the same.
    """
    targets = BatchTargets(assignment.foreground, assignment.boxes.double(), assignment.scores)
    known = expected.loss(targets, each_term=bool(loss.term_gradients))
    if unsure is None:
        slack = LossRounding(torch.zeros_like(known.rounding.items), NO_JUMP, NO_JUMP)
    else:
        slack = known.uncertainty(unsure)
    judgement.inconclusive = judgement.inconclusive or not known.is_defined
    dtype = loss_precision(expected.batch)
    exact, same_dtype, unit = known.exact.items, known.same_dtype.items, known.rounding.items
    for stage, place in expected.batch.family.item_of.items():
        if stage == StageName.BOX and not known.is_defined:
            continue
        name, extra = expected.batch.family.terms[place].quantity, slack.items[place]
        error = bound(same_dtype[place], exact[place], unit[place], dtype, name) + extra
        bounded = Bounded(exact[place], error, same_dtype[place], extra)
        quantity = Quantity(name, judgement.task.clauses[stage])
        judgement.note(stage, assert_within, quantity, loss.items[place], bounded)
    judge_total(judgement, expected.batch, loss)
    judge_gradients(judgement, loss, known, slack, None if known.is_defined else ("logits",))


def judge_total(judgement: Judgement, batch: Batch, loss: LossOutcome) -> None:
    """Judge the total that is differentiated: the sum of the loss's own items, times the batch size (LOSS-GAIN-1)."""
    dtype = loss_precision(batch)
    items = loss.items.double()
    total = items.sum() * batch.images
    same_dtype = loss.items.sum() * batch.images
    rounding = 4 * torch.finfo(dtype).eps * items.abs().sum() * batch.images
    error = bound(same_dtype, total, rounding, dtype, "total")
    quantity = Quantity("total", judgement.task.clauses[StageName.TOTAL])
    judgement.note(StageName.TOTAL, assert_within, quantity, loss.total, Bounded(total, error, same_dtype))


def judge_gradients(
    judgement: Judgement,
    loss: LossOutcome,
    expected: LossExpectation,
    slack: LossRounding,
    fields: tuple[str, ...] | None = None,
) -> None:
    """Judge the gradients of the total, and of each term if known, on the head fields (LOSS-GRAD-1).

    Background learns no distance: its gradient on the distance logits is exactly zero.

    Args:
        judgement: takes the result.
        loss: gradients of the implementation.
        expected: of the targets that the loss used.
        slack: additional tolerance for an uncertain assignment.
        fields: names of the head fields to judge; None: all.
    """
    batch, at = expected.expected.batch, expected.positives
    exact, same_dtype, unit = expected.exact, expected.same_dtype, expected.rounding
    of_total = exact.of_total, same_dtype.of_total, unit.of_total, unit.jumps_of_total, slack.of_total
    rows = [("total", loss.gradients, *of_total)]
    if loss.term_gradients:
        names = [term.name for term in batch.family.terms]
        of_terms = exact.of_terms, same_dtype.of_terms, unit.of_terms, unit.jumps, slack.of_terms
        rows = [*zip(names, loss.term_gradients, *of_terms, strict=True), *rows]
    clause, dimensions = judgement.task.clauses[StageName.GRADIENTS], ("image", "anchor", "channel")
    for term, maps, *computed in rows:
        distances, logits = flatten(maps, batch.head)  # (B, A, 4R), (B, A, C)
        right, approximate, *rest = (pair[0] for pair in computed)
        of_positives = [right[at], approximate[at], *rest]  # (P, 4R), or a number
        for field, check, observed, values in (
            (batch.family.field("distances"), partial(assert_within_at, at=at), distances, of_positives),
            (batch.family.field("logits"), assert_within, logits, [pair[1] for pair in computed]),
        ):
            if fields is not None and field.name not in fields:
                continue
            wanted, naive, rounding, jump, moves = values
            extra = add_gradients(jump, moves)
            allowed = gradient_bound(batch, field.quantity, wanted, naive, rounding)
            bounded = Bounded(wanted, add_gradients(allowed, extra), naive, extra)
            quantity = Quantity(f"gradient of {term} on {field.quantity}", clause, dimensions)
            judgement.note(StageName.GRADIENTS, check, quantity, observed, bounded=bounded)
