"""Batches whose box loss or assignment is 0 / 0 (IOU-1): nobody is held to it, and everybody to the rest."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.truths import Truth
from tal_conformance.checks.everything import run_every_check
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import NotApplicable, Relation
from tal_conformance.checks.relations.transformations import FollowUp, Pair, TransformationPlan
from tal_conformance.checks.relations.views import unchanged
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import State
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import loss_is_finite, supports_relations
from tal_reference import NEWEST, Head, detection_loss

INSIDE_OUT = Recipe(
    images=((Truth("zero_area", at=(8, 12)),),), cells=(2, 5), strides=(4, 8, 16), reg_max=1, predictions="near",
    levels=1, seed=1, streams=(109,),
)  # fmt: skip
"""A predicted box is one cell wide, inside out, and has no height: its area is -1e-7, and eps is 1e-7."""
USUAL = replace(INSIDE_OUT, reg_max=16)
RIGHT = ("ultralytics", "reference", "rearranged")


class Altered(ReferenceAdapter):
    """The reference with one thing changed in what its loss returns; its assignment is shown or hidden."""

    def __init__(self, change: Any, hides: bool = False) -> None:
        super().__init__(NEWEST)
        self.name, self.change, self.exposes_stages = "changed", change, not hides

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        return self.change(loss if self.exposes_stages else replace(loss, assignment=None))


def changed(change: Any, hides: bool = False) -> Implementation:
    return implementation_from(Altered(change, hides), "changed")


def test_the_reference_finds_no_number_there():
    batch = INSIDE_OUT.build()
    loss = detection_loss(batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters)
    assert loss.items.isfinite().tolist() == [False, True, True]
    assert not loss_is_finite(batch, NEWEST)
    assert not supports_relations(batch, NEWEST)
    assert loss_is_finite(USUAL.build(), NEWEST)
    assert supports_relations(USUAL.build(), NEWEST)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("each_term", [False, True])
def test_those_that_are_right_conform_and_are_judged_in_part(name: str, each_term: bool):
    judgement = judge_against_reference(Subject(find(name), "cpu"), INSIDE_OUT.build(), each_term=each_term)
    assert judgement.inconclusive
    assert judgement.stages["box"].state is State.NOT_SHOWN
    assert judgement.stages["cls"].state is State.AGREES
    assert judgement.stages["gradients"].state is State.AGREES


@pytest.mark.parametrize("name", RIGHT)
def test_no_other_way_of_judging_finds_anything(name: str):
    assert run_every_check(Subject(find(name), "cpu"), INSIDE_OUT.build()).inconclusive


@pytest.mark.parametrize("hides", [False, True])
def test_a_number_in_its_place_is_accepted(hides: bool):
    """Zero divided by zero may be kept from being divided."""
    guarded = changed(
        lambda loss: replace(loss, total=loss.total.nan_to_num(), items=loss.items.nan_to_num()), hides
    )
    assert judge_against_reference(Subject(guarded, "cpu"), INSIDE_OUT.build(), each_term=True).inconclusive


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        (lambda loss: replace(loss, items=loss.items * torch.tensor([1, 1.01, 1])), "cls"),
        (lambda loss: replace(loss, items=loss.items + torch.tensor([0, 0, 0.01])), "dfl"),
        (lambda loss: replace(loss, total=loss.total * torch.tensor([1, 1.01, 1])), "gradients"),
    ],
)
def test_the_rest_is_judged(change: Any, stage: str):
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(changed(change), "cpu"), INSIDE_OUT.build(), each_term=True)
    assert stage in caught.value.stages


NO_OVERLAP = Recipe(
    images=((Truth("zero_area", at=(3, 14)),),), cells=(8, 8), strides=(1, 2), reg_max=1, predictions="near",
    levels=1, seed=147,
)  # fmt: skip
"""In pixels too: a candidate is one pixel wide, inside out, and has no height."""


def test_no_number_is_assigned_there():
    batch = NO_OVERLAP.build()
    loss = detection_loss(batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters)
    assert loss.targets[0].weights.isnan().any()
    assert not Expectation(batch, NEWEST).assignment_is_defined
    assert not supports_relations(batch, NEWEST)
    assert Expectation(replace(NO_OVERLAP, reg_max=16).build(), NEWEST).assignment_is_defined
    assert Expectation(INSIDE_OUT.build(), NEWEST).assignment_is_defined
    assert Expectation(replace(NO_OVERLAP, levels=None).build(), NEWEST).assignment_is_defined


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("alone", [False, True])
def test_nobody_is_held_to_an_assignment_of_no_numbers(name: str, alone: bool):
    judgement = judge_against_reference(Subject(find(name), "cpu"), NO_OVERLAP.build(), alone=alone)
    assert judgement.inconclusive
    assert judgement.stages["overlap"].state is State.NOT_SHOWN
    assert run_every_check(Subject(find(name), "cpu"), NO_OVERLAP.build()).inconclusive


class ReadsElse(UltralyticsAdapter):
    """The installed release, which says that it read other boxes than follow from the batch."""

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        assert loss.inputs is not None
        return replace(loss, inputs=replace(loss.inputs, boxes=loss.inputs.boxes + 1))


def test_what_is_read_is_judged_there():
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(implementation_from(ReadsElse(), "other"), "cpu"), NO_OVERLAP.build())
    assert caught.value.stage == "decode"


def in_float32_alone() -> Batch:
    """Float64 still sees by how much the box is wider than a cell: there its overlap is a number."""
    batch = INSIDE_OUT.build()
    maps = (torch.where(level == 0, 1e-9, level) for level in batch.feature_maps)
    return replace(batch, feature_maps=tuple(maps))


@pytest.mark.parametrize("name", ["ultralytics", "reference"])
def test_what_rounding_alone_makes_none_may_be_none(name: str):
    """In the gradient of every term: official terms are parts of one tensor, and zero times NaN is NaN."""
    batch = in_float32_alone()
    assert not loss_is_finite(batch, NEWEST)
    assert loss_is_finite(
        replace(batch, feature_maps=tuple(level.double() for level in batch.feature_maps)), NEWEST
    )
    assert not run_every_check(Subject(find(name), "cpu"), batch).inconclusive


def test_a_relation_says_nothing_where_a_changed_batch_alone_is_undefined():
    """The given batch has a loss; the one that it is changed into has none."""
    whole = replace(INSIDE_OUT, levels=None).build()
    assert supports_relations(whole, NEWEST)

    def spoilt(batch: Batch) -> Iterator[TransformationPlan]:
        undefined = INSIDE_OUT.build()
        yield TransformationPlan(
            "spoilt", (batch,), (FollowUp(undefined, (Pair(0, 0, 0, unchanged(undefined, 0)),)),)
        )

    with pytest.raises(NotApplicable, match="zero by zero"):
        Relation("META-SPOILT", "a batch is spoilt", spoilt)(Subject(find("reference"), "cpu"), whole)


def test_elsewhere_no_number_is_an_error():
    spoilt = changed(lambda loss: replace(loss, items=loss.items * torch.tensor([torch.nan, 1, 1])))
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(spoilt, "cpu"), USUAL.build())
    assert caught.value.stage == "box"
