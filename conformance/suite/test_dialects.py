"""DIALECT: an implementation that declares an older dialect differs from the newest one exactly as declared."""

from dataclasses import replace

import pytest

from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.verdicts import Verdict
from tal_conformance.dialects.smallest_difference import smallest_difference
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.session import SessionState
from tal_reference import NEWEST


@pytest.mark.clauses("DIALECT")
def test_declared_differences(checker: Checker, run: SessionState) -> None:
    """An implementation of an older dialect conforms to it, and not to the newest, on a batch where the two differ."""
    declared = checker.subject.implementation.dialect
    if declared == NEWEST:
        return  # every other test judges it by the newest dialect
    alone = "loss" not in checker.subject.implementation.capabilities
    try:
        recipe = smallest_difference(declared, alone)
    except LookupError as error:  # the dialect declares nothing
        pytest.fail(str(error))
    if recipe is None:
        checker.not_tested(
            f"the assigners of {declared.name} and {NEWEST.name} agree on every generated batch"
        )
    if checker(recipe).verdict is Verdict.NOT_SUPPORTED:
        return
    against_newest = Subject(replace(checker.subject.implementation, dialect=NEWEST), checker.subject.device)
    with pytest.raises(Failure) as caught:
        judge_against_reference(against_newest, recipe.build())
    run.recorder.difference(caught.value, declared, NEWEST)
