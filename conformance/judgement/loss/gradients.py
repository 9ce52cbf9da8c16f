"""Judging the gradients of a loss, given the assignment that the loss itself used (LOSS-GRAD-1).

B images, A anchors, P positives of the whole batch, width: channels of a head field.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from tal_conformance.core.outcome import LossOutcome
from tal_conformance.core.task import HeadField, StageName
from tal_conformance.core.verdicts import Agreement, Judgement
from tal_conformance.judgement.comparators import (
    MAX_TOLERANCE_SHARE,
    Bounded,
    Quantity,
    all_finite,
    assert_within,
    assert_within_at,
)
from tal_conformance.judgement.expectation import LossExpectation
from tal_conformance.judgement.loss.gradient_range import exceeds_range, untrained_loss
from tal_conformance.judgement.loss.gradient_term import gradient_remark
from tal_conformance.judgement.rounding.exact_loss import Gradients, ReferenceLoss, fields_of
from tal_conformance.judgement.rounding.loss_rounding import LossRounding, add_gradients, gradient_bound
from tal_conformance.judgement.rounding.mixed_precision import is_coarse
from tal_reference import Dialect

DIMENSIONS = {
    "positives": ("image", "anchor", "channel"),
    "anchors": ("image", "anchor", "channel"),
    "image": ("image", "channel", "row", "column"),
}
"""Names of the dimensions of a head field's gradient, by the field's place."""
TOO_WIDE = (
    "{} is not judged: on a level its bound is more than "
    f"{MAX_TOLERANCE_SHARE:.0%} of the gradient itself and of that of an untrained head"
)
"""Reason for an inconclusive judgement."""


@dataclass(frozen=True)
class TermGradients:
    """Gradients of one loss term, or of the total, on every head field.

    Attributes:
        term: name of the term, or "total".
        observed: gradients of the implementation.
        exact: gradients in float64.
        naive: gradients of the reference in the batch's dtype.
        rounding: effect of one rounding in each operation.
        jumps: additional differences where the gradients are not continuous.
        moves: additional tolerance for an uncertain assignment.
        untrained: gradients of an untrained head, for the range of the gradients.
    """

    term: str
    observed: Gradients
    exact: Gradients
    naive: Gradients
    rounding: Gradients
    jumps: Gradients
    moves: Gradients
    untrained: Gradients


def judge_gradients(
    judgement: Judgement,
    loss: LossOutcome,
    expected: LossExpectation,
    slack: LossRounding,
    fields: tuple[str, ...],
) -> None:
    """Judge the gradients of the total loss, and of each term if known, on the head fields (LOSS-GRAD-1).

    At background anchors the gradient on distance logits and angles must be exactly zero.

    Args:
        judgement: the judgement of the batch, to which the results are added.
        loss: gradients of the implementation.
        expected: expectation of the targets that the loss used.
        slack: additional tolerance for an uncertain assignment.
        fields: names of the head fields to judge.
    """
    judge = GradientJudge(judgement, expected, slack, is_whole=loss.shows_items)
    for gradients in judge.gradients_of(loss):
        for place, field in enumerate(expected.expected.batch.family.fields):
            if field.name in fields:
                judge.judge_field(gradients, place, field)


@dataclass(frozen=True)
class GradientJudge:
    """Judge of the gradients of one batch.

    Attributes:
        judgement: the judgement of the batch, to which the results are added.
        expected: expectation of the targets that the loss used.
        slack: additional tolerance for an uncertain assignment.
        is_whole: False if the gradients are those of a part of a loss, such as a branch, without items.
    """

    judgement: Judgement
    expected: LossExpectation
    slack: LossRounding
    is_whole: bool

    @property
    def is_enclosed(self) -> bool:
        """True if enclosures bound roundings that are not multiples of a rounding unit, as under autocast."""
        return self.expected.rounding.enclosed is not None

    @cached_property
    def untrained(self) -> ReferenceLoss | None:
        """The loss of an untrained head; None where bounds are not compared with the range of the gradients.

        float32's bounds are far below every range. Without autocast, every operation of 16-bit code may round, and only
        gradients of whole losses are compared with their range.
        """
        batch = self.expected.expected.batch
        in_half = is_coarse(batch.dtype) and not batch.autocast and self.is_whole
        has_range = in_half or (self.is_enclosed and batch.autocast)
        return untrained_loss(self.expected) if has_range else None

    def gradients_of(self, loss: LossOutcome) -> Iterator[TermGradients]:
        """Yield the gradients of each term of a loss, if they are known, and of its total."""
        known, unit = self.expected, self.expected.rounding
        batch, exact, naive = known.expected.batch, known.exact, known.same_dtype
        untrained = self.untrained or exact
        may_divide_by_zero = known.expected.dialect.score_sum_floor == 0 or batch.family.has_masks
        # of one tensor's parts, zero times infinity is NaN
        if loss.term_gradients and (not may_divide_by_zero or all_finite(naive.items)):
            names = [term.name for term in batch.family.terms]
            observed = [fields_of(maps, batch) for maps in loss.term_gradients]
            of_terms = (
                observed, exact.of_terms, naive.of_terms, unit.of_terms, unit.jumps, self.slack.of_terms,
                untrained.of_terms,
            )  # fmt: skip
            for row in zip(names, *of_terms, strict=True):
                yield TermGradients(*row)
        yield TermGradients(
            "total", fields_of(loss.gradients, batch), exact.of_total, naive.of_total, unit.of_total,
            unit.jumps_of_total, self.slack.of_total, untrained.of_total,
        )  # fmt: skip

    def judge_field(self, gradients: TermGradients, place: int, field: HeadField) -> None:
        """Judge the gradients of a term on one head field, whose number is `place`."""
        batch, dialect = self.expected.expected.batch, self.expected.expected.dialect
        at = self.expected.positives  # (P,), (P,)
        wanted, naive, longest = (
            of_fields[place] for of_fields in (gradients.exact, gradients.naive, gradients.untrained)
        )
        observed = like_division_by_zero(gradients.observed[place], naive, dialect)
        check: Callable[..., Agreement] = assert_within
        if field.place == "positives":  # elsewhere exactly zero
            wanted, naive, longest = wanted[at], naive[at], longest[at]  # (P, width)
            check = partial(assert_within_at, at=at)
        extra = add_gradients(gradients.jumps[place], gradients.moves[place])
        rounding = gradients.rounding[place]
        allowed = gradient_bound(batch, field.quantity, wanted, naive, rounding, self.is_enclosed)
        tolerance = add_gradients(allowed, extra)
        branches = self.slack.branches or self.expected.rounding.branches
        if branches is not None and field.name == "distances" and gradients.term in ("total", "box"):
            longest = torch.maximum(longest.abs(), branches.largest(wanted))
            wanted, tolerance = branches.nearest(observed[at].double(), wanted, tolerance)
        clause = self.judgement.task.clauses[StageName.GRADIENTS]
        quantity = Quantity(
            f"gradient of {gradients.term} on {field.quantity}", clause, DIMENSIONS[field.place]
        )
        stage = self.judgement.stages[StageName.GRADIENTS]
        agreed = stage.mismatch is None
        bounded = Bounded(wanted, tolerance, naive, extra)
        self.judgement.note(StageName.GRADIENTS, check, quantity, observed, bounded=bounded)
        anchor = None if field.name == "logits" else at[1]
        if self.untrained is not None and exceeds_range(batch, wanted, longest, tolerance, anchor):
            self.judgement.leave_open(TOO_WIDE.format(quantity.name))
        if agreed and stage.mismatch is not None and gradients.term == "total":
            stage.mismatch.summary += gradient_remark(
                self.judgement, batch, field.name, observed, wanted, tolerance, at
            )


def like_division_by_zero(observed: Tensor, same_dtype: Tensor, dialect: Dialect) -> Tensor:
    """Return `observed` with the infinities and NaN of `same_dtype` where both are non-finite, if N may be 0.

    In a dialect without a floor of N (LOSS-SUM-1, before 8.0.35) a term is x / 0: infinite, or NaN if x is 0 too, and
    rounding decides whether the cross-entropy x of saturated logits is 0. In other dialects nothing is replaced.
    """
    if dialect.score_sum_floor > 0:
        return observed
    neither = ~observed.isfinite() & ~same_dtype.isfinite()
    return torch.where(neither, same_dtype.to(observed.dtype), observed)
