"""Trials: the batches that the suite's own tests draw, collected once, to be fed to one implementation after another.

A profile that repeats draws the same batches for everybody who passes: what is collected is what would be drawn. The
others are made to repeat here, so that a survivor can be looked at again.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.profiles import PROFILES
from tal_conformance.checks.reference import Judge, judge_against_reference
from tal_conformance.checks.rejection import check_all_reject
from tal_conformance.checks.relations.relations import RELATIONS, NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Subject
from tal_conformance.judgement.judge import judge
from tal_reference import Dialect

REPEATING = "power"
settings.register_profile(
    REPEATING, derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate),
    print_blob=False, suppress_health_check=list(HealthCheck),
)  # fmt: skip
By = Callable[[Subject, Batch], Any]
KEPT = 4000
"""Trials of which the batch is built once and kept; of others it is built again each time."""


@dataclass(frozen=True)
class Source:
    """A test of the suite.

    Attributes:
        module: without `tal_conformance.test_`.
        test: without `test_`.
        arguments: what pytest would pass besides `checker` and the drawn batch.
    """

    module: str
    test: str
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The test's name, with its parameter."""
        parameters = "-".join(value for _, value in self.arguments if isinstance(value, str))
        return f"test_{self.test}[{parameters}]" if parameters else f"test_{self.test}"


FIRST = (
    Source("loss", "loss"), Source("candidates", "small_boxes"), Source("conflict", "conflict"),
    Source("metric", "metric"), Source("topk", "topk"), Source("targets", "targets"),
    Source("targets", "no_ground_truth"), Source("loss", "loss_of_large_boxes"),
    Source("loss", "loss_of_small_boxes"), Source("loss", "loss_of_points"),
    Source("loss", "hyperparameters"), Source("decoding", "decoding"),
    Source("annotations", "annotations"), Source("candidates", "borders"), Source("topk", "zeros_compete"),
    Source("topk", "fewer_anchors_than_k"), Source("topk", "as_many_anchors_as_k"), Source("conflict", "topk2"),
    Source("conflict", "topk2_above_k"),
    Source("assigner", "assigner"), Source("assigner", "exponents"),
)  # fmt: skip
"""Tests that look at one batch at a time, in float32: the cheapest. A batch of each is tried in turn."""
ROWS = (Source("row_order", "rows_in_any_order"),)


def later() -> tuple[Source, ...]:
    """Tests that need several runs a batch, or other numbers than float32: what the first ones missed gets here."""
    from tal_conformance.batches.named_strategies import PRECISIONS

    return (
        *(Source("precision", "precision", (("precision", name),)) for name in PRECISIONS),
        Source("nonfinite", "nonfinite"),
    )


@dataclass(frozen=True)
class GeneratedCase:
    """One batch of one test.

    Attributes:
        test: which test drew it.
        build: makes the batch.
        by: what judges it.
    """

    test: str
    build: Callable[[], Batch]
    by: By


@dataclass
class Collector:
    """Stands for the suite's `checker`: keeps what was drawn, and judges nothing."""

    subject: Subject
    test: str
    keeps: bool = True
    trials: list[GeneratedCase] = field(default_factory=list)

    def __call__(self, drawn: Any, by: By = judge_against_reference, relates: bool = False) -> None:
        """Keep a batch, or how to make it."""
        if isinstance(drawn, Batch):
            self.trials.append(GeneratedCase(self.test, lambda: drawn, by))
            return
        self.trials.append(GeneratedCase(self.test, kept(drawn.build) if self.keeps else drawn.build, by))

    def must_reject(self, batch: Batch, stage: str, clause: str, because: str) -> None:
        """Keep a batch on which the implementation must raise."""
        by = partial(check_all_reject, stage=stage, clause=clause, reason=because)
        self.trials.append(GeneratedCase(self.test, lambda: batch, by))


def kept(build: Callable[[], Batch]) -> Callable[[], Batch]:
    """The same batch each time, built when it is first asked for."""
    batch: list[Batch] = []

    def build_once() -> Batch:
        if not batch:
            batch.append(build())
        return batch[0]

    return build_once


