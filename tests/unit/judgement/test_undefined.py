"""If the box loss or the assignment is undefined (0 / 0, IOU-1), all defined values are still judged."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.non_finite import NonFiniteBatch
from tal_conformance.batches.recipe import Recipe
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
from tal_conformance.judgement.non_finite import is_finite
from tal_conformance.judgement.rejection import loss_is_finite, supports_relations
from tal_conformance.judgement.undefined import undefined_overlaps
from tal_reference import DIALECTS, NEWEST, Head, detection_loss

INSIDE_OUT = Recipe(
    images=((Truth("zero_area", at=(8, 12)),),), cells=(2, 5), strides=(4, 8, 16), reg_max=1, predictions="near",
    levels=1, seed=1, streams=(109,),
)  # fmt: skip
"""A batch whose box loss is 0 / 0: a predicted box has area -1e-7, which cancels the eps of 1e-7."""
USUAL = replace(INSIDE_OUT, reg_max=16)
RIGHT = ("ultralytics", "reference", "rearranged")


class Altered(ReferenceAdapter):
    """The reference with its loss changed by the function `change`, with its assignment exposed or hidden."""

    def __init__(self, change: Any, hides: bool = False) -> None:
        super().__init__(NEWEST)
        self.name, self.change, self.exposes_stages = "changed", change, not hides

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        return self.change(loss if self.exposes_stages else replace(loss, assignment=None))


def changed(change: Any, hides: bool = False) -> Implementation:
    return implementation_from(Altered(change, hides), "changed")


def test_the_loss_of_the_reference_is_not_finite():
    batch = INSIDE_OUT.build()
    loss = detection_loss(batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters)
    assert loss.items.isfinite().tolist() == [False, True, True]
    assert not loss_is_finite(batch, NEWEST)
    assert not supports_relations(batch, NEWEST)
    assert loss_is_finite(USUAL.build(), NEWEST)
    assert supports_relations(USUAL.build(), NEWEST)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("each_term", [False, True])
def test_right_implementations_conform_and_are_judged_in_part(name: str, each_term: bool):
    judgement = judge_against_reference(Subject(find(name), "cpu"), INSIDE_OUT.build(), each_term=each_term)
    assert judgement.inconclusive
    assert judgement.stages["box"].state is State.NOT_SHOWN
    assert judgement.stages["cls"].state is State.AGREES
    assert judgement.stages["gradients"].state is State.AGREES


@pytest.mark.parametrize("name", RIGHT)
def test_no_other_check_fails(name: str):
    assert run_every_check(Subject(find(name), "cpu"), INSIDE_OUT.build()).inconclusive


@pytest.mark.parametrize("hides", [False, True])
def test_a_finite_value_is_accepted(hides: bool):
    """A loss that returns finite numbers where the reference's box loss is 0 / 0 is INCONCLUSIVE."""
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
def test_all_other_values_are_judged(change: Any, stage: str):
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(changed(change), "cpu"), INSIDE_OUT.build(), each_term=True)
    assert stage in caught.value.stages


NO_OVERLAP = Recipe(
    images=((Truth("zero_area", at=(3, 14)),),), cells=(8, 8), strides=(1, 2), reg_max=1, predictions="near",
    levels=1, seed=147,
)  # fmt: skip
"""A batch whose overlap, and thus whose assignment, is 0 / 0: a candidate's box has area -1e-7 in pixels."""


def test_the_assignment_is_undefined():
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
def test_an_undefined_assignment_is_not_judged(name: str, alone: bool):
    judgement = judge_against_reference(Subject(find(name), "cpu"), NO_OVERLAP.build(), alone=alone)
    assert judgement.inconclusive
    assert judgement.stages["overlap"].state is State.NOT_SHOWN
    assert run_every_check(Subject(find(name), "cpu"), NO_OVERLAP.build()).inconclusive


class ReadsElse(UltralyticsAdapter):
    """The installed release of Ultralytics, with predicted boxes that are off by one pixel in the exposed inputs."""

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        assert loss.inputs is not None
        return replace(loss, inputs=replace(loss.inputs, boxes=loss.inputs.boxes + 1))


def test_inputs_are_judged_all_the_same():
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(implementation_from(ReadsElse(), "other"), "cpu"), NO_OVERLAP.build())
    assert caught.value.stage == "decode"


def in_float32_alone() -> Batch:
    """Return a batch on which an overlap is 0 / 0 in float32, and finite in float64."""
    batch = INSIDE_OUT.build()
    maps = (torch.where(level == 0, 1e-9, level) for level in batch.feature_maps)
    return replace(batch, feature_maps=tuple(maps))


