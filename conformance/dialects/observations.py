"""Outcomes of an implementation, observed once and judged by many dialects.

An outcome is everything that an implementation returns for a batch. A dialect is the complete behaviour of an
implementation, such as a release of Ultralytics. A recipe describes a generated batch.
"""

from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import cache
from math import prod

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, has_branches
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Divergence, Uniqueness, Verdict
from tal_conformance.dialects.choices import DEFAULTS
from tal_conformance.implementations.errors import ImplementationFailed, NotSupported
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.non_finite import judge_any
from tal_reference import Dialect

READING = ("rows", "sides_exchanged", "image_index_ignored")
"""Choices that change the ground truths, and so the inputs with which a separate assigner is called."""
OF_THE_TOTAL = ("total_times_images", "weighted_branches")
"""Choices by which an outcome is read from the total: items of a loss without items, and gradients of the branches."""
RAISED, RETURNED = "raises", "returns"
"""Names of two divergences: the implementation raises on a supported batch, or returns where it must raise."""
UNDECIDED = "undecided"
"""Name of the divergence of a dialect that leaves more batches inconclusive than `MAX_UNDECIDED` allows."""
MAX_UNDECIDED = 2
"""Number of batches that a dialect may leave inconclusive, although the declared dialect decides them.

A dialect that prescribes NaN would otherwise seem to explain every outcome. Official ones prescribe it for boxes turned
inside out alone: in less than one of a thousand batches."""
UNDECIDED_OF = 10
"""One more batch may be inconclusive for every so many that were judged by the dialect.

The loss of equal ground truths is inconclusive if it hides its assignment, in any dialect. The declared dialect
seems to decide such a batch if another term diverges from it."""
Key = tuple[object, ...]


@dataclass(frozen=True)
class Observation:
    """The result of running an implementation on one batch.

    Attributes:
        outcome: the results of the implementation; None if it failed.
        error: the failure; None if there is an outcome.
        unsupported: True if the implementation raised on a batch that its adapter declares not to support.
    """

    outcome: Outcome | None
    error: ImplementationFailed | None = None
    unsupported: bool = False

    @property
    def raised(self) -> bool:
        """True if the implementation raised an exception, False if it returned any result."""
        return self.error is not None and self.error.details is not None


