"""Run all checks of the suite on few batches each, for commands that judge many implementations."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import (
    LOSS_STRATEGIES,
    NOT_RECIPES,
    OF_CALLS,
    OF_DEVICES,
    STRATEGIES,
    STRATEGIES_BY_TASK,
)
from tal_conformance.checks.devices.checks import repeatable
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import (
    RELATIONS_BY_TASK,
    NotApplicable,
    NotObservable,
    Relation,
)
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.non_finite import judge_any
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.mutation.trials import GeneratedCase, all_cases, build_once
from tal_reference import Dialect

LARGE = ("crossings", "long_batches")
"""Strategies whose batches take long, and which depend on sizes, not on releases."""


def suite_cases(
    dialect: Dialect, count: int, assigner: bool = True, task: str = DETECT.name
) -> list[GeneratedCase]:
    """Return generated batches of all tests of the suite, each with its judging function; fast tests come first.

    Args:
        dialect: dialect of the implementation to judge, which decides which batches are generated.
        count: number of batches of each test; the test of repeated calls has one batch for each strategy.
        assigner: True if the implementation has an assigner that can be called alone, with any alpha and beta
            (TAL-MET-1).
        task: name of the task.
    """
    if task != DETECT.name:
        return cases_of_task(task, dialect, count)
    cases = [case for case in all_cases(count, dialect) if assigner or case.test != "test_exponents"]
    strategies = STRATEGIES if assigner else LOSS_STRATEGIES
    repeated = [
        GeneratedCase("test_repeatable", build_once(recipe.build), repeatable)
        for strategy in strategies.values()
        for recipe in sample_recipes(strategy, 1)
    ]
    return [*cases, *repeated]


def cases_of_task(task: str, dialect: Dialect, count: int) -> list[GeneratedCase]:
    """Return generated batches of all strategies and relations of a task, each with its judging function."""
    strategies = dict(STRATEGIES_BY_TASK[task])
    related = sample_recipes(strategies.pop("relation"), count) if "relation" in strategies else []
    for name in (*OF_CALLS, *OF_DEVICES, *LARGE, *(("rows_in_any_order",) if dialect.rows_sorted else ())):
        strategies.pop(name, None)
    samples = {name: list(sample_recipes(strategy, count)) for name, strategy in strategies.items()}
    drawn = [  # the first batch of every strategy, then the second one
        (name, build_once(recipes[number].build))
        for number in range(count)
        for name, recipes in samples.items()
        if number < len(recipes)
    ]
    by_any = partial(judge_against_reference, judge=judge_any)  # predictions may not be finite
    cases = [GeneratedCase(f"test_{name}", build, by_any) for name, build in drawn]
    of_relations = [
        GeneratedCase(f"test_relation[{clause}]", build_once(recipe.build), relation)
        for recipe in related
        for clause, relation in RELATIONS_BY_TASK[task].items()
    ]
    repeated = [
        GeneratedCase("test_repeatable", build, repeatable)
        for name, build in drawn[: len(samples)]
        if name not in NOT_RECIPES
    ]
    return [*cases, *of_relations, *repeated]


def failures(subject: Subject, cases: list[GeneratedCase]) -> Iterator[tuple[GeneratedCase, Failure]]:
    """Judge an implementation on all cases (batches with judges), and yield failing cases with their failures."""
    for case in cases:
        batch = case.build()
        relates = isinstance(case.by, Relation) or case.by is repeatable
        comparable = not relates or supports_relations(batch, subject.implementation.dialect)
        try:
            with suppress(NotApplicable, NotObservable, NotSupported):
                (case.by if comparable else judge_against_reference)(subject, batch)
        except Failure as failure:
            yield case, failure
