"""Verdicts of judged batches, and the stages, mismatches and values that explain them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ParamSpec

from tal_conformance.core.task import DETECT, Task

Arguments = ParamSpec("Arguments")


class Verdict(StrEnum):
    """The result of judging one batch; the members are sorted from best to worst."""

    EXACT = "exact"
    """Every compared value equals bitwise the value that the reference computes in the same dtype."""
    WITHIN_BOUND = "within_bound"
    """Every compared value lies within its derived rounding bound."""
    ADMISSIBLE = "admissible"
    """A choice that the specification leaves open (section 6) differs; all values that depend on it agree."""
    REJECTED = "rejected"
    """The implementation raised on a batch that it must reject according to a clause; no values were compared."""
    INCONCLUSIVE = "inconclusive"
    """A part of the result could not be judged, and no judged part differs."""
    NOT_SUPPORTED = "not_supported"
    """The implementation raised on a batch that its adapter declares not to support; no values were compared."""
    KNOWN = "known"
    """The divergence is an entry of the ledger of known issues."""
    DIVERGENT = "divergent"
    """A stage computes a value that differs from the specification."""
    NONDETERMINISTIC = "nondeterministic"
    """Two runs on the same batch returned different values."""
    ERROR = "error"
    """The implementation raised, or returned a wrong shape, dtype or device, or a non-finite number."""

    @property
    def fails(self) -> bool:
        """True if a run with this verdict fails."""
        return self in (Verdict.DIVERGENT, Verdict.NONDETERMINISTIC, Verdict.ERROR)


class Uniqueness(StrEnum):
    """The number of assignments that a batch admits, one or several, and the reason (specification section 6)."""

    UNIQUE = "unique"
    TIE = "tie"
    """Several, because values are equal: T1, T2 or T3."""
    NEAR_TIE = "near_tie"
    """Several, because values differ by less than the rounding error: T4."""


def least_unique(*kinds: Uniqueness) -> Uniqueness:
    """Return the least unique of the given values: TIE if it occurs, else NEAR_TIE if it occurs, else UNIQUE."""
    order = (Uniqueness.UNIQUE, Uniqueness.NEAR_TIE, Uniqueness.TIE)
    return max(kinds, key=order.index, default=Uniqueness.UNIQUE)


class State(StrEnum):
    """The result of judging one stage of the computation."""

    AGREES = "agrees"
    DIVERGES = "diverges"
    NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Value:
    """A place where two numbers differ.

    Attributes:
        where: the place, such as "image 0, GT 1, anchor 17".
        quantity: name of the compared quantity, with its symbol.
        reference: expected value.
        implementation: observed value.
        bound: largest admissible difference.
        anchor: index of the anchor, if the place is at an anchor.
        image: index of the image, if the place is in an image.
    """

    where: str
    quantity: str
    reference: str
    implementation: str
    bound: str
    anchor: int | None = None
    image: int | None = None


class Mismatch(AssertionError):
    """A failed comparison with the reference. Comparators raise it, so that it cannot be overlooked.

    Attributes:
        summary: what differs, in one sentence.
        values: the places with the largest differences.
        clause: the violated clause of the specification.
        verdict: DIVERGENT, or ERROR if the value is not finite.
    """

    def __init__(
        self,
        summary: str,
        clause: str,
        values: Iterable[Value] = (),
        verdict: Verdict = Verdict.DIVERGENT,
    ) -> None:
        super().__init__(summary)
        self.summary, self.clause, self.values, self.verdict = summary, clause, list(values), verdict


class Undecided(Exception):
    """A comparison that could not be decided: neither an agreement nor a mismatch.

    Attributes:
        reason: the reason, as a sentence without a full stop. Reports count batches by their reasons, so a reason does
            not name a place.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Agreement:
    """The result of a successful comparison of values with the reference.

    Attributes:
        margin: largest error as a share of its bound; 0 where both are zero.
        exact: True if all values equal bitwise those of the reference in the same dtype.
        too_wide: a sentence if the bound was too wide for the agreement to mean anything, or "".
    """

    margin: float = 0.0
    exact: bool = True
    too_wide: str = ""


