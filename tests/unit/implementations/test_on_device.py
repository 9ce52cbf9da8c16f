"""Implementations on devices without float64: their arguments are moved there, and their results back."""

from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.devices.simulated_cuda import Simulation, to_host
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.outcome_tensors import map_tensors
from tal_conformance.implementations import on_device as module
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.on_device import at_home, can_be_moved, moved, on_device
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement import failure
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.judge import judge

BATCH = Recipe(((Truth("ordinary"), Truth("huge", at=(9, 3))), ()), cells=(5, 4), classes=2)
CUDA = torch.device("cuda")


class Watched(ReferenceAdapter):
    """The reference, which notes the devices of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def assign(self, inputs: AssignerInputs) -> Assignment:
        self.seen.append(inputs.boxes.device.type)
        return super().assign(inputs)

    def loss(self, feature_maps: Any, annotations: Any, *arguments: Any) -> Loss:
        self.seen += [feature_maps[0].device.type, annotations.device.type]
        return super().loss(feature_maps, annotations, *arguments)


class Stays(ReferenceAdapter):
    """The reference, which computes its loss on the CPU."""

    def loss(self, feature_maps: Any, annotations: Any, *arguments: Any) -> Loss:
        return super().loss([level.cpu() for level in feature_maps], annotations.cpu(), *arguments)


@pytest.mark.parametrize("alone", [False, True], ids=["loss", "assigner"])
def test_values_and_gradients_of_another_device_are_judged_on_the_cpu(alone: bool):
    watched = Watched()
    implementation, batch = moved(implementation_from(watched, "watched"), CUDA), BATCH.build()
    with Simulation():
        outcome = map_tensors(execute(implementation, batch, alone=alone), to_host)
    assert (outcome.loss is None) is alone
    assert not judge(outcome, Expectation(batch, implementation.dialect)).verdict.fails
    assert set(watched.seen) == {"cuda"}


def test_a_result_that_is_not_on_the_device_is_an_error():
    subject = Subject(moved(implementation_from(Stays(), "stays"), CUDA), "cpu")
    with Simulation(), pytest.raises(Failure, match="a result is on cpu, expected cuda"):
        judge_against_reference(subject, BATCH.build())


def test_only_devices_without_float64_are_moved(monkeypatch: pytest.MonkeyPatch):
    implementation = implementation_from(ReferenceAdapter(), "reference")
    assert on_device(implementation, "cpu") is implementation
    for place in (module, failure):
        monkeypatch.setattr(place, "lacks_float64", lambda device: device == "mps")
    there = on_device(implementation, "mps")
    assert there.precisions == ()
    assert at_home(there).adapter is implementation.adapter
    assert Subject(there, "mps").batch_device == "cpu"
    assert Subject(implementation, "cuda").batch_device == "cuda"


def test_a_process_of_its_own_cannot_be_moved(monkeypatch: pytest.MonkeyPatch):
    implementation = implementation_from(ReferenceAdapter(), "reference")
    object.__setattr__(implementation, "in_subprocess", True)
    monkeypatch.setattr(module, "lacks_float64", lambda _: True)
    assert not can_be_moved(implementation, "mps")
    with pytest.raises(ProtocolViolation, match="process of its own"):
        on_device(implementation, "mps")
