"""Collect the batches that the checks of the suite generate, and judge mutants on them.

A reproducible profile generates the same batches for every conforming implementation. A run of the suite would
therefore test a mutant on exactly the collected batches. Here other profiles generate reproducibly too, so
that a surviving mutant can be examined again.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor

import tal_conformance.suite.every_check  # noqa: F401 (enters the checks into the registry)
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import RELATABLE
from tal_conformance.checks.checker import Judging, NoSink, Sink
from tal_conformance.checks.reference import Judge, judge_against_reference
from tal_conformance.checks.registry import CHECKS, Check
from tal_conformance.checks.rejection import check_all_reject
from tal_conformance.checks.relations.relations import RELATIONS, NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.task import DETECT
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Subject
from tal_conformance.judgement.judge import judge
from tal_conformance.suite.checker import Checker
from tal_reference import Dialect

REPEATING = settings(
    derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate),
    print_blob=False, suppress_health_check=list(HealthCheck),
)  # fmt: skip
MAX_STORED = 4000
"""Maximum number of cases whose batches are stored. If there are more cases, batches are built on each use."""


@dataclass(frozen=True)
class GeneratedCase:
    """One batch of one test, with the function that judges it.

    Attributes:
        test: name of the test that generated the batch.
        build: function that builds the batch.
        by: function that judges an implementation on the batch.
    """

    test: str
    build: Callable[[], Batch]
    by: Judging


@dataclass
class CollectingChecker(Checker):
    """A checker that collects the batches of a check instead of judging them.

    Attributes:
        stores: True if every batch is built once and stored; False if batches are built on every use.
        cases: the batches collected so far.
    """

    stores: bool = True
    cases: list[GeneratedCase] = field(default_factory=list)

    def __call__(
        self, batch: Recipe | Batch, by: Judging = judge_against_reference, relates: bool = False
    ) -> Judgement:
        """Collect a batch, or the recipe to build it from, and return an empty judgement without judging."""
        build: Callable[[], Batch]
        if isinstance(batch, Batch):
            build = partial(_same, batch)
        else:
            build = build_once(batch.build) if self.stores else batch.build
        self.cases.append(GeneratedCase(self.test, build, by))
        return Judgement()

    def must_reject(self, batch: Batch, stage: str, clause: str, reason: str) -> None:
        """Collect a batch on which the implementation must raise, without judging it."""
        by = partial(check_all_reject, stage=stage, clause=clause, reason=reason)
        self.cases.append(GeneratedCase(self.test, partial(_same, batch), by))


def _same(batch: Batch) -> Batch:
    return batch


def build_once(build: Callable[[], Batch]) -> Callable[[], Batch]:
    """Return a function that builds the batch on its first call, and returns the same batch on later calls."""
    batch: list[Batch] = []

    def build_at_first() -> Batch:
        if not batch:
            batch.append(build())
        return batch[0]

    return build_at_first


def checks_of(mutants: Literal["first", "last"]) -> list[Check]:
    """Return the checks declared to judge mutants first (fast checks) or last (slow checks), depending on `mutants`."""
    return [check for check in CHECKS.values() if check.mutants == mutants]


def collect(
    check: Check, dialect: Dialect, number: int, stores: bool = True, task: str = DETECT.name
) -> list[list[GeneratedCase]]:
    """Return the batches that a check generates for an implementation of a dialect: one list for each pytest test.

    Args:
        check: the check whose batches are collected.
        dialect: the dialect of the implementation; for some dialects a check generates other batches, or no batches.
        number: number of examples of the profile.
        stores: True to build every batch once and store it, False to build it on every use.
        task: name of the loss family of the batches.
    """
    reference = Subject(implementation_from(ReferenceAdapter(dialect), "reference"), "cpu")
    groups = []
    for name, arguments in check.calls():
        sink: Sink = NoSink()
        checker = CollectingChecker(reference, sink, name, "", stores=stores)
        test = settings(REPEATING, max_examples=check.examples(number))(
            check.generated(repeats=True, task=task)
        )
        with suppress(pytest.skip.Exception):
            test(checker=checker, **arguments)
        groups.append(checker.cases)
    return groups


def collect_relations(number: int) -> list[GeneratedCase]:
    """Return a case (batch with judge) for each of `number` batches and each relation of specification section 7."""
    recipes: list[Recipe] = []

    @settings(REPEATING, max_examples=number)
    @given(recipe=RELATABLE)
    def draw(recipe: Recipe) -> None:
        recipes.append(recipe)

    draw()
    return [
        GeneratedCase(f"test_relation[{clause}]", build, relation)
        for recipe in recipes
        for build in [build_once(recipe.build)]
        for clause, relation in RELATIONS.items()
    ]


def in_turn(groups: list[list[GeneratedCase]]) -> Iterator[GeneratedCase]:
    """Yield the first case of each group, then the second case of each group, until all groups are exhausted."""
    for number in range(max(map(len, groups), default=0)):
        yield from (group[number] for group in groups if number < len(group))


def all_cases(number: int, dialect: Dialect) -> list[GeneratedCase]:
    """Return the cases (batches with judges) of all checks and relations; cases of fast checks come first.

    Args:
        number: number of examples of the profile.
        dialect: the dialect of the implementation to judge.
    """
    cheap, expensive = checks_of("first"), checks_of("last")
    stores = number * len(cheap) <= MAX_STORED
    ordered = [
        in_turn([group for check in checks for group in collect(check, dialect, number, stores)])
        for checks in (cheap, expensive)
    ]
    return [*ordered[0], *ordered[1], *collect_relations(max(1, number // 4))]


class BaselineOutcomes:
    """Outcomes of the unmutated implementation, by case. A mutant with an equal outcome is accepted without judging.

    Attributes:
        outcomes: outcomes by the `id()` of the case.
        case: `id()` of the current case.
        learns: True while the unmutated implementation is judged, so that outcomes are stored.
    """

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.case = 0
        self.learns = True

    def skipping_known(self, judges: Judge) -> Judge:
        """Return the judge `judges`, changed to accept an outcome that equals the stored one without judging it."""

        def judge_if_new(outcome: Outcome, expected: Expectation) -> Judgement:
            if (
                not self.learns
                and self.case in self.outcomes
                and equal_outcomes(outcome, self.outcomes[self.case])
            ):
                return Judgement()
            judgement = judges(outcome, expected)
            if self.learns:
                self.outcomes[self.case] = outcome
            return judgement

        return judge_if_new


def equal_outcomes(first: Any, second: Any) -> bool:
    """Return True if two outcomes have the same dtypes, shapes and values; NaN equals NaN."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.dtype != second.dtype or first.shape != second.shape:
            return False
        return bool(((first == second) | (first.isnan() & second.isnan())).all())
    if type(first) is not type(second):
        return False
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(equal_outcomes, first, second))
    if is_dataclass(first):
        return equal_outcomes([getattr(first, part.name) for part in fields(first)],
                              [getattr(second, part.name) for part in fields(second)])  # fmt: skip
    return bool(first == second)


def attempt(
    subject: Subject, case: GeneratedCase, batch: Batch, baseline: BaselineOutcomes | None = None
) -> None:
    """Judge an implementation on one case.

    A case of a relation is skipped if the relation does not apply, or needs values that are not exposed.

    Raises:
        Failure: the implementation does not conform.
    """
    with suppress(NotApplicable, NotObservable, NotSupported):
        by = case.by
        if baseline is not None and getattr(by, "func", by) is judge_against_reference:
            judging: Any = by  # judge_against_reference, or a functools.partial of it
            chosen = getattr(by, "keywords", {}).get("judge", judge)
            by = partial(judging, judge=baseline.skipping_known(chosen))
        by(subject, batch)
