"""Every metamorphic relation (META-*) finds its planted faults, and accepts conforming implementations."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.common.tiers import mostly_nightly
from tests.fauxmplementations.relation_faults import HONEST, PLANTED, LossAlone
from tests.fauxmplementations.symmetric import SYMMETRIC

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import RELATIONS, NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find as find_implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_reference import DIALECTS, Dialect, WeightBroadcast

QUICK = settings(
    max_examples=300, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
BOTH_MIRRORS = recipes(strides=((8,), (8, 16), (4, 8)), max_images=2)


COMPARED = 12
"""Number of batches on which each conforming implementation is checked."""


@cache
def batches() -> list[Batch]:
    """Return batches drawn from all strategies, the same batches in every test."""
    drawn: list[Batch] = []

    @QUICK
    @given(st.one_of(BOTH_MIRRORS, *STRATEGIES.values()))
    def draw(recipe: Recipe) -> None:
        drawn.append(recipe.build())

    draw()
    return [*drawn, TWINS.build()]


TWINS = Recipe(
    images=((Truth("overlapping", at=(15, 13), size=(9, 3)), Truth("ordinary")),) * 2,
    strides=(32,),
    classes=5,
    streams=(0, 239),
)
"""Two images with the same ground truths. Each has target scores that sum up to less than 1, as few drawn images do."""
ALIKE = (
    Recipe(images=((Truth("ordinary"),), (Truth("ordinary", at=(8, 8)),)), strides=(8, 16)),
    Recipe(
        images=((Truth("ordinary"), Truth("overlapping")), (Truth("huge"),)),
        cells=(6, 8),
        strides=(8, 16, 32),
        classes=3,
    ),
    Recipe(images=((Truth("huge"), Truth("tiny")), (Truth("ordinary"),)), strides=(8, 16), reg_max=1),
)
"""Batches on which the reference of every dialect is checked: each image has ground truths."""


def subject(adapter: Any) -> Subject:
    return Subject(implementation_from(adapter, "double"), "cpu")


def failures(clause: str, tested: Subject) -> Iterator[Failure]:
    """Yield the failures of the implementation `tested` in the relation `clause`, over all batches of `batches()`."""
    for batch in batches():
        try:
            RELATIONS[clause](tested, batch)
        except NotApplicable:
            continue
        except Failure as failure:
            yield failure


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clause", "fault"), [pytest.param(c, f, id=f"{c}: {what}") for c, what, f in PLANTED]
)
def test_a_planted_fault_is_found_by_its_relation(clause: str, fault: Fault):
    failure = next(failures(clause, subject(FaultyReference(fault))))
    assert failure.clause == clause
    assert failure.verdict is Verdict.DIVERGENT
    assert failure.values


def test_every_relation_has_a_planted_fault():
    assert {clause for clause, _, _ in PLANTED} == set(RELATIONS)


@pytest.mark.parametrize(
    "what",
    [
        "N of the first image",
        "the mean cross-entropy",
        "N counts images",
        "N for each image",
        "N below 1",
    ],
)
def test_a_loss_that_shows_no_assignment_is_held_to_relations_too(what: str):
    clause, _, fault = next(row for row in PLANTED if row[1] == what)
    failure = next(failures(clause, subject(LossAlone(fault))))
    assert failure.clause == clause


DAILY = ("stages shown", "loss alone", "ties at random, outputs alone")
"""Correct implementations that CI runs."""


@pytest.mark.slow
@pytest.mark.parametrize("clause", RELATIONS)
@pytest.mark.parametrize("kind", mostly_nightly(HONEST, DAILY))
def test_nothing_is_found_in_what_is_right(clause: str, kind: str):
    extents: Counter[bool] = Counter()
    tested = subject(HONEST[kind]())
    for batch in batches():
        try:
            judgement = RELATIONS[clause](tested, batch)
        except NotApplicable:
            continue
        except NotObservable:
            assert kind == "loss alone"
            return
        extents[judgement.verdict is Verdict.ADMISSIBLE] += 1
        if extents.total() == COMPARED:
            break
    assert extents.total() == COMPARED
    assert extents[False] > COMPARED / 4


DAILY_SYMMETRIC = ("plain IoU, stages", "signed CIoU, outputs", "edges count, hidden", "three for B")
"""Wrong but symmetric implementations that CI runs."""
RANGES = {"META-SCORE-RANGE", "META-BEST-SCORE"}
"""Relations within one outcome. They define the overlap, so any overlap but clamped CIoU violates them."""


@pytest.mark.parametrize("clause", [clause for clause in RELATIONS if clause not in RANGES])
@pytest.mark.parametrize("kind", mostly_nightly(SYMMETRIC, DAILY_SYMMETRIC))
def test_what_breaks_no_symmetry_is_not_accused_of_it(clause: str, kind: str):
    """A wrong but symmetric implementation passes every relation: relations use no reference."""
    tested = subject(SYMMETRIC[kind]())
    assert not [str(failure) for failure in failures_among(clause, tested, 24)]


@pytest.mark.parametrize("kind", SYMMETRIC)
def test_what_breaks_no_symmetry_is_found_where_it_is_held_to_its_dialect(kind: str):
    tested = subject(SYMMETRIC[kind]())
    assert any(differs(tested, batch) for batch in batches())


def differs(tested: Subject, batch: Batch) -> bool:
    try:
        judge_against_reference(tested, batch)
    except Failure:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ultralytics", "article"])
@pytest.mark.parametrize("clause", RELATIONS)
def test_nothing_is_found_in_the_registered_implementations(clause: str, name: str):
    tested = Subject(find_implementation(name), "cpu")
    assert not list(failures_among(clause, tested, 16))


def failures_among(clause: str, tested: Subject, number: int) -> Iterator[Failure]:
    for batch in islice(batches(), number):
        try:
            RELATIONS[clause](tested, batch)
        except NotApplicable:
            continue
        except Failure as failure:
            yield failure


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
def test_the_reference_of_every_dialect_is_related_to_itself(dialect: Dialect):
    own, related = subject(ReferenceAdapter(dialect)), 0
    for batch in (recipe.build() for recipe in ALIKE):
        if supports_relations(batch, dialect):
            for relation in RELATIONS.values():
                with suppress(NotApplicable, NotObservable):
                    relation(own, batch)
                    related += 1
    divides_by_one_number = (
        dialect.score_sum_floor > 0 and dialect.weights_meet is WeightBroadcast.PER_POSITIVE
    )
    assert (related > 0) is divides_by_one_number


class DividesByZero(ReferenceAdapter):
    """A loss whose class loss is infinite on batches without ground truths, as after a division by zero."""

    exposes_stages = False

    def loss(self, maps: Any, annotations: Any, *arguments: Any) -> Loss:
        honest = super().loss(maps, annotations, *arguments)
        cls = 1.0 if len(annotations) else torch.inf
        return replace(honest, total=honest.total * cls, items=honest.items * torch.tensor([1.0, cls, 1.0]))


@pytest.mark.parametrize("clause", ["META-PADDING", "META-EMPTY-IMAGE", "META-UNREACHABLE-CLASS"])
def test_a_loss_that_is_not_finite_by_itself_is_not_the_relations_error(clause: str):
    with pytest.raises(Failure) as caught:
        RELATIONS[clause](subject(DividesByZero()), Recipe(images=((), ())).build())
    assert caught.value.clause == "LOSS-SUM-1"
