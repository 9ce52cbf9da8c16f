"""What a judged batch can come to, and the report that explains it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ParamSpec

from tal_conformance.core.task import DETECT, Task

Arguments = ParamSpec("Arguments")


class Verdict(StrEnum):
    """The outcome of one batch, from best to worst."""

    EXACT = "exact"
    """Every compared number has the bits that the reference computes in the same dtype."""
    WITHIN_BOUND = "within_bound"
    """Every number lies within its derived rounding bound."""
    ADMISSIBLE = "admissible"
    """A choice that the specification leaves open (section 6) was made otherwise; all that follows from it agrees."""
    KNOWN = "known"
    """It diverges as an entry of the ledger says."""
    DIVERGENT = "divergent"
    """A stage computes something else."""
    NONDETERMINISTIC = "nondeterministic"
    """The same batch twice gave different numbers."""
    ERROR = "error"
    """It raised, or returned something with a wrong shape, dtype or device, or a number that is not finite."""

    @property
    def fails(self) -> bool:
        """Whether a run with this verdict fails."""
        return self in (Verdict.DIVERGENT, Verdict.NONDETERMINISTIC, Verdict.ERROR)


class Uniqueness(StrEnum):
    """How many assignments a batch admits (specification section 6)."""

    UNIQUE = "unique"
    TIE = "tie"
    """Equal values leave a choice: T1, T2 or T3."""
    NEAR_TIE = "near_tie"
    """Values closer than the rounding error leave a choice: T4."""


def least_unique(*kinds: Uniqueness) -> Uniqueness:
    """What a whole is of which the parts are these; UNIQUE without any. A tie says more than a near tie."""
    order = (Uniqueness.UNIQUE, Uniqueness.NEAR_TIE, Uniqueness.TIE)
    return max(kinds, key=order.index, default=Uniqueness.UNIQUE)


class State(StrEnum):
    """What is known of one stage."""

    AGREES = "agrees"
    DIVERGES = "diverges"
    NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Value:
    """One place where two numbers differ.

    Attributes:
        where: "image 0, GT 1, anchor 17".
        quantity: what is compared, with its symbol.
        reference: what it should be.
        implementation: what it is.
        bound: by how much it may differ.
        anchor: the anchor it concerns, if it is one.
        image: the image it concerns, if it is one.
    """

    where: str
    quantity: str
    reference: str
    implementation: str
    bound: str
    anchor: int | None = None
    image: int | None = None


class Mismatch(AssertionError):
    """A comparison that failed; comparators raise it and return nothing that could be overlooked.

    Attributes:
        summary: one sentence.
        values: the worst places.
        clause: the clause that is broken.
        verdict: DIVERGENT, or ERROR where the number is none at all.
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


@dataclass(frozen=True)
class Agreement:
    """A comparison that held.

    Attributes:
        margin: largest error as a share of its bound; 0 where both are zero.
        exact: the numbers are those of the reference in the same dtype, bit by bit.
    """

    margin: float = 0.0
    exact: bool = True


@dataclass
class StageJudgement:
    """The result of the comparisons of one stage.

    Attributes:
        stage: full name of the stage.
        default_clause: the clause that the stage is judged by where no finer one is named.
        state: whether the comparisons succeeded.
        margin: largest error as a share of its bound; None if nothing was compared.
        exact: every number had the bits of the reference.
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
        """The clause that is broken, or the stage's own."""
        return self.mismatch.clause if self.mismatch else self.default_clause

    def add(self, agreement: Agreement) -> None:
        """Note a comparison that held."""
        if self.state is State.NOT_SHOWN:
            self.state = State.AGREES
        self.margin = max(self.margin or 0.0, agreement.margin)
        self.exact = self.exact and agreement.exact

    def fail(self, mismatch: Mismatch) -> None:
        """Note a comparison that failed; the first one stays."""
        self.state = State.DIVERGES
        self.mismatch = self.mismatch or mismatch

    def merge(self, other: "StageJudgement") -> None:
        """Note what other comparisons of the same stage came to."""
        if other.state is State.AGREES:
            self.add(Agreement(other.margin or 0.0, other.exact))
        if other.mismatch is not None:
            self.fail(other.mismatch)


@dataclass
class Judgement:
    """What one outcome of one batch came to.

    Attributes:
        task: the loss family whose stages are judged.
        stages: every stage of the task, in order.
        uniqueness: how many assignments the batch admits.
        chose_differently: the implementation made an open choice otherwise than the reference would.
        inconclusive: the loss hides its assignment, the batch admits more of them than were tried, and none of those
            explains the loss: only what holds for all of them was judged. Or a prediction is no number where rounding
            decides what becomes of it: only the other images were judged. Or IOU-1 divides zero by zero: the box loss
            and the gradients on the distances are not defined, or the whole assignment, and the rest was judged.
        notes: what a reader should know, in sentences.
    """

    task: Task = field(default=DETECT, repr=False)
    stages: dict[str, StageJudgement] = field(default_factory=dict)
    uniqueness: Uniqueness = Uniqueness.UNIQUE
    chose_differently: bool = False
    inconclusive: bool = False
    notes: list[str] = field(default_factory=list)

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
        """Run a comparator and note at `stage` what it says: the only place where a `Mismatch` is caught."""
        try:
            self.stages[stage].add(check(*arguments, **named))
        except Mismatch as mismatch:
            self.stages[stage].fail(mismatch)

    @property
    def first(self) -> StageJudgement | None:
        """The first diverging stage."""
        return next((stage for stage in self.stages.values() if stage.state is State.DIVERGES), None)

    @property
    def verdict(self) -> Verdict:
        """The verdict that follows from the stages."""
        mismatches = [stage.mismatch for stage in self.stages.values() if stage.mismatch]
        if mismatches:
            errors = any(mismatch.verdict is Verdict.ERROR for mismatch in mismatches)
            return Verdict.ERROR if errors else Verdict.DIVERGENT
        if self.chose_differently:
            return Verdict.ADMISSIBLE
        return Verdict.EXACT if all(stage.exact for stage in self.stages.values()) else Verdict.WITHIN_BOUND


class Divergence(AssertionError):
    """An outcome that fails: raised by `judge`, so that nobody can overlook it.

    Attributes:
        judgement: the whole of it.
    """

    def __init__(self, judgement: Judgement) -> None:
        first = judgement.first
        assert first is not None
        assert first.mismatch is not None
        super().__init__(f"{first.stage} ({first.clause}): {first.mismatch.summary}")
        self.judgement = judgement