@pytest.mark.parametrize("name", ["ultralytics", "reference"])
def test_a_value_that_only_rounding_makes_nan_may_be_nan(name: str):
    """Implementations conform on a batch whose loss is NaN in float32 and finite in float64."""
    batch = in_float32_alone()
    assert not loss_is_finite(batch, NEWEST)
    assert loss_is_finite(
        replace(batch, feature_maps=tuple(level.double() for level in batch.feature_maps)), NEWEST
    )
    assert not run_every_check(Subject(find(name), "cpu"), batch).inconclusive


def test_a_relation_is_not_applicable_to_an_undefined_follow_up():
    """If the loss of a transformed batch is 0 / 0, a relation raises NotApplicable."""
    whole = replace(INSIDE_OUT, levels=None).build()
    assert supports_relations(whole, NEWEST)

    def spoilt(batch: Batch) -> Iterator[TransformationPlan]:
        undefined = INSIDE_OUT.build()
        yield TransformationPlan(
            "spoilt", (batch,), (FollowUp(undefined, (Pair(0, 0, 0, unchanged(undefined, 0)),)),)
        )

    with pytest.raises(NotApplicable, match="zero by zero"):
        Relation("META-SPOILT", "a batch is spoilt", spoilt)(Subject(find("reference"), "cpu"), whole)


def test_nan_elsewhere_is_an_error():
    spoilt = changed(lambda loss: replace(loss, items=loss.items * torch.tensor([torch.nan, 1, 1])))
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(spoilt, "cpu"), USUAL.build())
    assert caught.value.stage == "box"


EVERYWHERE = DIALECTS["ultralytics-8.0.51"]
OFF_CANDIDATES = Recipe(
    images=((Truth("zero_area", at=(3, 6)),), (Truth("ordinary"),)), cells=(4, 8), strides=(1, 2), reg_max=1,
    predictions="near", levels=1,
)  # fmt: skip
"""The same at an anchor of image 0 that is not a candidate."""


class SpreadOffCandidates(ReferenceAdapter):
    """A loss of NaN, with NaN in all target scores of image 0, as if masks were applied by products."""

    def __init__(self, change: Any = None) -> None:
        super().__init__(EVERYWHERE)
        self.name, self.change = "spread", change

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        assert loss.assignment is not None
        scores = loss.assignment.scores * torch.tensor([torch.nan, 1])[:, None, None]
        scores = scores if self.change is None else self.change(scores)
        return replace(
            loss, total=loss.total * torch.nan, items=loss.items * torch.nan,
            assignment=replace(loss.assignment, scores=scores),
        )  # fmt: skip


def test_off_candidates_an_overlap_matters_where_all_are_compared():
    batch = OFF_CANDIDATES.build()
    expected = Expectation(batch, EVERYWHERE)
    assert expected.undefined_images(expected.inputs).tolist() == [True, False]
    assert Expectation(batch, NEWEST).assignment_is_defined
    assert not supports_relations(batch, EVERYWHERE)
    assert supports_relations(batch, NEWEST)
    for adapter in (ReferenceAdapter(EVERYWHERE), SpreadOffCandidates()):
        subject = Subject(implementation_from(adapter, adapter.name), "cpu")
        assert judge_against_reference(subject, batch).inconclusive
        assert run_every_check(subject, batch).inconclusive


@pytest.mark.parametrize("factor", [0.9, torch.nan])
def test_the_other_images_are_judged(factor: float):
    spoilt = SpreadOffCandidates(lambda scores: scores * torch.tensor([1, factor])[:, None, None])
    with pytest.raises(Failure, match=r"target score w .* image 1") as caught:
        judge_against_reference(Subject(implementation_from(spoilt, "spoilt"), "cpu"), OFF_CANDIDATES.build())
    assert caught.value.stage == "normalisation"


def test_beside_a_prediction_that_is_not_finite_it_is_not_judged_either():
    batch = NonFiniteBatch(OFF_CANDIDATES, class_logit=True, place=0).build()
    assert not is_finite(batch)
    subject = Subject(implementation_from(SpreadOffCandidates(), "spread"), "cpu")
    assert judge_against_reference(subject, batch).inconclusive


def test_a_union_of_zero_within_rounding_is_undefined():
    truth = torch.tensor([10.0, 10.0, 20.0, 20.0])
    boxes = torch.tensor(
        [
            [20.0, 10.0, 10.0, 20.0],  # the same box with exchanged edges: the areas cancel exactly
            [20.0, 10.0, 10.0, 20.00001],
            [20.0, 10.0, 10.0, 20.01],
            [20.0, 10.0, 10.0, 15.0],
            [9.0, 9.0, 21.0, 21.0],
        ]
    )
    assert undefined_overlaps(truth, boxes, NEWEST).tolist() == [False, True, False, False, False]
