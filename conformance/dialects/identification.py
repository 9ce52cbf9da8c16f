"""Find what an implementation computes: an official dialect, and the choices that it makes differently.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap. A dialect explains a batch if the implementation conforms to the
dialect on the batch. A recipe describes a generated batch.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.core.progress import Advance, no_progress
from tal_conformance.core.task import DETECT
from tal_conformance.dialects.choices import strategies_for
from tal_conformance.dialects.distinguishing import DISTINGUISHING, release_strategies
from tal_conformance.dialects.identified import ChoiceEvidence, DialectFit, Identification, Tie
from tal_conformance.dialects.known_faults import FaultEvidence, KnownFault, explaining_fault, words_of
from tal_conformance.dialects.observations import Observations, key_of, size_of
from tal_conformance.dialects.proof import (
    BATCHES_PER_STRATEGY,
    new_of_strategy,
    new_recipes,
    proven,
)
from tal_conformance.dialects.search import (
    FEW,
    SIMILAR,
    OutOfTimeError,
    Search,
    judged_differences,
)
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.protocol import Implementation
from tal_reference import Dialect
from tal_reference.eras_of_tasks import dialects_of

FEW_PROBES = 6
"""Number of batches of a run on which official dialects are ranked: the declared one is known to be similar."""
JUDGEMENTS = 3
"""Number of dialects by which all batches of a run can be judged within the budget of the search."""
LEAST = 20
"""Numbers of failing and of passing batches of a run that are judged in any case, if it has as many."""
REFUTATIONS = 2
"""Number of times that the search for the cause of a run's failures starts again, after new batches refuted it."""
MOST_REFUTING = 8
"""Maximum number of new batches of the failing tests that are judged: those on which the reference's results are the
least similar."""
SEARCHED = 200
"""Number of the smallest batches among which `identify` looks for failing ones, to compare them with planted faults."""
SECONDS = 60.0
"""Seconds of processor time for the search, and as many again for its proof."""
SEARCHING = 0.8
"""Share of the budget of a run that the search for choices may use. The rest, and what it does not use, is for the
proof."""

RecipeAndStrategy = tuple[Recipe, SearchStrategy[Recipe]]
"""A recipe, and the strategy that generated it."""


def identify(
    implementation: Implementation,
    dialects: Iterable[Dialect] | None = None,
    advance: Advance = no_progress,
    seconds: float = SECONDS,
    faults: Iterable[KnownFault] = (),
) -> Identification:
    """Find the dialect that explains an implementation with the fewest unofficial choices, and its proof.

    Args:
        implementation: the implementation under test.
        dialects: official dialects to start from; by default those of the implementation's task. If several do not
            differ in a judged choice, only the first of them is tried.
        advance: receives the progress: called once for each distinct dialect, and with lines of text about the search.
        seconds: budget of processor time of the search.
        faults: planted faults, one of which may explain what no single choice does.

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
    official = dialects_of(implementation.task).values() if dialects is None else dialects
    for dialect in distinguishable(official):
        fits.append(fit_dialect(observations, dialect, recipes))
        advance(format_fit(fits[-1]))
    search = Search(observations, recipes, seconds)
    whole = next((fit.dialect for fit in fits if fit.refuting is None), None)
    if whole is None and (evidence := fault_of(search, faults)) is not None:
        return identified_by_fault(observations, evidence, fits)
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
    faults: Iterable[KnownFault] = (),
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
        faults: planted faults, one of which may explain what no single choice does.
    """
    implementation = observations.implementation
    strategies = strategies or strategies_for(implementation)
    search = Search(observations, sorted({*failing, *passing}, key=size_of), seconds * SEARCHING)
    most = affordable(search)
    failing, passing = thinned(failing, most), thinned(passing, most)
    search.recipes = sorted({*failing, *passing}, key=size_of)
    dialects = distinguishable([implementation.dialect, *dialects_of(implementation.task).values()])
    for attempt in range(REFUTATIONS + 1):
        simple = quickly_explaining(search, dialects) or first_explaining(search, dialects, failing)
        evidence = None if simple else evidence_of_fault(search, failing, strategies, faults)
        if evidence is not None:
            advance(f"{implementation.name}: has {evidence.words}", steps=0)
            return identified_by_fault(observations, evidence)
        found = simple or search.run(dialects, FEW_PROBES)
        refuting = refuting_recipes(search, found, strategies) if attempt < REFUTATIONS else []
        if not refuting:
            break
        search.add(refuting)
        failing = [*failing, *refuting]
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


def simple_cause(
    observations: Observations, failing: Sequence[Recipe], passing: Sequence[Recipe], seconds: float
) -> Dialect | None:
    """Return a simple dialect that explains the given batches, without a proof on new ones; None if none does.

    Simple are official dialects, and the declared dialect with one changed choice.

    Args:
        observations: outcomes of the implementation under test.
        failing: recipes of batches on which the implementation did not conform.
        passing: recipes of batches on which it conformed.
        seconds: budget of processor time.
    """
    search = Search(observations, sorted({*failing, *passing}, key=size_of), seconds)
    dialects = distinguishable(
        [observations.implementation.dialect, *dialects_of(observations.implementation.task).values()]
    )
    return first_explaining(search, dialects, failing)


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