@dataclass
class StageJudgement:
    """The result of the comparisons of one stage.

    Attributes:
        stage: full name of the stage.
        default_clause: the clause reported for the stage, unless a comparison names a more specific one.
        state: AGREES, DIVERGES, or NOT_SHOWN if nothing was compared.
        margin: largest error as a share of its bound; None if nothing was compared.
        exact: True if all values equal bitwise those of the reference in the same dtype.
        mismatch: the first comparison that failed.
    """

    stage: str
    default_clause: str
    state: State = State.NOT_SHOWN
    margin: float | None = None
    exact: bool = True
    mismatch: Mismatch | None = None

    @property
    def clause(self) -> str:
        """The clause of the mismatch, or the stage's default clause without a mismatch."""
        return self.mismatch.clause if self.mismatch else self.default_clause

    def add(self, agreement: Agreement) -> None:
        """Add a successful comparison."""
        if self.state is State.NOT_SHOWN:
            self.state = State.AGREES
        self.margin = max(self.margin or 0.0, agreement.margin)
        self.exact = self.exact and agreement.exact

    def fail(self, mismatch: Mismatch) -> None:
        """Add a failed comparison; only the first mismatch is kept."""
        self.state = State.DIVERGES
        self.mismatch = self.mismatch or mismatch

    def merge(self, other: "StageJudgement") -> None:
        """Add the comparisons of `other`, another judgement of the same stage."""
        if other.state is State.AGREES:
            self.add(Agreement(other.margin or 0.0, other.exact))
        if other.mismatch is not None:
            self.fail(other.mismatch)


@dataclass
class Judgement:
    """The judgement of one outcome of one batch.

    Attributes:
        task: the loss family whose stages are judged.
        stages: every stage of the task, in order.
        uniqueness: the number of assignments that the batch admits.
        chose_differently: True if the implementation resolved a tie differently from the reference, which is allowed.
        inconclusive: True if a part of the result could not be judged. Reasons: the loss does not expose its
            assignment and none of the assignments that were tried explains it; rounding decides the effect of a
            non-finite prediction, so that only the other images were judged; IOU-1 divides zero by zero, so that the
            box loss and the gradients on the distances, or the assignment of an image and the loss, are undefined; the
            bound of a term is too wide to judge the term by; or the search for an admissible selection reached its time
            limit.
        undefined: True if the specification leaves a part of the result undefined.
        rejected: True if the implementation raised, as the specification requires for this batch.
        unsupported: the adapter's reason for not supporting the batch, on which it raised; "" if it supports it.
        absent: names of results that the implementation does not have, and which were derived from other results.
        notes: remarks for the reader of the report, as sentences.
        open_items: expected value and tolerance of each loss item, in order, of a loss whose items and total are not
            known (`LossOutcome.knows_total`); empty otherwise.
    """

    task: Task = field(default=DETECT, repr=False)
    stages: dict[str, StageJudgement] = field(default_factory=dict)
    uniqueness: Uniqueness = Uniqueness.UNIQUE
    chose_differently: bool = False
    inconclusive: bool = False
    undefined: bool = False
    rejected: bool = False
    unsupported: str = ""
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    open_items: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.stages:
            self.stages = {name: StageJudgement(name, clause) for name, clause in self.task.clauses.items()}

    def note(
        self,
        stage: str,
        check: Callable[Arguments, Agreement],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> None:
        """Run a comparator and add its result to `stage`: the only place where a `Mismatch` is caught."""
        try:
            agreement = check(*arguments, **named)
            self.stages[stage].add(agreement)
            if agreement.too_wide:
                self.leave_open(agreement.too_wide)
        except Mismatch as mismatch:
            self.stages[stage].fail(mismatch)
        except Undecided as undecided:
            self.leave_open(undecided.reason)

    def leave_open(self, reason: str) -> None:
        """Record that a part of the outcome could not be judged, and the reason."""
        self.inconclusive = True
        if reason not in self.notes:
            self.notes.append(reason)

    @property
    def first(self) -> StageJudgement | None:
        """The first stage that diverges from the reference; None if no stage does."""
        return next((stage for stage in self.stages.values() if stage.state is State.DIVERGES), None)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the batch, computed from the results of the stages."""
        mismatches = [stage.mismatch for stage in self.stages.values() if stage.mismatch]
        if mismatches:
            errors = any(mismatch.verdict is Verdict.ERROR for mismatch in mismatches)
            return Verdict.ERROR if errors else Verdict.DIVERGENT
        if self.unsupported:
            return Verdict.NOT_SUPPORTED
        if self.rejected:
            return Verdict.REJECTED
        if self.inconclusive:
            return Verdict.INCONCLUSIVE
        if self.chose_differently:
            return Verdict.ADMISSIBLE
        return Verdict.EXACT if all(stage.exact for stage in self.stages.values()) else Verdict.WITHIN_BOUND


class Divergence(AssertionError):
    """Error: an outcome fails. `judge` raises it, so that a failure cannot be overlooked.

    Attributes:
        judgement: the judgement of the outcome.
    """

    def __init__(self, judgement: Judgement) -> None:
        first = judgement.first
        assert first is not None
        assert first.mismatch is not None
        super().__init__(f"{first.stage} ({first.clause}): {first.mismatch.summary}")
        self.judgement = judgement
