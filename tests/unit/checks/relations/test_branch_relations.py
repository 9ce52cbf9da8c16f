"""Relations of end-to-end heads hold for correct losses, and are broken by faults in one branch or in the sum."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.common.tiers import mostly_nightly

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import IMAGES
from tal_conformance.checks.relations.relations import (
    BRANCH_RELATIONS,
    RELATIONS,
    NotApplicable,
    NotObservable,
)
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import E2E
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import FAULTS_BY_TASK
from tal_reference import NEWEST, Hyperparameters
from tal_reference.eras_of_tasks import dialects_of

RECIPES = [
    Recipe(
        images=images,
        cells=(4, 6),
        strides=(8, 16),
        classes=3,
        reg_max=bins,
        predictions=predictions,
        hyperparameters=Hyperparameters(updates=2, epochs=5),
        task=E2E.name,
    )
    for images in IMAGES
    for bins, predictions in ((4, "near"), (1, "random"))
]
OWN = [clause for clause in BRANCH_RELATIONS if clause not in RELATIONS]


class Changing(ReferenceAdapter):
    """The reference's end-to-end loss after a change."""

    name, tasks, exposes_stages = "changing", (E2E.name,), False

    def __init__(self, change: Callable[[Loss, Any], Loss], dialect: Any = NEWEST) -> None:
        super().__init__(dialect)
        self._change = change

    def loss(self, *arguments: Any) -> Loss:
        return self._change(super().loss(*arguments), arguments)

    assign = None  # type: ignore[assignment] # a loss alone


def changing(change: Callable[[Loss, Any], Loss]) -> Implementation:
    return implementation_from(Changing(change), "changing")


def hidden(loss: Loss, _: Any) -> Loss:
    return replace(loss, branches=None)


def failures(clause: str, implementation: Implementation) -> Iterator[Failure]:
    """Yield the failures of a relation on the batches to which it applies."""
    applied = 0
    for recipe in RECIPES:
        try:
            BRANCH_RELATIONS[clause](Subject(implementation, "cpu"), recipe.build())
        except NotApplicable:
            continue
        except Failure as failure:
            yield failure
        applied += 1
    assert applied, f"{clause} applies to no batch"


@pytest.mark.parametrize(
    "clause", mostly_nightly(list(BRANCH_RELATIONS), (*OWN, "META-GT-PERMUTATION", "META-MIRROR"))
)
@pytest.mark.parametrize("name", [pytest.param("reference", marks=pytest.mark.long), "ultralytics"])
def test_relations_hold_for_correct_losses(name: str, clause: str):
    assert list(failures(clause, find(name))) == []


@pytest.mark.parametrize("clause", BRANCH_RELATIONS)
def test_hidden_branches_are_compared_where_the_whole_loss_tells(clause: str):
    """Linearity, items and the number of positives follow from the whole loss; other relations are not observable."""
    implementation = changing(hidden)
    if clause in ("META-E2E-LINEAR", "META-E2E-ITEMS", "META-E2E-ONE"):
        assert list(failures(clause, implementation)) == []
    else:
        with pytest.raises(NotObservable):
            list(failures(clause, implementation))


@pytest.mark.parametrize(
    ("clause", "name"),
    [
        ("META-GT-PERMUTATION", "label_of_the_first_in_one2one"),
        ("META-GT-PERMUTATION", "contested_goes_to_the_first_in_one2many"),
        ("META-SPLIT", "score_sum_an_image_in_one2one"),
        ("META-E2E-ONE", "one2one_keeps_all"),
        ("META-E2E-ITEMS", "items_with_weights"),
        ("META-E2E-ITEMS", "items_of_one2many"),
    ],
)
def test_planted_faults_break_relations(clause: str, name: str):
    fault = FAULTS_BY_TASK[E2E.name][name]
    if fault.implementation is not None:
        implementation = fault.implementation("outputs")
    else:
        from tal_conformance.mutation.attack import faulty

        implementation = faulty(fault, exposes_stages=False)
    found = list(failures(clause, implementation))
    assert found
    assert {failure.clause for failure in found} == {clause}


def squared(loss: Loss, arguments: Any) -> Loss:
    """Return a loss whose total is multiplied by a number that depends on the updates."""
    return replace(loss, total=loss.total * (1 + arguments[3].updates / 100) ** 2)


def leaking(loss: Loss, _: Any) -> Loss:
    """Return a loss in which one2one is multiplied by a number that depends on one2many's loss."""
    assert loss.branches is not None
    many, one = loss.branches["one2many"], loss.branches["one2one"]
    assert one.items is not None
    factor = 1 + 1e-3 * many.total.sum().detach()
    changed = replace(one, total=one.total * factor, items=one.items * factor)
    return replace(loss, branches={"one2many": many, "one2one": changed})


@pytest.mark.parametrize(
    ("clause", "change", "stage"),
    [("META-E2E-LINEAR", squared, "total"), ("META-E2E-SEPARATE", leaking, "one2one/")],
)
def test_wrong_sums_break_relations(clause: str, change: Any, stage: str):
    found = list(failures(clause, changing(change)))
    assert found
    assert all(failure.stage.startswith(stage) and failure.clause == clause for failure in found)


def test_own_relations_need_weights():
    """Before 8.4.0 the branches had no weights, and the items were those of both."""
    old = dialects_of("e2e")["ultralytics-8.3.253"]
    implementation = implementation_from(Changing(lambda loss, _: loss, old), "old")
    subject, batch = Subject(implementation, "cpu"), RECIPES[0].build()
    for clause in ("META-E2E-LINEAR", "META-E2E-ITEMS", "META-E2E-ONE"):
        with pytest.raises(NotApplicable):
            BRANCH_RELATIONS[clause](subject, batch)
    assert not BRANCH_RELATIONS["META-E2E-SEPARATE"](subject, batch).verdict.fails
