"""Say what an implementation computes: an official dialect, and the choices that it makes differently."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.core.progress import Advance, no_progress
from tal_conformance.dialects.choices import (
    CLAUSES,
    DISTINGUISHING,
    RELEASE_CHOICES,
    differ,
    failure_on,
    strategies_for,
)
from tal_conformance.dialects.observations import Observations, key_of, size_of
from tal_conformance.dialects.search import OutOfTimeError, Search, base_of, judged_differences, values_of
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import DIALECTS, Dialect
from tal_reference.choices import phrase

BATCHES_PER_STRATEGY = 20
NEW_BATCHES = 12
"""Batches that are drawn for each choice of an explanation, beside those of the run, to refute it."""
SMALLER = 200
"""Smallest batches, on which is counted what each choice alone explains: the large ones take most of the time."""
SECONDS = 60.0
"""Budget of processor time of the search, and as much again for its proof."""

RecipeAndStrategy = tuple[Recipe, SearchStrategy[Recipe]]
"""A recipe, and the strategy that generated it."""


@dataclass(frozen=True)
class DialectFit:
    """Result of holding an implementation to one official dialect.

    Attributes:
        dialect: the dialect.
        refuting: the smallest batch that the dialect does not explain; None if it explains every batch.
        batches: number of batches judged, up to the first that refutes the dialect.
    """

    dialect: Dialect
    refuting: Recipe | None = None
    batches: int = 0


@dataclass(frozen=True)
class ChoiceEvidence:
    """One choice of an explanation, and what it contributes.

    Attributes:
        name: field of `Dialect`.
        clause: clause of the specification.
        words: the choice in a few words.
        alone: number of smaller batches that the base does not explain, and the base with this choice alone does.
        smallest: the smallest batch that is not explained without the choice; None if there is none.
    """

    name: str
    clause: str
    words: str
    alone: int
    smallest: Recipe | None


@dataclass(frozen=True)
class Tie:
    """Another explanation of every batch, with one choice made otherwise.

    Attributes:
        words: the other choice in a few words.
        deciding: a batch on which the two are different by the reference; None if none of the drawn batches is.
    """

    words: str
    deciding: Recipe | None


@dataclass(frozen=True)
class Identification:
    """The explanation of everything that an implementation does.

    Attributes:
        implementation: the implementation under test.
        base: the official dialect that differs from `dialect` in the fewest choices.
        dialect: the explanation.
        batches: number of batches judged.
        left: for each violated clause the number of batches that the explanation leaves, and the smallest failure.
        choices: the choices in which the explanation differs from its base.
        unexplained_by_base: number of the smaller batches that the base does not explain, and of the smaller batches.
        fits: result for every official dialect.
        ties: other explanations.
        complete: False if the budget of seconds was used up before the search and its proof ended.
    """

    implementation: Implementation
    base: Dialect
    dialect: Dialect
    batches: int
    left: dict[str, tuple[int, Failure]]
    choices: list[ChoiceEvidence] = field(default_factory=list)
    unexplained_by_base: tuple[int, int] = (0, 0)
    fits: list[DialectFit] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    complete: bool = True

    @property
    def explained(self) -> bool:
        """True if every batch is explained."""
        return not self.left and self.complete

    @property
    def sentence(self) -> str:
        """The result in one sentence or two."""
        *words, last = [choice.words for choice in self.choices] or [""]
        choices = f" with {', '.join(words)}{', and ' if words else ''}{last}" if last else ""
        missing = sum(count for count, _ in self.left.values())
        share = f"That explains {self.batches - missing} of {self.batches} batches"
        if not self.complete:
            return f"As far as the budget of seconds went: it computes {self.base.name}{choices}. {share}."
        rest = f"{missing} are left" if missing else "nothing is left"
        return f"It computes {self.base.name}{choices}. {share}; {rest}."


def identify(
    implementation: Implementation,
    dialects: Iterable[Dialect] = tuple(DIALECTS.values()),
    advance: Advance = no_progress,
    seconds: float = SECONDS,
) -> Identification:
    """Find the smallest set of choices that explains an implementation, and judge every batch by it.

    Args:
        implementation: the implementation under test.
        dialects: official dialects to start from; of those that cannot be told apart, the first is tried.
        advance: called once for each distinct dialect, and with lines about the search.
        seconds: budget of processor time of the search.
    """
    observations = Observations(implementation)
    recipes = [recipe for recipe, _ in sorted_recipes(implementation, BATCHES_PER_STRATEGY)]
    fits = []
    for dialect in distinguishable(dialects):
        fits.append(fit_dialect(observations, dialect, recipes))
        advance(format_fit(fits[-1]))
    search = Search(observations, recipes, seconds)
    whole = next((fit.dialect for fit in fits if fit.refuting is None), None)
    found = whole or search.run([fit.dialect for fit in fits])
    if whole is None:
        advance(f"composed: {found.name}", steps=0)
    return proven(search, found, fits, search.extended(seconds))


def proven(search: Search, found: Dialect, fits: list[DialectFit], complete: bool) -> Identification:
    """Return an explanation with its proof: every batch judged by it, new batches drawn, and each choice's share."""
    observations, recipes = search.observations, list(search.recipes)
    found, base = named(found)
    ties: list[Tie] = []
    choices = judged_differences(found, base)
    try:
        for name in choices:
            recipes += [recipe for recipe in new_recipes(name) if recipe not in recipes]
        found, ties = settle_ties(search, found, base, recipes)
        found, base = named(found)
    except OutOfTimeError:
        complete = False
    recipes.sort(key=size_of)
    smaller = recipes[:SMALLER]
    lacking = [recipe for recipe in smaller if not observations.conforms(recipe, base)]
    evidence = [
        ChoiceEvidence(
            name,
            CLAUSES[name],
            phrase(name, value),
            sum(observations.conforms(recipe, replace(base, **{name: value})) for recipe in lacking),
            next((r for r in recipes if needs(observations, r, found, name, getattr(base, name))), None),
        )
        for name, value in judged_differences(found, base).items()
    ]
    left = remaining(observations, found, recipes)
    return Identification(
        observations.implementation, base, found, len(recipes), left, evidence, (len(lacking), len(smaller)), fits,
        ties, complete,
    )  # fmt: skip


