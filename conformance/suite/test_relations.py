"""META: what holds of an implementation whatever the right answer is (specification section 7)."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import event, reject

from tal_conformance.batches.named_strategies import RELATABLE
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import check
from tal_conformance.checks.relations.relations import RELATIONS, NotApplicable, NotObservable, Relation
from tal_conformance.core.verdicts import Verdict
from tal_conformance.suite.checker import Checker

EVERY = [
    pytest.param(each, id=clause, marks=pytest.mark.clauses(clause)) for clause, each in RELATIONS.items()
]
MIN_COMPARED_SHARE = 0.25
"""Share of its batches that a relation must be able to compare in full; most reach 0.7 to 1."""
ENOUGH = 20
"""Batches from which the share is asked for: where half of all can be compared in full, of 20 fewer than a quarter
are once in 170 runs; of fewer batches, often."""


@pytest.fixture
def extents() -> Iterator[Counter[str]]:
    """How many batches were compared in full and in part; a relation that hardly ever was has shown nothing."""
    counts: Counter[str] = Counter()
    yield counts
    if counts.total() >= ENOUGH and counts["in full"] < MIN_COMPARED_SHARE * counts.total():
        pytest.fail(f"of {counts.total()} batches only {counts['in full']} could be compared in full")


@pytest.mark.parametrize("relation", EVERY)
@check(batches=RELATABLE, share=4, mutants="never")  # a relation runs the implementation two or three times
def test_relation(checker: Checker, relation: Relation, extents: Counter[str], recipe: Recipe) -> None:
    """The implementation's results on a batch and on a changed one are related as the clause says."""
    try:
        judgement = checker(recipe, by=relation, relates=True)
    except NotApplicable:
        reject()
    except NotObservable as hidden:
        checker.not_tested(str(hidden))
    extent = "in part" if judgement.verdict is Verdict.ADMISSIBLE else "in full"
    extents[extent] += 1
    event(f"{relation.clause} compared {extent}")
