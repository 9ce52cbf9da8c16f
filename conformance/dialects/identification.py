"""Find what an implementation computes: an official dialect, and the choices that it makes differently.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap. A dialect explains a batch if the implementation conforms to the
dialect on the batch. A recipe describes a generated batch.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
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
from tal_conformance.dialects.identified import ChoiceEvidence, DialectFit, Identification, Tie
from tal_conformance.dialects.observations import Observations, key_of, size_of
from tal_conformance.dialects.search import (
    FEW,
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
JUDGEMENTS = 3
"""Number of dialects by which all batches of a run can be judged within the budget of the search."""
LEAST = 20
"""Numbers of failing and of passing batches of a run that are judged in any case, if it has as many."""
REFUTATIONS = 2
"""Number of times that the search for the cause of a run's failures starts again, after new batches refuted it."""
NEW_OF_STRATEGY = 8
"""Number of new batches of each strategy of the run's failing tests that may refute the dialect that was found."""
MOST_REFUTING = 8
"""Maximum number of them that are judged: those on which the reference's results are the least similar."""
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
        advance: receives the progress: called once for each distinct dialect, and with lines of text about the search.
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
    strategies: Sequence[SearchStrategy[Recipe]] = (),
) -> Identification:
    """Find the dialect that explains the results of an implementation on the batches of a run, within a budget.

    If several dialects explain equally many batches, the dialect that the implementation declares is preferred. A
    dialect is only found if it explains at least half of the failing batches by results that another dialect would not
    have, and if new batches do not refute it.

    Args:
        observations: outcomes of the implementation under test.
        failing: recipes of batches on which the implementation did not conform.
        passing: recipes of batches on which it conformed.
        seconds: budget of processor time for search and proof together.
        advance: receives the progress as lines of text.
        strategies: strategies of the failing tests, from which new batches are drawn; by default all strategies.
    """
    implementation = observations.implementation
    strategies = strategies or strategies_for(implementation)
    search = Search(observations, sorted({*failing, *passing}, key=size_of), seconds * SEARCHING)
    most = affordable(search)
    failing, passing = thinned(failing, most), thinned(passing, most)
    search.recipes = sorted({*failing, *passing}, key=size_of)
    dialects = distinguishable([implementation.dialect, *DIALECTS.values()])
    found = first_explaining(search, dialects, failing)
    for _ in range(REFUTATIONS):
        refuting = refuting_recipes(search, found, strategies)
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


def affordable(search: Search) -> int:
    """Return the number of failing batches, and of passing batches, that can be judged within the budget.

    A judgement of a loss that hides its assignment takes up to a second; this time is measured on a few judgements by
    the declared dialect.
    """
    began, budget = time.process_time(), search.deadline - time.process_time()
    probes = search.spread(FEW)
    try:
        for recipe in probes:
            search.conforming(recipe, search.observations.implementation.dialect)
    except OutOfTimeError:
        return LEAST
    each = (time.process_time() - began) / max(1, len(probes))
    return max(LEAST, int(budget / (2 * JUDGEMENTS * max(each, 1e-6))))


def thinned(recipes: Sequence[Recipe], most: int) -> Sequence[Recipe]:
    """Return at most `most` recipes: all of them, or every n-th if there are more."""
    return recipes[:: max(1, -(-len(recipes) // most))]


def explains_half(search: Search, found: Dialect, failing: Sequence[Recipe]) -> bool:
    """Return True if a dialect explains at least half of the failing batches, and this is evidence for it.

    A dialect that explains fewer batches happens to agree on batches that the fault hardly affects, and would mislead.
    """
    try:
        explained = (
            search.conforming(r, found) and search.observations.is_evidence(r, found) for r in failing
        )
        return 2 * sum(explained) >= len(failing)
    except OutOfTimeError:
        return False


def first_explaining(search: Search, dialects: Sequence[Dialect], failing: Sequence[Recipe]) -> Dialect:
    """Return a dialect that explains all batches of a search, or else the dialect that explains the most batches.

    Official dialects come first, then the first official dialect with one changed choice. Most dialects are refuted by
    the smallest failing batch, which takes little time.

    Args:
        search: the search, with all batches to explain.
        dialects: official dialects, the declared dialect first.
        failing: recipes of batches that refute the declared dialect.
    """
    recipes = [*sorted(failing, key=size_of), *search.recipes]
    singles = [replace(dialects[0], **move) for move in search.moves_from(dialects[0])]
    try:
        singles = search.most_similar(singles, recipes[:FEW])
        whole = next((d for d in chain(dialects, singles) if explains_all(search, d, recipes)), None)
    except OutOfTimeError:
        whole = None
    return whole or search.run(dialects, FEW_PROBES)


def refuting_recipes(
    search: Search, found: Dialect, strategies: Sequence[SearchStrategy[Recipe]]
) -> list[Recipe]:
    """Return newly drawn recipes that refute a dialect.

    The recipes are drawn where the dialect differs from the declared dialect, and from strategies of failing tests. A
    run may have too few batches to distinguish a release, or a fault that no choice describes, from a single choice.
    """
    declared = search.observations.implementation.dialect
    names = judged_differences(found, declared)
    refuting = []
    try:
        for name in names:
            drawn = [recipe for recipe in new_recipes(name) if recipe not in search.recipes]
            refuting += [recipe for recipe in drawn if not search.conforming(recipe, found)]
        of_tests = {recipe for strategy in strategies if names for recipe in new_of_strategy(strategy)}
        drawn = search.least_similar(found, of_tests - {*search.recipes, *refuting})
        refuting += [recipe for recipe in drawn[:MOST_REFUTING] if not search.conforming(recipe, found)]
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

    All batches, and newly generated batches, are judged by the dialect, and the effect of each of its choices is
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
        len(recipes) - judged, search.tried,
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


def new_of_strategy(strategy: SearchStrategy[Recipe]) -> Sequence[Recipe]:
    """Return recipes that a strategy generates, other than the recipes that `identify` judges."""
    return sample_recipes(strategy, BATCHES_PER_STRATEGY + NEW_OF_STRATEGY)[-NEW_OF_STRATEGY:]


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
    """Return the dialects without any dialect that differs from an earlier dialect only in name or unjudged choices."""
    first: dict[object, Dialect] = {}
    for dialect in dialects:
        first.setdefault(key_of(dialect), dialect)
    return list(first.values())


def fit_dialect(observations: Observations, dialect: Dialect, recipes: Sequence[Recipe]) -> DialectFit:
    """Judge an implementation by a dialect, small batches first, until it does not conform on a batch."""
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
