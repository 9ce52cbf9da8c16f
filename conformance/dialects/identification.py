"""Find what an implementation computes: an official dialect, and the choices that it makes differently."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
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
from tal_conformance.dialects.search import (
    OutOfTimeError,
    Search,
    base_of,
    judged_differences,
    values_of,
)
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import DIALECTS, Dialect
from tal_reference.choices import phrase

BATCHES_PER_STRATEGY = 20
FEW_PROBES = 6
"""Number of batches of a run on which official dialects are ranked: the declared one is known to be similar."""
REFUTATIONS = 2
"""Number of times that the search for the cause of a run's failures starts again, after new batches refuted it."""
NEW_BATCHES = 12
"""Number of new batches that are drawn for each choice of the dialect that was found, to test it."""
SMALLER = 200
"""Number of the smallest batches, on which the effect of each choice is counted: large ones take long."""
SECONDS = 60.0
"""Seconds of processor time for the search, and as many again for its proof."""
SEARCHING = 0.8
"""Share of the budget of a run that the search for choices may use. The rest, and what it does not use, is for the
proof."""

RecipeAndStrategy = tuple[Recipe, SearchStrategy[Recipe]]
"""A recipe, and the strategy that generated it."""


@dataclass(frozen=True)
class DialectFit:
    """Result of judging an implementation by one official dialect.

    Attributes:
        dialect: the official dialect.
        refuting: the smallest batch on which the implementation does not conform; None if it always conforms.
        batches: number of batches judged, up to the first on which the implementation does not conform.
    """

    dialect: Dialect
    refuting: Recipe | None = None
    batches: int = 0


@dataclass(frozen=True)
class ChoiceEvidence:
    """One choice of the dialect that explains an implementation, and the evidence for the choice.

    Attributes:
        name: field of `Dialect`.
        clause: clause of the specification.
        words: the choice in a few words.
        alone: number of the `SMALLER` smallest batches that the base dialect does not explain, but would explain with
            this choice.
        smallest: the smallest batch that is explained only with the choice; None without such a batch.
    """

    name: str
    clause: str
    words: str
    alone: int
    smallest: Recipe | None


@dataclass(frozen=True)
class Tie:
    """Another dialect that explains an implementation equally well, and differs in one choice.

    Attributes:
        words: the differing choice of this other dialect in a few words.
        deciding: a batch on which the reference's results in the two dialects differ; None if no generated batch
            shows a difference.
    """

    words: str
    deciding: Recipe | None


