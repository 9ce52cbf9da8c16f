"""META: relations between results of one implementation, independent of the reference (specification section 7)."""

from collections import ChainMap, Counter
from collections.abc import Iterator

import pytest
from hypothesis import event, reject

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import RELATABLE
from tal_conformance.checks.registry import check
from tal_conformance.checks.relations.relations import (
    RELATIONS_BY_TASK,
    NotApplicable,
    NotObservable,
    Relation,
)
from tal_conformance.core.verdicts import Verdict
from tal_conformance.suite.checker import Checker

EVERY = [
    pytest.param(relation, id=clause, marks=pytest.mark.clauses(clause))
    for clause, relation in ChainMap(*RELATIONS_BY_TASK.values()).items()
]
"""The relations of all tasks. A row of the run has those of its task."""
MIN_COMPARED_SHARE = 0.25
"""Minimum share of a relation's batches that are compared in full; most relations reach 0.7 to 1."""
ENOUGH = 20
"""Number of batches from which the share is required. A relation that compares half of all batches in full falls below
a quarter of 20 batches once in 170 runs; of fewer batches, often."""


@pytest.fixture
def extents() -> Iterator[Counter[str]]:
    """Yield a counter of batches compared in full and in part; fail if too few were compared in full."""
    counts: Counter[str] = Counter()
    yield counts
    if counts.total() >= ENOUGH and counts["in full"] < MIN_COMPARED_SHARE * counts.total():
        pytest.fail(
            f"only {counts['in full']} of {counts.total()} batches could be compared in full; "
            f"expected at least {MIN_COMPARED_SHARE:.0%}"
        )


@pytest.mark.parametrize("relation", EVERY)
@check(batches=RELATABLE, share=4, mutants="never")  # a relation runs the implementation two or three times
def test_relation(checker: Checker, relation: Relation, extents: Counter[str], recipe: Recipe) -> None:
    """The implementation's results on a batch and on a changed copy of it are related as the clause says."""
    relation = RELATIONS_BY_TASK[checker.subject.implementation.task][relation.clause]
    try:
        judgement = checker(recipe, by=relation, relates=True)
    except NotApplicable:
        reject()
    except NotObservable as hidden:
        checker.not_tested(str(hidden))
    if judgement.verdict is Verdict.NOT_SUPPORTED:
        return
    extent = "in part" if judgement.verdict in (Verdict.ADMISSIBLE, Verdict.INCONCLUSIVE) else "in full"
    extents[extent] += 1
    event(f"{relation.clause} compared {extent}")
