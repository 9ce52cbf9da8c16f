"""Ways of calling (compiled, channels-last, ...): correct implementations pass, planted faults are found."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import IMAGES
from tal_conformance.checks.calling.check import CallingFailure, applies, called, companion
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.calling.ways import WAYS
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults.calling import correct
from tal_conformance.mutation.planted_faults.faulty_criterion import USAGE_FAULTS, UsageFault
from tal_reference import NEWEST

CALLED_RECIPE = Recipe(images=IMAGES[0], cells=(4, 6), strides=(8, 16), classes=3, reg_max=4)
BATCH = CALLED_RECIPE.build()
TURNED = Recipe(
    images=tuple(
        tuple(replace(truth, turn=1 + 3 * number) for number, truth in enumerate(truths))
        for truths in IMAGES[0]
    ),
    cells=(4, 6),
    strides=(8, 16),
    classes=3,
    reg_max=4,
    task="obb",
).build()
POSED = replace(CALLED_RECIPE, task="pose", keypoints=(4, 3)).build()
MASKED = replace(CALLED_RECIPE, task="segment", prototypes=3).build()
OTHER_TASKS = [TURNED, *(pytest.param(batch, marks=pytest.mark.slow) for batch in (POSED, MASKED))]
NIGHTLY = [
    TURNED,
    *(pytest.param(batch, marks=[pytest.mark.slow, pytest.mark.long]) for batch in (POSED, MASKED)),
]
QUICK = [name for name in WAYS if name != "compile"]
FAULTS = [
    name for name, fault in USAGE_FAULTS.items() if fault.stage == "calling" and "compile" not in fault.check
]


def way_of(fault: UsageFault) -> str:
    return fault.check.partition("[")[2].rstrip("]")


class HiddenReference:
    name = "hidden"

    def loss(self, *arguments: Any) -> Loss:
        return replace(ReferenceAdapter().loss(*arguments), assignment=None)


class AssignerAlone:
    name, exposes_stages = "assigner", True

    def assign(self, inputs: Any) -> Any:
        return ReferenceAdapter().assign(inputs)


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("name", ["reference", "article", "ultralytics"])
def test_right_implementations_pass(name: str, way: str):
    called(Subject(find(name), "cpu"), BATCH, way)


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("adapter", [HiddenReference, AssignerAlone])
def test_so_do_hidden_losses_and_assigners_alone(adapter: type, way: str):
    implementation = implementation_from(adapter, "own")
    if applies(implementation, way):
        called(Subject(implementation, "cpu"), BATCH, way)


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("name", ["reference", "ultralytics"])
@pytest.mark.parametrize("batch", OTHER_TASKS, ids=lambda batch: batch.task)
def test_right_losses_of_other_tasks_pass(name: str, way: str, batch: Batch):
    assert called(Subject(find(name), "cpu"), batch, way).task.name == batch.task


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("batch", NIGHTLY, ids=lambda batch: batch.task)
def test_a_planted_fault_is_found_in_other_tasks_too(name: str, batch: Batch):
    fault = USAGE_FAULTS[name]
    with pytest.raises(CallingFailure) as caught:
        called(Subject(fault.implementation("loss"), "cpu"), batch, way_of(fault))
    assert (caught.value.stage, caught.value.clause) == ("calling", fault.clause)


def test_ways_that_differentiate_do_not_apply_to_assigners():
    assigner = implementation_from(AssignerAlone, "own")
    assert not applies(assigner, "backward")
    assert applies(assigner, "threads")


@pytest.mark.parametrize("exposes", ["stages", "outputs", "loss"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_by_its_way(name: str, exposes: str):
    fault = USAGE_FAULTS[name]
    subject, way = Subject(fault.implementation(exposes), "cpu"), way_of(fault)
    with pytest.raises(CallingFailure) as caught:
        called(subject, BATCH, way)
    assert (
        (caught.value.stage, caught.value.clause)
        == ("calling", fault.clause)
        == ("calling", WAYS[way].clause)
    )
    assert repr(way) in caught.value.summary


@pytest.mark.parametrize("reduces", [None, "mean", "sum"])
def test_a_declared_reduction_passes_in_two_processes(reduces: str | None):
    fault = UsageFault("right", "CALL-7", "calling", "", correct(reduces), False, reduces)
    called(Subject(fault.implementation("loss"), "cpu"), BATCH, "two-processes")


def test_a_process_that_dies_is_reported():
    def die(memory: Any, call: Any) -> Loss:
        if torch.distributed.is_initialized():
            import os

            os._exit(3)
        loss: Loss = call.loss()
        return loss

    fault = UsageFault("dies", "CALL-7", "calling", "", die, False, None)
    with pytest.raises(CallingFailure, match="its process died") as caught:
        called(Subject(fault.implementation("loss"), "cpu"), BATCH, "two-processes")
    assert caught.value.verdict is Verdict.ERROR


def test_what_fails_in_a_plain_call_is_not_a_failure_of_the_way():
    class Wrong(HiddenReference):
        def loss(self, *arguments: Any) -> Loss:
            loss = super().loss(*arguments)
            return Loss(loss.total * 2, loss.items)

    with pytest.raises(Failure) as caught:
        called(Subject(implementation_from(Wrong, "wrong"), "cpu"), BATCH, "backward")
    assert not isinstance(caught.value, CallingFailure)


def test_the_companion_has_other_predictions_of_the_same_shapes():
    other = companion(BATCH)
    assert [level.shape for level in other.feature_maps] == [level.shape for level in BATCH.feature_maps]
    assert other.id != BATCH.id


def test_states_of_torch_are_as_before():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
    for way in ("threads", "deterministic-algorithms", "no-grad", "inference-mode"):
        called(Subject(find("reference"), "cpu"), BATCH, way)
    assert before == (
        torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(),
    )  # fmt: skip


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("seed", [41308, 41309, 41310])
def test_processes_of_one_thread_may_round_differently_from_several_threads(seed: int):
    """Each process has one thread; two threads add the parts of a large sum in another order."""
    recipe = Recipe(
        images=((Truth("huge"),),) * 4, cells=(16, 16), classes=256, predictions="near", seed=seed
    )
    subject = Subject(implementation_from(ReferenceAdapter(NEWEST), "reference"), "cpu")
    assert not called(subject, recipe.build(), "two-processes").verdict.fails
