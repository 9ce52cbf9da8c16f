"""CALL: equal results in every way of calling that trainers use."""

from functools import partial

import pytest
from hypothesis import settings

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import CALLED
from tal_conformance.checks.calling.check import TWO_PROCESSES, applies, called
from tal_conformance.checks.registry import check
from tal_conformance.core.task import E2E
from tal_conformance.core.ways import UNSUPPORTED
from tal_conformance.implementations.calling.ways import WAYS
from tal_conformance.suite.checker import Checker

SLOW = ("two-processes", "compile")
"""Ways of calling that take seconds, which the profile `dev` leaves out."""
REDUCED_BRANCHES = (
    "each branch of an end-to-end loss has its own N, and the total does not show whether each N is reduced over "
    "the ranks"
)
"""Reason why end-to-end losses that reduce N over the ranks are not called in two processes."""
OTHERS = tuple(name for name in WAYS if name not in SLOW)


@check("CALL", batches=CALLED, share=45, least=1, parameter=("way", OTHERS), mutants="never")
def test_calling(checker: Checker, way: str, recipe: Recipe) -> None:
    """CALL-1 to CALL-6: a plain call on a batch conforms, and another way of calling returns the same results."""
    refuse_unsupported(checker, way)
    checker(recipe, by=partial(called, way=way))


@check("CALL", batches=CALLED, share=10**6, least=1, parameter=("way", SLOW), mutants="never", shrinks=False)
def test_calling_slowly(checker: Checker, way: str, recipe: Recipe) -> None:
    """CALL-5, CALL-7: as `test_calling`, but for one batch, because tracing and starting processes take seconds."""
    refuse_unsupported(checker, way)
    if settings.get_current_profile_name() == "conformance-dev":
        checker.not_tested(
            f"the way of calling {way!r} takes seconds: only the profiles ci and nightly use it"
        )
    implementation = checker.subject.implementation
    if way == TWO_PROCESSES and implementation.task == E2E.name and implementation.reduces_over_ranks:
        checker.not_tested(f"the way of calling {way!r}: {REDUCED_BRANCHES}")
    checker(recipe, by=partial(called, way=way))


def refuse_unsupported(checker: Checker, way: str) -> None:
    """Skip the test if the way of calling does not apply, or if the adapter does not support it (logged)."""
    implementation = checker.subject.implementation
    if not applies(implementation, way):
        pytest.skip(f"the way of calling {way!r} needs a loss, and the implementation has none")
    if way in implementation.unsupported_ways:
        checker.not_tested(f"{UNSUPPORTED}calling in the way {way!r} (attribute `unsupported_ways`)")
