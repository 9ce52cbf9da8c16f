"""The proof of an identification: the batches that the dialect explains, the effect of each choice, and ties.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap. A dialect explains a batch if the implementation conforms to the
dialect on the batch. A recipe describes a generated batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.core.task import DETECT
from tal_conformance.dialects.choices import CLAUSES, differ, failure_on
from tal_conformance.dialects.distinguishing import distinguishing
from tal_conformance.dialects.identified import ChoiceEvidence, DialectFit, Identification, Tie
from tal_conformance.dialects.moves import values_of
from tal_conformance.dialects.observations import Observations, size_of
from tal_conformance.dialects.search import OutOfTimeError, Search, base_of, judged_differences
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import ARTICLE, Dialect
from tal_reference.choices import phrase

BATCHES_PER_STRATEGY = 20
NEW_OF_STRATEGY = 8
"""Number of new batches of each strategy of the run's failing tests that may refute the dialect that was found."""
NEW_BATCHES = 12
"""Number of new batches that are drawn for each choice of the dialect that was found, to test it."""
SMALLER = 60
"""Number of the smallest batches, on which the effect of each choice is counted: large ones take long."""


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
    found, base = named(found, search.task)
    ties: list[Tie] = []
    choices = judged_differences(found, base)
    try:
        for name in choices:
            recipes += [
                recipe
                for recipe in new_recipes(name, search.task)
                if recipe not in recipes and observations.supported(recipe)
            ]
        found, ties = settle_ties(search, found, base, recipes)
        found, base = named(of_a_release(search, found, recipes), search.task)
    except OutOfTimeError:
        complete = False
    recipes.sort(key=size_of)
    left, judged = remaining(search, found, recipes)
    evidence, counts = effects(search, found, base, recipes)
    return Identification(
        observations.implementation, base, found, judged, left, evidence, counts, fits, ties, complete,
        len(recipes) - judged, search.tried,
    )  # fmt: skip


def of_a_release(search: Search, found: Dialect, recipes: Iterable[Recipe]) -> Dialect:
    """Return a release's dialect in place of one that is based on the article's, if it explains as much.

    Raises:
        OutOfTimeError: the budget is used up.
    """
    if base_of(found) is not ARTICLE:
        return found
    return search.of_a_release(found, [recipe for recipe in recipes if search.fits(recipe, found)])


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
            lacking = lacking or [recipe for recipe in smaller if not search.fits(recipe, base)]
            changed = replace(base, **{name: value})
            alone = sum(search.fits(recipe, changed) for recipe in lacking)
            without = replace(found, **{name: getattr(base, name)})
            # equal results in both dialects show no difference, except one below rounding
            telling = [r for r in recipes if not search.resemblance.is_similar(r, without)] or recipes
            search.check_time()
            smallest = next(
                (r for r in telling if needs(observations, r, found, name, getattr(base, name))), None
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


def named(dialect: Dialect, task: str = DETECT.name) -> tuple[Dialect, Dialect]:
    """Return two dialects: `dialect`, renamed to list its choices, and the task's most similar official dialect."""
    base = base_of(dialect, task)
    choices = judged_differences(dialect, base)
    return (base.but(**choices) if choices else base), base


def new_recipes(name: str, task: str = DETECT.name) -> Sequence[Recipe]:
    """Return recipes of batches whose results depend on the choice `name`, and that were not judged before."""
    strategy = distinguishing(name, task)
    assert strategy is not None
    return sample_recipes(strategy, BATCHES_PER_STRATEGY + NEW_BATCHES)[-NEW_BATCHES:]


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
            strategy = distinguishing(name, search.task)
            assert strategy is not None
            telling = [r for r in sample_recipes(strategy, 4 * NEW_BATCHES) if differ(found, other, r)]
            if any(search.fits(r, other) and not search.fits(r, found) for r in telling):
                found = other
            elif as_good(search, other, found, telling):
                ties.append(Tie(phrase(name, value), telling[0] if telling else None))
    return found, ties


def as_good(search: Search, other: Dialect, found: Dialect, recipes: Iterable[Recipe]) -> bool:
    """Return True if the dialect `other` explains every batch that `found` explains."""
    telling = search.doubtful_first(recipes, other)
    return all(search.fits(recipe, other) or not search.fits(recipe, found) for recipe in telling)


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
