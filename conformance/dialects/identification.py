"""Find the dialects that explain all results of an implementation, and small batches that refute the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod

from hypothesis import find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.core.progress import Advance, no_progress
from tal_conformance.dialects.choices import RELEASE_CHOICES, SEARCH, failure_on, strategies_for
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import Dialect

BATCHES_PER_STRATEGY = 20
RANKING_BATCHES_PER_STRATEGY = 3
"""Batches of each strategy on which the nearest dialect is chosen, if none explains the implementation."""
SHRINK_EXAMPLES = 60
"""Batches that Hypothesis generates to find a smaller refutation."""

RecipeAndStrategy = tuple[Recipe, SearchStrategy[Recipe]]
"""A recipe, and the strategy that generated it."""


@dataclass
class DialectFit:
    """Result of judging an implementation by one dialect.

    Attributes:
        dialect: the dialect.
        refutation: failure on the smallest batch that was found; None if the dialect explains every batch.
        batches: number of batches judged, up to the first that refutes the dialect.
    """

    dialect: Dialect
    refutation: Failure | None = None
    batches: int = 0


@dataclass
class Violations:
    """All violations of one dialect by an implementation.

    Attributes:
        dialect: the dialect.
        batches: number of batches judged.
        counts: number of violating batches by clause; "" for an implementation that raised.
        first: the first failure of each clause, and the strategy that generated its batch.
        smallest: the same failures on smaller batches.
    """

    dialect: Dialect
    batches: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[Failure, SearchStrategy[Recipe]]] = field(default_factory=dict)
    smallest: dict[str, Failure] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of batches that violate the dialect."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Identification:
    """Dialects that explain an implementation.

    Attributes:
        implementation: the implementation under test.
        fits: result for each distinct dialect.
        nearest: violations of the dialect with the fewest, if no dialect explains the implementation.
    """

    implementation: Implementation
    fits: list[DialectFit]
    nearest: Violations | None

    @property
    def explained(self) -> bool:
        """True if at least one dialect explains every batch."""
        return any(fit.refutation is None for fit in self.fits)


def identify(
    implementation: Implementation, dialects: Iterable[Dialect], advance: Advance = no_progress
) -> Identification:
    """Judge an implementation by each distinct dialect; if none explains it, find the nearest.

    Args:
        implementation: the implementation under test.
        dialects: candidates; only the first of several dialects that cannot be distinguished is tried.
        advance: called once for each distinct dialect, and with lines about the nearest one.
    """
    fits = []
    for dialect in distinguishable(dialects):
        fits.append(fit_dialect(implementation, dialect))
        advance(format_fit(fits[-1]))
    explained = any(fit.refutation is None for fit in fits)
    nearest = None if explained else nearest_dialect(implementation, [fit.dialect for fit in fits], advance)
    return Identification(implementation, fits, nearest)


def format_fit(fit: DialectFit) -> str:
    """Return one line about one dialect."""
    if fit.refutation is None:
        return f"{fit.dialect.name}: explains all {fit.batches} batches"
    return f"{fit.dialect.name}: refuted by batch {fit.batches} ({fit.refutation.clause or 'an error'})"


def distinguishable(dialects: Iterable[Dialect]) -> list[Dialect]:
    """Return the first of each group of dialects that differ only in their names and in choices that are not judged."""
    first: dict[Dialect, Dialect] = {}
    for dialect in dialects:
        first.setdefault(replace(dialect, name="", rows_sorted=True), dialect)
    return list(first.values())


def fit_dialect(implementation: Implementation, dialect: Dialect) -> DialectFit:
    """Judge an implementation by a dialect, small batches first, up to the first batch that refutes it."""
    subject = Subject(replace(implementation, dialect=dialect), "cpu")
    fit = DialectFit(dialect)
    for recipe, strategy in sorted_recipes(implementation, BATCHES_PER_STRATEGY):
        fit.batches += 1
        failure = failure_on(subject, recipe)
        if failure is not None:
            fit.refutation = shrink(subject, strategy, failure)
            break
    return fit


def sorted_recipes(implementation: Implementation, count: int) -> Sequence[RecipeAndStrategy]:
    """Return `count` recipes of each strategy and of those that distinguish dialects, the smallest first."""
    return _sorted_recipes((*RELEASE_CHOICES.values(), *strategies_for(implementation)), count)


@cache
def _sorted_recipes(
    strategies: tuple[SearchStrategy[Recipe], ...], count: int
) -> Sequence[RecipeAndStrategy]:
    by_recipe = {
        recipe: strategy for strategy in reversed(strategies) for recipe in sample_recipes(strategy, count)
    }
    return sorted(by_recipe.items(), key=lambda pair: size_of(pair[0]))


def size_of(recipe: Recipe) -> tuple[int, int]:
    """Return a sort key: pairs of ground truth and anchor, plus anchors, of all images; then the length of its repr."""
    anchors = len(recipe.images) * sum(map(prod, recipe.grids))
    return anchors * (1 + sum(map(len, recipe.images))), len(repr(recipe))


def shrink(subject: Subject, strategy: SearchStrategy[Recipe], first: Failure) -> Failure:
    """Return the failure at the same stage and clause on the smallest batch; `first` if no smaller one was found."""

    def fails_alike(recipe: Recipe) -> bool:
        failure = failure_on(subject, recipe)
        return failure is not None and (failure.stage, failure.clause) == (first.stage, first.clause)

    try:
        smallest = find(strategy, fails_alike, settings=settings(SEARCH, max_examples=SHRINK_EXAMPLES))
    except NoSuchExample:
        return first
    return failure_on(subject, smallest) or first


def nearest_dialect(
    implementation: Implementation, dialects: Sequence[Dialect], advance: Advance = no_progress
) -> Violations:
    """Return the violations of the dialect with the smallest share of them, each clause on its smallest batch."""

    def violating_share(dialect: Dialect) -> float:
        violations = violations_of(implementation, dialect, RANKING_BATCHES_PER_STRATEGY)
        advance(f"{dialect.name}: violated on {violations.total} of {violations.batches} batches", steps=0)
        return violations.total / violations.batches

    nearest = violations_of(implementation, min(dialects, key=violating_share), BATCHES_PER_STRATEGY)
    for clause, (failure, strategy) in nearest.first.items():
        nearest.smallest[clause] = shrink(failure.subject, strategy, failure)
        where = f"violated at {clause}" if clause else "the implementation raises"
        advance(f"{nearest.dialect.name}: {where} on {nearest.counts[clause]} batches", steps=0)
    return nearest


def violations_of(implementation: Implementation, dialect: Dialect, count: int) -> Violations:
    """Return every violation of a dialect on `count` batches of each strategy."""
    subject = Subject(replace(implementation, dialect=dialect), "cpu")
    violations = Violations(dialect)
    for recipe, strategy in sorted_recipes(implementation, count):
        violations.batches += 1
        failure = failure_on(subject, recipe)
        if failure is not None:
            violations.counts[failure.clause] = violations.counts.get(failure.clause, 0) + 1
            violations.first.setdefault(failure.clause, (failure, strategy))
    return violations