@dataclass(frozen=True)
class Identification:
    """The dialect that explains an implementation, and the proof.

    A dialect explains a batch if the implementation conforms to it on the batch.

    Attributes:
        implementation: the implementation under test.
        base: the official dialect that differs from `dialect` in the fewest choices.
        dialect: the dialect that explains the most batches.
        batches: number of judged batches.
        left: for each violated clause the number of batches that `dialect` does not explain, and the smallest
            failure.
        choices: the choices in which `dialect` differs from `base`.
        unexplained_by_base: two numbers: how many of the smallest batches `base` does not explain, and how many
            smallest batches were judged (at most `SMALLER`).
        fits: results of judging by each official dialect.
        ties: other dialects that explain as many batches.
        complete: False if the budget of seconds was used up before the search and its proof ended.
        unjudged: number of batches that were not judged by `dialect`, because the budget was used up.
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
    unjudged: int = 0

    @property
    def explained(self) -> bool:
        """True if `dialect` explains every batch, and the search ended within its budget."""
        return not self.left and self.complete

    @property
    def missing(self) -> int:
        """Number of judged batches that `dialect` does not explain."""
        return sum(count for count, _ in self.left.values())

    @property
    def as_declared(self) -> bool:
        """True if no dialect explains more than the one that the implementation declares."""
        return key_of(self.dialect) == key_of(self.implementation.dialect)

    @property
    def sentence(self) -> str:
        """The dialect and the number of explained batches, in one or two sentences."""
        if self.as_declared and not self.complete:
            return (
                "The budget of seconds ended the search before it found what explains the difference from "
                f"{self.dialect.name}."
            )
        if self.as_declared and self.missing:
            return (
                f"No known choice explains the difference from {self.dialect.name}: {self.missing} of {self.batches} "
                "batches are left."
            )
        *words, last = [choice.words for choice in self.choices] or [""]
        choices = f" with {', '.join(words)}{', and ' if words else ''}{last}" if last else ""
        share = f"That explains {self.batches - self.missing} of {self.batches} batches"
        if not self.complete:
            return f"The budget of seconds ended the search: so far, it computes {self.base.name}{choices}. {share}."
        rest = f"{self.missing} are left" if self.missing else "nothing is left"
        return f"It computes {self.base.name}{choices}. {share}; {rest}."


def identify(
    implementation: Implementation,
    dialects: Iterable[Dialect] = tuple(DIALECTS.values()),
    advance: Advance = no_progress,
    seconds: float = SECONDS,
) -> Identification:
    """Find the dialect that explains an implementation with the fewest unofficial choices, and its proof.

    Args:
        implementation: the implementation under test.
        dialects: official dialects to start from; if several do not differ in a judged choice, only the first of
            them is tried.
        advance: called once for each distinct dialect, and with lines about the search.
        seconds: budget of processor time of the search.

    Raises:
        ProtocolViolation: the adapter declares that it supports none of the batches.
    """
    observations = Observations(implementation)
    recipes = [recipe for recipe, _ in sorted_recipes(implementation, BATCHES_PER_STRATEGY)]
    recipes = [recipe for recipe in recipes if observations.supported(recipe)]
    if not recipes:
        raise ProtocolViolation(
            f"{implementation.name} supports none of the batches: nothing can be identified"
        )
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


def explain(
    observations: Observations,
    failing: Sequence[Recipe],
    passing: Sequence[Recipe],
    seconds: float,
    advance: Advance = no_progress,
) -> Identification:
    """Find the dialect that explains the results of an implementation on the batches of a run, within a budget.

    If several dialects explain equally many batches, the dialect that the implementation declares is preferred.

    Args:
        observations: outcomes of the implementation under test.
        failing: recipes of batches on which the implementation did not conform.
        passing: recipes of batches on which it conformed.
        seconds: budget of processor time for search and proof together.
        advance: called with a line about the search.
    """
    implementation = observations.implementation
    search = Search(observations, sorted({*failing, *passing}, key=size_of), seconds * SEARCHING)
    dialects = distinguishable([implementation.dialect, *DIALECTS.values()])
    found = first_explaining(search, dialects, failing)
    for _ in range(REFUTATIONS):
        refuting = refuting_recipes(search, found)
        if not refuting:
            break
        search.recipes = sorted({*search.recipes, *refuting}, key=size_of)
        found = first_explaining(search, dialects, [*failing, *refuting])
    unused = max(0.0, search.deadline - time.process_time())
    in_time = search.extended(unused + seconds * (1 - SEARCHING))
    if not explains_half(search, found, failing):
        found = implementation.dialect
    advance(f"{implementation.name}: most similar to {found.name}", steps=0)
    return proven(search, found, [], in_time)


def explains_half(search: Search, found: Dialect, failing: Sequence[Recipe]) -> bool:
    """Return True if a dialect explains at least half of the failing batches.

    A dialect that explains fewer happens to agree on batches that the fault hardly affects, and would mislead.
    """
    try:
        return 2 * sum(search.conforming(recipe, found) for recipe in failing) >= len(failing)
    except OutOfTimeError:
        return False


def first_explaining(search: Search, dialects: Sequence[Dialect], failing: Sequence[Recipe]) -> Dialect:
    """Return a dialect that explains all batches of a search, or else the one that explains the most.

    Official dialects come first, then single choices that differ from the first of them: most are refuted by the
    smallest failing batch, which costs little.

    Args:
        search: the search, with all batches to explain.
        dialects: official dialects, the declared dialect first.
        failing: recipes of batches that refute the declared dialect.
    """
    recipes = [*sorted(failing, key=size_of), *search.recipes]
    singles = (replace(dialects[0], **move) for move in search.moves_from(dialects[0]))
    try:
        whole = next((d for d in chain(dialects, singles) if explains_all(search, d, recipes)), None)
    except OutOfTimeError:
        whole = None
    return whole or search.run(dialects, FEW_PROBES)


def refuting_recipes(search: Search, found: Dialect) -> list[Recipe]:
    """Return newly drawn recipes that refute a dialect, on batches that show where it differs from the declared one.

    A run may have too few batches to tell a release from a single choice of it.
    """
    declared = search.observations.implementation.dialect
    refuting = []
    try:
        for name in judged_differences(found, declared):
            drawn = [recipe for recipe in new_recipes(name) if recipe not in search.recipes]
            refuting += [recipe for recipe in drawn if not search.conforming(recipe, found)]
    except OutOfTimeError:
        pass
    return refuting


def explains_all(search: Search, dialect: Dialect, recipes: Iterable[Recipe]) -> bool:
    """Return True if the implementation conforms to a dialect on the batches of all recipes.

    Raises:
        OutOfTimeError: the budget is used up.
    """
    return all(search.conforming(recipe, dialect) for recipe in recipes)


def proven(search: Search, found: Dialect, fits: list[DialectFit], complete: bool) -> Identification:
    """Return the dialect that was found, with its proof.

    All batches and newly generated ones are judged by the dialect, and the effect of each of its choices is
    counted.

    Args:
        search: the search that found the dialect.
        found: the dialect that the search found.
        fits: result of judging by each official dialect.
        complete: False if the search ran out of time.
    """
    observations, recipes = search.observations, list(search.recipes)
    found, base = named(found)
    ties: list[Tie] = []
    choices = judged_differences(found, base)
    try:
        for name in choices:
            recipes += [
                recipe
                for recipe in new_recipes(name)
                if recipe not in recipes and observations.supported(recipe)
            ]
        found, ties = settle_ties(search, found, base, recipes)
        found, base = named(found)
    except OutOfTimeError:
        complete = False
    recipes.sort(key=size_of)
    left, judged = remaining(search, found, recipes)
    evidence, counts = effects(search, found, base, recipes)
    return Identification(
        observations.implementation, base, found, judged, left, evidence, counts, fits, ties, complete,
        len(recipes) - judged,
    )  # fmt: skip


def effects(
    search: Search, found: Dialect, base: Dialect, recipes: Sequence[Recipe]
) -> tuple[list[ChoiceEvidence], tuple[int, int]]:
    """Return the evidence for every choice in which `found` differs from `base`.

    If the budget is used up, the evidence of the remaining choices has neither a count nor a batch.

    Returns:
        The evidence; and two numbers: how many of the smallest batches `base` does not explain, and how many
        smallest batches were judged.
    """
    observations, smaller = search.observations, recipes[:SMALLER]
    lacking: list[Recipe] = []
    evidence = []
    for name, value in judged_differences(found, base).items():
        alone, smallest = 0, None
        try:
            lacking = lacking or [recipe for recipe in smaller if not search.conforming(recipe, base)]
            changed = replace(base, **{name: value})
            alone = sum(search.conforming(recipe, changed) for recipe in lacking)
            search.check_time()
            smallest = next(
                (r for r in recipes if needs(observations, r, found, name, getattr(base, name))), None
            )
        except OutOfTimeError:
            pass
        evidence.append(ChoiceEvidence(name, CLAUSES[name], phrase(name, value), alone, smallest))
    return evidence, (len(lacking), len(smaller))


def needs(observations: Observations, recipe: Recipe, found: Dialect, name: str, official: Any) -> bool:
    """Return True if the implementation conforms to `found` on a batch, but not to `found` with one official choice.

    Args:
        observations: outcomes of the implementation.
        recipe: recipe of the batch.
        found: the dialect that was found.
        name: name of a choice.
        official: official value of this choice.
    """
    without = replace(found, **{name: official})
    return observations.conforms(recipe, found) and not observations.conforms(recipe, without)


def named(dialect: Dialect) -> tuple[Dialect, Dialect]:
    """Return two dialects: `dialect`, renamed to list its choices, and the most similar official dialect."""
    base = base_of(dialect)
    choices = judged_differences(dialect, base)
    return (base.but(**choices) if choices else base), base


def new_recipes(name: str) -> Sequence[Recipe]:
    """Return recipes of batches whose results depend on the choice `name`, and that were not judged before."""
    return sample_recipes(DISTINGUISHING[name], BATCHES_PER_STRATEGY + NEW_BATCHES)[-NEW_BATCHES:]


def settle_ties(
    search: Search, found: Dialect, base: Dialect, recipes: Sequence[Recipe]
) -> tuple[Dialect, list[Tie]]:
    """Try other values of every choice of `found`, on new batches that distinguish the values.

    Returns:
        The dialect that explains the most batches, and the other dialects that explain as many.

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
    """Return True if the dialect `other` explains every batch that `found` explains."""
    telling = search.telling_first(recipes)
    return all(search.conforming(recipe, other) or not search.conforming(recipe, found) for recipe in telling)