class Observations:
    """The outcomes of one implementation on many batches, and the stages that diverge from dialects.

    The implementation runs once on each batch; any number of dialects can judge the outcome.

    Args:
        implementation: the implementation under test.

    Attributes:
        refutations: for each judged recipe the number of dialects to which the implementation did not conform
            on it.
        ambiguous: recipes for which some dialect admits several assignments, so that judging takes long.
    """

    def __init__(self, implementation: Implementation) -> None:
        self.implementation = implementation
        self._outcomes: dict[tuple[Recipe, Key], Observation] = {}
        self.refutations: dict[Recipe, int] = {}
        self.ambiguous: set[Recipe] = set()
        self._batches: dict[Recipe, Batch] = {}
        self._expected: dict[Recipe, Expectation] = {}
        self._diverging: dict[tuple[Recipe, Key], frozenset[str]] = {}
        self._undecided: Counter[Key] = Counter()
        self._judgements: Counter[Key] = Counter()
        self._inconclusive: set[tuple[Recipe, Key]] = set()

    def diverging(self, recipe: Recipe, dialect: Dialect) -> frozenset[str]:
        """Return the names of the stages that diverge from a dialect on a recipe's batch; empty if it conforms."""
        key = recipe, key_of(dialect)
        if key not in self._diverging:
            self._diverging[key] = stages = self._judged(recipe, dialect)
            self.refutations[recipe] = self.refutations.get(recipe, 0) + bool(stages)
        return self._diverging[key]

    def is_judged(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if the outcome on a recipe's batch has been judged by a dialect before."""
        return (recipe, key_of(dialect)) in self._diverging

    def conforms(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if the implementation conforms to a dialect on a recipe's batch."""
        return not self.diverging(recipe, dialect)

    def is_evidence(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if conformity to a dialect on a recipe's batch is evidence that the dialect is computed.

        Conformity is not evidence if the batch is inconclusive, or if the dialect has no visible positive on the batch
        although the declared dialect has some: an implementation that finds no positive, for whatever reason, would
        conform too.
        """
        if not self.conforms(recipe, dialect) or (recipe, key_of(dialect)) in self._inconclusive:
            return False
        observation = self.observed(recipe, dialect)
        if observation.unsupported or observation.outcome is None:
            return observation.raised
        hidden = observation.outcome.assignment is None
        declared = self.implementation.dialect
        return self._has_positives(recipe, dialect, hidden) or not self._has_positives(
            recipe, declared, hidden
        )

    def _has_positives(self, recipe: Recipe, dialect: Dialect, hidden: bool) -> bool:
        """Return True if the dialect assigns an anchor; if `hidden`, an anchor with a nonzero weight."""
        expected = self._expectation(recipe, dialect)
        if expected.rejection is not None:
            return False
        batch = expected.batch
        parts = branch_batches(batch, dialect).values() if has_branches(batch) else ()
        of_parts = [Expectation(part, dialect) for part in parts] or [expected]
        images = [image for part in of_parts for image in part.assignment]
        return any(bool((image.weights > 0).any() if hidden else image.foreground.any()) for image in images)

    def batch(self, recipe: Recipe) -> Batch:
        """Return the batch of a recipe, which is built on the first call only."""
        if recipe not in self._batches:
            self._batches[recipe] = recipe.build()
        return self._batches[recipe]

    def supported(self, recipe: Recipe) -> bool:
        """Return True if the adapter does not declare that it does not support a recipe's batch."""
        return self.implementation.support.reason(self.batch(recipe)) is None

    def observed(self, recipe: Recipe, dialect: Dialect) -> Observation:
        """Return the result of running the implementation on a recipe's batch.

        If the batch has other alpha and beta than the detection loss, an implementation that has an assigner is tested
        without its loss (TAL-MET-1). An assigner that is called without a loss gets inputs that the reference computes
        from the annotations by the dialect's rules.
        """
        key = recipe, tuple(getattr(dialect, name) for name in (*READING, *OF_THE_TOTAL))
        if key not in self._outcomes:
            batch = self.batch(recipe)
            numbers = batch.hyperparameters
            default = (numbers.alpha, numbers.beta) == (DEFAULTS.alpha, DEFAULTS.beta)
            alone = not default and "assign" in self.implementation.capabilities
            try:
                inputs = self._expectation(recipe, dialect).inputs
                read = replace(self.implementation, dialect=dialect)
                outcome = execute(read, batch, alone=alone, inputs=inputs)
                self._outcomes[key] = Observation(outcome)
            except ImplementationFailed as error:
                self._outcomes[key] = Observation(None, error)
            except NotSupported:
                self._outcomes[key] = Observation(None, unsupported=True)
        return self._outcomes[key]

    def _judged(self, recipe: Recipe, dialect: Dialect) -> frozenset[str]:
        expected = self._expectation(recipe, dialect)
        rejected, observation = expected.rejection is not None, self.observed(recipe, dialect)
        if observation.unsupported:
            return frozenset()
        if rejected:
            return frozenset() if observation.raised else frozenset({RETURNED})
        if observation.outcome is None:
            return frozenset({RAISED})
        try:
            judgement = judge_any(observation.outcome, expected)
        except Divergence as divergence:
            judgement = divergence.judgement
        self._judgements[key_of(dialect)] += 1
        if judgement.uniqueness is not Uniqueness.UNIQUE:
            self.ambiguous.add(recipe)
        if judgement.verdict is Verdict.INCONCLUSIVE:
            self._inconclusive.add((recipe, key_of(dialect)))
        if judgement.verdict is Verdict.INCONCLUSIVE and self._is_decided_as_declared(recipe, dialect):
            self._undecided[key_of(dialect)] += 1
            allowed = MAX_UNDECIDED + self._judgements[key_of(dialect)] // UNDECIDED_OF
            if self._undecided[key_of(dialect)] > allowed:
                return frozenset({UNDECIDED})
        return frozenset(name for name, stage in judgement.stages.items() if stage.mismatch)

    def _is_decided_as_declared(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if the batch is not inconclusive in the declared dialect, and `dialect` is another dialect."""
        declared = self.implementation.dialect
        if key_of(dialect) == key_of(declared) or self.observed(recipe, declared).outcome is None:
            return False
        return not self.conforms(recipe, declared) or (recipe, key_of(declared)) not in self._inconclusive

    def _expectation(self, recipe: Recipe, dialect: Dialect) -> Expectation:
        """Return the results that a dialect requires on a batch; all dialects share the decoded predictions."""
        batch = self.batch(recipe)
        if recipe not in self._expected:
            self._expected[recipe] = Expectation(batch, dialect)
        first = self._expected[recipe]
        expected = Expectation(batch, dialect)
        expected.__dict__["predictions"] = first.predictions
        expected.__dict__["rounded_predictions"] = first.rounded_predictions
        return expected


def key_of(dialect: Dialect) -> Key:
    """Return the values of all choices of a dialect except the order of rows, which is not judged."""
    return tuple(
        getattr(dialect, field.name) for field in fields(dialect) if field.name not in ("name", "rows_sorted")
    )


@cache
def size_of(recipe: Recipe) -> tuple[int, int]:
    """Return a sort key: number of anchors and of their pairs with ground truths, then length of the repr."""
    anchors = len(recipe.images) * sum(map(prod, recipe.grids))
    return anchors * (1 + sum(map(len, recipe.images))), len(repr(recipe))
