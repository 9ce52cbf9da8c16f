"""The judge of rotated boxes: correct losses conform on fixed batches of every strategy, and wrong losses do not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.common.hidden import HidesEverything, subject_of

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK, TURNABLE
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import OBB, StageName
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.judgement.failure import Failure
from tal_conformance.judgement.judge import NOT_IN_16_BITS
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_conformance.mutation.planted_faults.rotated import ROTATED_FAULTS
from tal_reference import Hyperparameters

LEFT_OUT = (
    "crossings",
    "long_batches",
    "loss_of_large_boxes",
    "rows_in_any_order",
    "calling_slowly",
    "state",
)
"""Strategies whose batches take seconds, or that the newest dialect does not accept."""
NAMES = [name for name in STRATEGIES_BY_TASK[OBB.name] if name not in LEFT_OUT]
TURNED = Recipe(
    images=(
        (Truth("ordinary", 0, (3, 5), (9, 4), 1), Truth("elongated", 1, (8, 8), (3, 6), 4)),
        (Truth("square", turn=5),),
    ),
    classes=2,
    predictions="near",
    hyperparameters=Hyperparameters(angle_gain=2.0),
    class_weights=(0.5, 3.0),
    task=OBB.name,
)
"""Two images with turned ground truths, with class weights and a gain of the angle loss."""


@pytest.mark.parametrize("adapter", [ReferenceAdapter, UltralyticsAdapter])
def test_rows_that_are_all_too_small_are_not_rejected(adapter: Any):
    """If OBB-ANN-2 drops every row, there is no ground truth for which k could exceed the number of anchors."""
    small = Recipe(images=((Truth("two_pixels", size=(0, 0)),),), cells=(2, 2), task=OBB.name)
    large = replace(small, images=((Truth("ordinary", turn=1),),))
    verdicts = [
        judge_against_reference(subject_of(adapter()), recipe.build()).verdict for recipe in (small, large)
    ]
    assert verdicts[0] is not Verdict.REJECTED
    assert verdicts[1] is Verdict.REJECTED


def test_predictions_of_16_bits_are_inconclusive():
    """Rotated boxes are not judged in 16 bits, and the judgement says so; float64 is judged."""
    batch = TURNED.build()
    half = replace(batch.to(dtype=torch.bfloat16), autocast=True)
    judgement = judge_against_reference(subject_of(ReferenceAdapter()), half)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert NOT_IN_16_BITS in judgement.notes
    fine = judge_against_reference(subject_of(UltralyticsAdapter()), batch.to(dtype=torch.float64))
    assert fine.verdict in (Verdict.EXACT, Verdict.WITHIN_BOUND)


@pytest.mark.parametrize("name", NAMES)
def test_correct_losses_conform(name: str):
    """Official code and the reference conform on fixed batches of every strategy of rotated boxes."""
    for recipe in sample_recipes(STRATEGIES_BY_TASK[OBB.name][name], 4):
        alone = name == "exponents"
        for adapter in (UltralyticsAdapter(), ReferenceAdapter()):
            judge_against_reference(subject_of(adapter), recipe.build(), each_term=not alone, alone=alone)


def test_a_hidden_assignment_conforms():
    judgement = judge_against_reference(subject_of(HidesEverything()), TURNED.build())
    assert judgement.verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("adapter", [UltralyticsAdapter, ReferenceAdapter, HidesEverything])
def test_class_weights_reach_the_loss_of_rotated_boxes(adapter: Any):
    """COR-7: a loss that reads class weights conforms with them; one that ignores them diverges in `cls`."""
    judge_against_reference(subject_of(adapter()), TURNED.build())

    class Unweighted(adapter):  # type: ignore[misc] # a parametrized class
        def loss(self, maps: Any, rows: Any, head: Any, numbers: Any) -> Loss:
            result: Loss = super().loss(maps, rows, replace(head, class_weights=None), numbers)
            return result

    with pytest.raises(Failure) as caught:
        judge_against_reference(subject_of(Unweighted()), TURNED.build())
    assert caught.value.stage == StageName.CLS


@pytest.mark.parametrize("term", ["box_gain", "dfl_gain", "angle_gain"])
def test_a_wrong_gain_diverges_in_its_term(term: str):
    """A gain that is wrong by 0.1 % is found at the stage of its term."""

    class WrongGain(ReferenceAdapter):
        def loss(self, maps: Any, rows: Any, head: Any, numbers: Any) -> Loss:
            return super().loss(maps, rows, head, replace(numbers, **{term: getattr(numbers, term) * 1.001}))

    with pytest.raises(Failure) as caught:
        judge_against_reference(subject_of(WrongGain()), TURNED.build())
    assert caught.value.stage == term.removesuffix("_gain")


def fault_on_a_batch(fault: Fault, recipe: Recipe) -> Failure | None:
    """Return the failure of the reference with a fault planted, on one batch."""
    try:
        judge_against_reference(subject_of(FaultyReference(fault)), recipe.build(), each_term=True)
    except Failure as failure:
        return failure
    return None


@pytest.mark.parametrize("name", ROTATED_FAULTS)
def test_a_planted_fault_is_found_on_a_few_batches(name: str):
    """The check that covers a planted fault of rotated boxes finds the fault on a few batches."""
    fault = ROTATED_FAULTS[name]
    if fault.implementation is not None:
        pytest.skip("a fault of calls, which tests/quality plants")
    recipes = sample_recipes(STRATEGIES_BY_TASK[OBB.name][fault.check], 40)
    assert any(fault_on_a_batch(fault, recipe) for recipe in recipes)


def test_names_of_turnable_strategies_are_checks():
    """Every name in `TURNABLE`, the strategies with a version for rotated boxes, is the name of a check."""
    import tal_conformance.suite.every_check  # noqa: F401 (enters the checks into the registry)
    from tal_conformance.checks.registry import CHECKS

    assert set(TURNABLE) <= set(CHECKS)