def needs(observations: Observations, recipe: Recipe, found: Dialect, name: str, official: Any) -> bool:
    """Return True if a batch is explained, and is not with the official value of one choice."""
    without = replace(found, **{name: official})
    return observations.conforms(recipe, found) and not observations.conforms(recipe, without)


def named(dialect: Dialect) -> tuple[Dialect, Dialect]:
    """Return a dialect with a name that spells its choices, and the official dialect that it differs from least."""
    base = base_of(dialect)
    choices = judged_differences(dialect, base)
    return (base.but(**choices) if choices else base), base


def new_recipes(name: str) -> Sequence[Recipe]:
    """Return batches that show a choice and that are not among those of the run."""
    return sample_recipes(DISTINGUISHING[name], BATCHES_PER_STRATEGY + NEW_BATCHES)[-NEW_BATCHES:]


def settle_ties(
    search: Search, found: Dialect, base: Dialect, recipes: Sequence[Recipe]
) -> tuple[Dialect, list[Tie]]:
    """Try the other values of every choice of an explanation, on batches that are drawn to tell them apart.

    Returns:
        The explanation that explains the most, and those that explain as much.

    Raises:
        OutOfTimeError: the budget is used up.
    """
    ties = []
    for name in judged_differences(found, base):
        for value in values_of(name):
            other = replace(found, **{name: value})
            if value in (getattr(found, name), getattr(base, name)) or not as_good(
                search, other, found, recipes
            ):
                continue
            telling = [
                r for r in sample_recipes(DISTINGUISHING[name], 4 * NEW_BATCHES) if differ(found, other, r)
            ]
            if any(search.conforming(r, other) and not search.conforming(r, found) for r in telling):
                found = other
            elif as_good(search, other, found, telling):
                ties.append(Tie(phrase(name, value), telling[0] if telling else None))
    return found, ties


def as_good(search: Search, other: Dialect, found: Dialect, recipes: Iterable[Recipe]) -> bool:
    """Return True if a dialect explains every batch that the explanation explains."""
    telling = search.telling_first(recipes)
    return all(search.conforming(recipe, other) or not search.conforming(recipe, found) for recipe in telling)


def remaining(
    observations: Observations, dialect: Dialect, recipes: Sequence[Recipe]
) -> dict[str, tuple[int, Failure]]:
    """Return the number of batches that a dialect does not explain, by clause, and the smallest failure of each."""
    subject = Subject(replace(observations.implementation, dialect=dialect), "cpu")
    by_stages: dict[frozenset[str], list[Recipe]] = {}
    for recipe in recipes:
        stages = observations.diverging(recipe, dialect)
        if stages:
            by_stages.setdefault(stages, []).append(recipe)
    left: dict[str, tuple[int, Failure]] = {}
    for failing in by_stages.values():
        failure = failure_on(subject, failing[0])
        if failure is not None:
            count, first = left.get(failure.clause, (0, failure))
            left[failure.clause] = count + len(failing), first
    return left


def format_fit(fit: DialectFit) -> str:
    """Return one line about one dialect."""
    if fit.refuting is None:
        return f"{fit.dialect.name}: explains all {fit.batches} batches"
    return f"{fit.dialect.name}: refuted by batch {fit.batches}"


def distinguishable(dialects: Iterable[Dialect]) -> list[Dialect]:
    """Return the first of each group of dialects that differ only in their names and in choices that are not judged."""
    first: dict[object, Dialect] = {}
    for dialect in dialects:
        first.setdefault(key_of(dialect), dialect)
    return list(first.values())


def fit_dialect(observations: Observations, dialect: Dialect, recipes: Sequence[Recipe]) -> DialectFit:
    """Judge an implementation by a dialect, small batches first, up to the first batch that refutes it."""
    for number, recipe in enumerate(recipes, 1):
        if not observations.conforms(recipe, dialect):
            return DialectFit(dialect, recipe, number)
    return DialectFit(dialect, None, len(recipes))


def sorted_recipes(implementation: Implementation, count: int) -> Sequence[RecipeAndStrategy]:
    """Return `count` recipes of each strategy, of each that tells releases apart, and with too few anchors.

    The smallest come first.
    """
    return _sorted_recipes(
        (*RELEASE_CHOICES.values(), DISTINGUISHING["k_cut"], *strategies_for(implementation)), count
    )


@cache
def _sorted_recipes(
    strategies: tuple[SearchStrategy[Recipe], ...], count: int
) -> Sequence[RecipeAndStrategy]:
    by_recipe = {
        recipe: strategy for strategy in reversed(strategies) for recipe in sample_recipes(strategy, count)
    }
    return sorted(by_recipe.items(), key=lambda pair: size_of(pair[0]))
