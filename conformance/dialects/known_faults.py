"""Find the planted fault that explains an implementation, where no choice of a dialect does.

A planted fault is the reference with a function or constant replaced. It is not a choice: an adapter cannot declare it,
and nothing is judged by it. An implementation has the fault if its results equal those of the faulty reference up to
rounding on all batches, and differ from the results of the unchanged reference where the implementation failed.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Outcome
from tal_conformance.dialects.choices import reference_of
from tal_conformance.dialects.observations import Observation, size_of
from tal_conformance.dialects.resemblance import DIFFERENT, SAME, distance_from, reference_results
from tal_conformance.dialects.search import Search
from tal_conformance.judgement.rejection import rejection_for
from tal_reference import Dialect

CLOSER = 10.0
"""The faulty reference must be at least so many times as similar as the unchanged reference: one decimal digit, so that
two faults of which one is a weaker form of the other are told apart."""


class KnownFault(Protocol):
    """A fault that can be planted in the reference."""

    @property
    def name(self) -> str:
        """Name of the fault, with underscores."""

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses that the fault violates."""

    def planted(self) -> AbstractContextManager[None]:
        """Plant the fault in the reference while a `with` block runs."""


@dataclass(frozen=True)
class FaultEvidence:
    """The fault that explains an implementation.

    Attributes:
        fault: the fault.
        explained: number of batches on which the results equal those of the faulty reference.
        undecided: number of batches on which the results differ, and several assignments are admissible.
        incomparable: number of batches on which no results could be compared.
        failing: number of batches on which the implementation differs from the unchanged reference.
        smallest: the smallest of these.
        equals: other faults that explain as much.
    """

    fault: KnownFault
    explained: int
    undecided: int
    incomparable: int
    failing: int
    smallest: Recipe
    equals: tuple[KnownFault, ...] = ()

    @property
    def words(self) -> str:
        """The fault in a few words, to follow the word "with"."""
        return words_of(self.fault)


def words_of(fault: KnownFault) -> str:
    """Return a fault in a few words, to follow the word "with"."""
    return f'the fault "{fault.name.replace("_", " ")}"'


def explaining_fault(
    search: Search,
    dialect: Dialect,
    failing: Sequence[Recipe],
    new: Iterable[Recipe],
    faults: Iterable[KnownFault],
) -> FaultEvidence | None:
    """Return the fault that explains an implementation, with the evidence; None if no fault does.

    Args:
        search: the search, with all batches to explain.
        dialect: the dialect in which faults are planted.
        failing: recipes of batches on which the implementation does not conform to the dialect.
        new: further recipes, which may refute a fault.
        faults: the known faults.

    Raises:
        OutOfTimeError: the budget is used up.
    """
    comparison = _Comparison(search, dialect)
    smallest = sorted((r for r in failing if comparison.is_comparable(r)), key=size_of)
    refuting = [recipe for recipe in smallest if not search.conforming(recipe, dialect)]
    # Faults in the treatment of equal metrics show on ambiguous batches alone.
    telling = [recipe for recipe in refuting if recipe not in search.observations.ambiguous] or refuting
    if not telling:
        return None
    found = [fault for fault in faults if comparison.has_fault(telling, fault)]
    recipes = [r for r in dict.fromkeys([*search.recipes, *new]) if search.observations.supported(r)]
    others = [recipe for recipe in recipes if comparison.is_comparable(recipe)]
    found = [fault for fault in found if not comparison.refuting(others, fault)]
    if not found:
        return None
    undecided = [sum(not comparison.equals(recipe, fault) for recipe in others) for fault in found]
    fewest = min(undecided)
    best, *equals = [fault for fault, count in zip(found, undecided, strict=True) if count == fewest]
    explained, incomparable = len(others) - fewest, len(recipes) - len(others)
    return FaultEvidence(best, explained, fewest, incomparable, len(telling), telling[0], tuple(equals))


class _Comparison:
    """Comparison of an implementation's results with those of the reference, with and without a planted fault."""

    def __init__(self, search: Search, dialect: Dialect) -> None:
        self.search, self.observations, self.dialect = search, search.observations, dialect

    def is_comparable(self, recipe: Recipe) -> bool:
        """Return False if a loss is not tested on the batch, but only the assigner beside it, or nothing at all.

        Batches that are invalid in themselves, on which results are undefined, are not comparable either.
        """
        observation = self.observations.observed(recipe, self.dialect)
        alone = observation.outcome is not None and observation.outcome.loss is None
        if observation.unsupported or (alone and "loss" in self.observations.implementation.capabilities):
            return False
        batch = self.observations.batch(recipe)
        return rejection_for(batch, self.dialect) is not None or not _is_invalid(batch, self.dialect)

    def has_fault(self, recipes: Sequence[Recipe], fault: KnownFault) -> bool:
        """Return True if results equal the faulty reference's on all batches, and not the unchanged reference's.

        The effect of a fault on one batch may be below the rounding that `SAME` allows; then other batches decide.
        """
        if not all(self.equals(recipe, fault) for recipe in recipes):
            return False
        explained = different = False
        for recipe in recipes:
            self.search.check_time()
            observation, batch = (
                self.observations.observed(recipe, self.dialect),
                self.observations.batch(recipe),
            )
            is_better = is_explained(batch, observation, self.dialect, fault)
            different |= not is_better and distance_to(batch, observation, self.dialect, None) > SAME
            explained |= is_better
        return explained and not different

    def equals(self, recipe: Recipe, fault: KnownFault) -> bool:
        """Return True if the results on a batch equal the faulty reference's, up to rounding."""
        self.search.check_time()
        observation = self.observations.observed(recipe, self.dialect)
        return distance_to(self.observations.batch(recipe), observation, self.dialect, fault) <= SAME

    def refuting(self, recipes: Iterable[Recipe], fault: KnownFault) -> Recipe | None:
        """Return a batch with one admissible assignment on which results differ from the faulty reference's."""
        ambiguous = self.observations.ambiguous
        return next((r for r in recipes if not self.equals(r, fault) and r not in ambiguous), None)


def is_explained(batch: Batch, observation: Observation, dialect: Dialect, fault: KnownFault) -> bool:
    """Return True if results on a batch equal the faulty reference's, but not the unchanged reference's."""
    with_fault = distance_to(batch, observation, dialect, fault)
    return with_fault <= SAME and CLOSER * with_fault < distance_to(batch, observation, dialect, None)


def distance_to(batch: Batch, observation: Observation, dialect: Dialect, fault: KnownFault | None) -> float:
    """Return the distance, 0 to 1, of an implementation's results from the reference's, with a fault if one is given.

    The distance is 0 if both raise, and 1 if only one does.
    """
    own = None if observation.outcome is None else _of_one_call(observation.outcome)
    with nullcontext() if fault is None else fault.planted():
        try:
            reference = reference_results(batch, dialect, own is not None and own.loss is not None)
        except Exception:  # of any type: faults are planted in code that does not expect them
            return 0.0 if observation.raised else DIFFERENT
        return DIFFERENT if own is None else distance_from(reference, batch.head, own)


def _of_one_call(outcome: Outcome) -> Outcome:
    """Return an outcome without an assignment that the loss did not use, which a fault before the assigner misses."""
    return outcome if outcome.loss is None or outcome.from_loss else replace(outcome, assignment=None)


def _is_invalid(batch: Batch, dialect: Dialect) -> bool:
    """Return True if the unchanged reference raises on a batch that the dialect does not reject."""
    try:
        reference_of(batch, dialect)
    except ValueError:
        return True
    return False