def quickly_explaining(search: Search, dialects: Sequence[Dialect]) -> Dialect | None:
    """Return the dialect of the quick search without needless choices; None if it does not explain all batches.

    Args:
        search: the search, with all batches to explain.
        dialects: official dialects, the declared dialect first.
    """
    try:
        quick = search.quickest(dialects, wide=False)
        return search.without_needless(quick) if search.fits_all(search.recipes, quick) else None
    except OutOfTimeError:
        return None


def first_explaining(
    search: Search, dialects: Sequence[Dialect], failing: Sequence[Recipe]
) -> Dialect | None:
    """Return an official dialect, or the first of them with one changed choice, that explains all batches of a search.

    Only the dialects with the most similar results are judged: most of the others are refuted by any failing batch.
    None is returned if no dialect explains all batches, or if the budget is used up.

    Args:
        search: the search, with all batches to explain.
        dialects: official dialects, the declared dialect first.
        failing: recipes of batches that refute the declared dialect.
    """
    few = sorted(failing, key=size_of)[:FEW]
    singles = [replace(dialects[0], **move) for move in search.moves_from(dialects[0])]
    try:
        likely = search.most_similar([*dialects, *singles], few)[:SIMILAR]
        return next((d for d in likely if explains_all(search, d, [*few, *search.recipes])), None)
    except OutOfTimeError:
        return None


def evidence_of_fault(
    search: Search,
    failing: Sequence[Recipe],
    strategies: Sequence[SearchStrategy[Recipe]],
    faults: Iterable[KnownFault],
) -> FaultEvidence | None:
    """Return the planted fault that explains an implementation in its declared dialect; None without such a fault.

    Args:
        search: the search, with all batches to explain.
        failing: recipes of batches that refute the declared dialect.
        strategies: strategies of further batches, which may refute a fault.
        faults: the known faults.
    """
    new = (recipe for strategy in strategies for recipe in new_of_strategy(strategy))
    try:
        return explaining_fault(search, search.observations.implementation.dialect, failing, new, faults)
    except OutOfTimeError:
        return None


def fault_of(search: Search, faults: Iterable[KnownFault]) -> FaultEvidence | None:
    """Return the planted fault that explains an implementation, if no dialect with a single changed choice does.

    The batches that the declared dialect does not explain are found among the smallest batches.
    """
    declared, smallest = search.observations.implementation.dialect, search.recipes[:SEARCHED]
    try:
        failing = [recipe for recipe in smallest if not search.fits(recipe, declared)]
    except OutOfTimeError:
        return None
    if not failing or first_explaining(search, [declared], failing) is not None:
        return None
    return evidence_of_fault(search, failing, (), faults)


def identified_by_fault(
    observations: Observations, evidence: FaultEvidence, fits: Sequence[DialectFit] = ()
) -> Identification:
    """Return the result of an identification by a fault: the declared dialect with the fault as its only choice."""
    implementation, fault = observations.implementation, evidence.fault
    choice = ChoiceEvidence(fault.name, fault.clauses[0], evidence.words, evidence.failing, evidence.smallest)
    judged = evidence.explained + evidence.undecided
    return Identification(
        implementation,
        implementation.dialect,
        implementation.dialect,
        judged,
        {},
        [choice],
        (evidence.failing, judged),
        list(fits),
        ties=[Tie(words_of(other), None) for other in evidence.equals],
        unjudged=evidence.incomparable,
        fault=fault,
        undecided=evidence.undecided,
    )


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
            drawn = [r for r in new_recipes(name, search.task) if r not in search.recipes]
            refuting += [recipe for recipe in drawn if not search.fits(recipe, found)]
        of_tests = {recipe for strategy in strategies if names for recipe in new_of_strategy(strategy)}
        drawn = search.least_similar(found, of_tests - {*search.recipes, *refuting})
        refuting += [recipe for recipe in drawn[:MOST_REFUTING] if not search.conforming(recipe, found)]
    except OutOfTimeError:
        pass
    return refuting


def explains_all(search: Search, dialect: Dialect, recipes: Iterable[Recipe]) -> bool:
    """Return True if a dialect explains the batches of all recipes, or seems to.

    Raises:
        OutOfTimeError: the budget is used up.
    """
    return all(search.fits(recipe, dialect) for recipe in recipes)


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

    Besides the named strategies, there are strategies on which releases differ, and, for detection, a strategy of
    batches with fewer anchors than k.
    """
    own = (DISTINGUISHING["k_cut"],) if implementation.task == DETECT.name else ()
    return _sorted_recipes(
        (*release_strategies(implementation.task), *own, *strategies_for(implementation)), count
    )


@cache
def _sorted_recipes(
    strategies: tuple[SearchStrategy[Recipe], ...], count: int
) -> Sequence[RecipeAndStrategy]:
    by_recipe = {
        recipe: strategy for strategy in reversed(strategies) for recipe in sample_recipes(strategy, count)
    }
    return sorted(by_recipe.items(), key=lambda pair: size_of(pair[0]))
