"""Run the suite's checks of one implementation on few batches of each test, for commands that judge many of them."""

from collections.abc import Iterator
from contextlib import suppress

from tal_conformance.batches.named_strategies import LOSS_STRATEGIES, STRATEGIES
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.checks.devices.checks import repeatable
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import NotApplicable, NotObservable, Relation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.mutation.trials import GeneratedCase, all_cases, build_once
from tal_reference import Dialect


def suite_cases(dialect: Dialect, count: int, assigner: bool = True) -> list[GeneratedCase]:
    """Return the batches of the suite's tests with the checks of these tests, those of cheap tests first.

    Args:
        dialect: dialect of the implementation that they are generated for.
        count: examples of each check; one for each strategy of repeated calls.
        assigner: the implementation can be called without its loss, with other exponents (TAL-MET-1).
    """
    cases = [case for case in all_cases(count, dialect) if assigner or case.test != "test_exponents"]
    lanes = STRATEGIES if assigner else LOSS_STRATEGIES
    repeated = [
        GeneratedCase("test_repeatable", build_once(recipe.build), repeatable)
        for lane in lanes.values()
        for recipe in sample_recipes(lane, 1)
    ]
    return [*cases, *repeated]


def failures(subject: Subject, cases: list[GeneratedCase]) -> Iterator[tuple[GeneratedCase, Failure]]:
    """Yield the failure of every case that fails, judged as the checker of a session judges it."""
    for case in cases:
        batch = case.build()
        relates = isinstance(case.by, Relation) or case.by is repeatable
        comparable = not relates or supports_relations(batch, subject.implementation.dialect)
        try:
            with suppress(NotApplicable, NotObservable):
                (case.by if comparable else judge_against_reference)(subject, batch)
        except Failure as failure:
            yield case, failure
