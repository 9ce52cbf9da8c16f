"""Run all checks of the suite on few batches each, for commands that judge many implementations."""

from collections.abc import Iterator
from contextlib import suppress

from tal_conformance.batches.named_strategies import LOSS_STRATEGIES, STRATEGIES
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.checks.devices.checks import repeatable
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import NotApplicable, NotObservable, Relation
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.mutation.trials import GeneratedCase, all_cases, build_once
from tal_reference import Dialect


def suite_cases(dialect: Dialect, count: int, assigner: bool = True) -> list[GeneratedCase]:
    """Return generated batches of all tests of the suite, each with its judging function; fast tests come first.

    Args:
        dialect: dialect of the implementation to judge, which decides which batches are generated.
        count: number of batches of each test; the test of repeated calls has one batch for each strategy.
        assigner: True if the implementation has an assigner that can be called alone, with any alpha and beta
            (TAL-MET-1).
    """
    cases = [case for case in all_cases(count, dialect) if assigner or case.test != "test_exponents"]
    strategies = STRATEGIES if assigner else LOSS_STRATEGIES
    repeated = [
        GeneratedCase("test_repeatable", build_once(recipe.build), repeatable)
        for strategy in strategies.values()
        for recipe in sample_recipes(strategy, 1)
    ]
    return [*cases, *repeated]


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
