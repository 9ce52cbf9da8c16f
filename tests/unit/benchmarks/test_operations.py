"""Timed operations get fresh copies of their inputs in every call, and their results are verified once."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tal_conformance.benchmarks.operations import operation
from tal_conformance.benchmarks.workloads import Case
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_reference import Head, Hyperparameters


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Case(1, 64, 2, classes=3).build()


class Vandal:
    """An implementation that overwrites its inputs."""

    name = "vandal"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        assert not torch.is_grad_enabled()
        returned: Assignment = find("reference").adapter.assign(
            replace(inputs, **{n: v.clone() for n, v in vars(inputs).items() if isinstance(v, Tensor)})
        )
        for value in vars(inputs).values():
            if isinstance(value, Tensor):
                value.zero_()
        return returned

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        assert torch.is_grad_enabled()
        assert bool(annotations[:, 4].all()), "annotations were overwritten by an earlier call"
        returned: Loss = find("reference").adapter.loss(
            feature_maps, annotations.clone(), head, hyperparameters
        )
        annotations.zero_()
        return returned


class Liar:
    """An implementation whose results violate the protocol."""

    name = "liar"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        returned: Assignment = find("reference").adapter.assign(inputs)
        return replace(returned, scores=returned.scores.double())

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        return Loss(torch.zeros(()), torch.zeros(3))


@pytest.mark.parametrize("capability", ["assign", "loss"])
def test_every_call_has_inputs_of_its_own(batch: Batch, capability: str):
    before = batch.id
    call = operation(capability, implementation_from(Vandal, "vandal"), batch)
    call.run()
    call.run()
    assert Batch(batch.feature_maps, batch.annotations, batch.head).id == before


@pytest.mark.parametrize(
    ("capability", "why"), [("assign", "scores has dtype"), ("loss", "require gradients")]
)
def test_what_breaks_the_protocol_fails(batch: Batch, capability: str, why: str):
    with pytest.raises(ImplementationFailed, match=why):
        operation(capability, implementation_from(Liar, "liar"), batch).run()


@pytest.mark.parametrize("name", ["reference", "ultralytics", "article"])
def test_the_loss_has_two_laps_and_the_second_one_is_its_gradient(batch: Batch, name: str):
    call = operation("loss", find(name), batch)
    forward, backward = call.steps
    gradients = backward(forward(call.prepare()))
    assert [gradient.shape for gradient in gradients] == [level.shape for level in batch.feature_maps]
    assert all(bool(gradient.any()) for gradient in gradients)