def load(profile: str, examples: int | None = None) -> int:
    """Let the suite's tests draw what the profile draws; call it before they are imported.

    Returns:
        Batches of a test.
    """
    number = examples or PROFILES[profile].examples
    settings.register_profile(f"power-{profile}", settings.get_profile(REPEATING), max_examples=number)
    settings.load_profile(f"power-{profile}")
    return number


def collected(
    source: Source, dialect: Dialect, number: int | None = None, keeps: bool = True
) -> list[GeneratedCase]:
    """What a test draws for an implementation of a dialect.

    Args:
        source: the test.
        dialect: some tests draw other batches for other dialects.
        number: batches; None: as many as the test was made with.
        keeps: batches are built once.
    """
    subject = Subject(implementation_from(ReferenceAdapter(dialect), "reference"), "cpu")
    collector = Collector(subject, source.name, keeps)
    module = importlib.import_module(f"tal_conformance.suite.test_{source.module}")
    test: Any = getattr(module, f"test_{source.test}")
    if number is not None:
        test = settings(settings.get_profile(REPEATING), max_examples=number)(
            given(**test.hypothesis._given_kwargs)(test.hypothesis.inner_test)
        )
    test(checker=collector, **dict(source.arguments))
    return collector.trials


def related(number: int) -> list[GeneratedCase]:
    """What the relations of specification section 7 are asked about: every batch that a test of them draws."""
    from tal_conformance.batches.named_strategies import RELATABLE

    drawn: list[Recipe] = []

    @settings(max_examples=number)
    @given(recipe=RELATABLE)
    def draw(recipe: Recipe) -> None:
        drawn.append(recipe)

    draw()
    return [
        GeneratedCase(f"test_relation[{clause}]", kept(recipe.build), relation)
        for recipe in drawn
        for clause, relation in RELATIONS.items()
    ]


def in_turn(groups: list[list[GeneratedCase]]) -> Iterator[GeneratedCase]:
    """The first of each, then the second of each, until there are none."""
    for number in range(max(map(len, groups), default=0)):
        yield from (group[number] for group in groups if number < len(group))


def all_trials(number: int, dialect: Dialect, rows: bool = False) -> list[GeneratedCase]:
    """Every trial of a profile, the cheap ones first.

    Args:
        number: batches of a test.
        dialect: whom they are drawn for.
        rows: with annotation rows that are out of order.
    """
    keeps = number * len(FIRST) <= KEPT
    cheap = [collected(source, dialect, keeps=keeps) for source in (*FIRST, *(ROWS if rows else ()))]
    dear = [collected(source, dialect, keeps=keeps) for source in later()]
    return [*in_turn(cheap), *in_turn(dear), *related(max(1, number // 4))]


class BaselineOutcomes:
    """What the unchanged implementation made of each trial: a mutant that makes the same of it is judged the same.

    Attributes:
        outcomes: by the trial's number.
        number: the trial that is judged now.
        learns: what is judged now is the unchanged implementation.
    """

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.number = 0
        self.learns = True

    def before(self, judges: Judge) -> Judge:
        """A judge that is asked only about an outcome that is not known to conform."""

        def judged(batch: Batch, outcome: Outcome, dialect: Dialect) -> Judgement:
            if not self.learns and self.number in self.outcomes and same(outcome, self.outcomes[self.number]):
                return Judgement()
            judgement = judges(batch, outcome, dialect)
            if self.learns:
                self.outcomes[self.number] = outcome
            return judgement

        return judged


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are the same numbers of the same dtypes; NaN is NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if is_dataclass(one):
        return same([getattr(one, part.name) for part in fields(one)],
                    [getattr(other, part.name) for part in fields(other)])  # fmt: skip
    return bool(one == other)


def attempt(
    subject: Subject, trial: GeneratedCase, batch: Batch, known: BaselineOutcomes | None = None
) -> None:
    """Judge one batch, unless it says nothing about the implementation.

    Raises:
        Failure: it does not conform.
    """
    with suppress(NotApplicable, NotObservable):
        by = trial.by
        if known is not None and getattr(by, "func", by) is judge_against_reference:
            asked: Any = by  # conform, or a partial of it
            by = partial(asked, judge=known.before(getattr(by, "keywords", {}).get("judge", judge)))
        by(subject, batch)