def remaining(
    search: Search, dialect: Dialect, recipes: Sequence[Recipe]
) -> tuple[dict[str, tuple[int, Failure]], int]:
    """Return the failures that a dialect does not explain, and the number of judged batches.

    If the budget is used up, only batches that the search has judged by the dialect before are counted.

    Returns:
        By violated clause the number of unexplained batches with the failure on the smallest of them, and the
        number of judged batches.
    """
    observations = search.observations
    subject = Subject(replace(observations.implementation, dialect=dialect), "cpu")
    by_stages: dict[frozenset[str], list[Recipe]] = {}
    judged = 0
    for recipe in recipes:
        if search.out_of_time and not observations.is_judged(recipe, dialect):
            continue
        judged += 1
        stages = observations.diverging(recipe, dialect)
        if stages:
            by_stages.setdefault(stages, []).append(recipe)
    left: dict[str, tuple[int, Failure]] = {}
    for failing in by_stages.values():
        failure = failure_on(subject, failing[0])
        if failure is not None:
            count, first = left.get(failure.clause, (0, failure))
            left[failure.clause] = count + len(failing), first
    return left, judged


def format_fit(fit: DialectFit) -> str:
    """Return a line of text that says whether an official dialect explains all batches."""
    if fit.refuting is None:
        return f"{fit.dialect.name}: explains all {fit.batches} batches"
    return f"{fit.dialect.name}: refuted by batch {fit.batches}"


def distinguishable(dialects: Iterable[Dialect]) -> list[Dialect]:
    """Return the dialects without any that differs from an earlier one only in name or in unjudged choices."""
    first: dict[object, Dialect] = {}
    for dialect in dialects:
        first.setdefault(key_of(dialect), dialect)
    return list(first.values())


def fit_dialect(observations: Observations, dialect: Dialect, recipes: Sequence[Recipe]) -> DialectFit:
    """Judge an implementation by a dialect, small batches first, until it does not conform on one."""
    for number, recipe in enumerate(recipes, 1):
        if not observations.conforms(recipe, dialect):
            return DialectFit(dialect, recipe, number)
    return DialectFit(dialect, None, len(recipes))


def sorted_recipes(implementation: Implementation, count: int) -> Sequence[RecipeAndStrategy]:
    """Return recipes with their strategies, the smallest first: `count` recipes of each strategy.

    Besides the named strategies, there are strategies on which releases differ, and a strategy of batches with fewer
    anchors than k.
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
