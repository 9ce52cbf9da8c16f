"""The timed operations: the call of the assigner, and the call of the loss with its backward pass."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.benchmarks.uninstrumented import uninstrumented
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.implementations.guards.exceptions import exceptions_as_failures
from tal_conformance.implementations.guards.plain_copies import PlainCopies
from tal_conformance.implementations.guards.side_effects import ReturnedTensors
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.validation import (
    Findings,
    check_assignment,
    check_loss,
    raise_mistake,
)

LAPS = {"assign": ("assign forward",), "loss": ("loss forward", "loss forward+backward")}
"""Names of the laps by capability. A lap is the time from the start of an operation to the end of one of its steps."""


@dataclass(frozen=True)
class Operation:
    """A call to be timed repeatedly.

    Attributes:
        prepare: makes the input of the first of the `steps`; not timed.
        steps: the parts of the call; a time is taken after each. Each receives the result of the previous
            part.
        verify: raises `ProtocolViolation` if the result of the first step is invalid; not timed.
    """

    prepare: Callable[[], Any]
    steps: tuple[Callable[[Any], Any], ...]
    verify: Callable[[Any], None]

    def run(self) -> None:
        """Run the call once without timing it, and check its result.

        Raises:
            ImplementationFailed: the implementation raised, or returned a result that the protocol does not allow.
        """
        with exceptions_as_failures():
            state = self.steps[0](self.prepare())
            self.verify(state)
            for step in self.steps[1:]:
                state = step(state)


def operation(capability: str, implementation: Implementation, batch: Batch) -> Operation:
    """Return the timed call of an implementation's assigner ("assign") or loss ("loss") on a batch.

    Every run gets its own tensors, so that an implementation may write into its inputs.
    """
    adapter = uninstrumented(implementation.adapter)
    return assigning(adapter, batch) if capability == "assign" else training(adapter, batch)


def assigning(adapter: Any, batch: Batch) -> Operation:
    """Return the timed call of an assigner, on inputs that the reference decoded. One time is taken, after the call."""
    inputs = assigner_inputs(batch)

    def prepare() -> AssignerInputs:
        copies: dict[str, Any] = {
            name: value.clone() for name, value in vars(inputs).items() if isinstance(value, Tensor)
        }
        return replace(inputs, **copies)

    def assign(own: AssignerInputs) -> Assignment:
        with torch.no_grad():
            returned: Assignment = adapter.assign(own)
            return returned

    def verify(assignment: Assignment) -> None:
        findings = Findings()
        assignment = PlainCopies(ReturnedTensors(), batch.device).assignment(assignment)
        check_assignment(assignment, inputs, exposes_stages=False, findings=findings)
        raise_mistake(findings)

    return Operation(prepare, (assign,), verify)


def training(adapter: Any, batch: Batch) -> Operation:
    """Return the timed call of a loss. Times are taken after the forward and after the backward pass."""

    def prepare() -> tuple[tuple[Tensor, ...], Tensor]:
        maps = tuple(level.detach().clone().requires_grad_() for level in batch.feature_maps)
        return maps, batch.annotations.clone()

    def forward(own: tuple[tuple[Tensor, ...], Tensor]) -> tuple[Loss, tuple[Tensor, ...]]:
        maps, annotations = own
        loss: Loss = adapter.loss(maps, annotations, batch.head, batch.hyperparameters)
        if loss.gradients is not None:
            loss = PlainCopies(ReturnedTensors(), batch.device).loss(loss, maps)
        return loss, maps

    def backward(state: tuple[Loss, tuple[Tensor, ...]]) -> tuple[Tensor | None, ...]:
        loss, maps = state
        return torch.autograd.grad(loss.total.sum(), maps, allow_unused=True)

    def verify(state: tuple[Loss, tuple[Tensor, ...]]) -> None:
        findings = Findings()
        check_loss(*state, batch.family, findings=findings)
        raise_mistake(findings)

    return Operation(prepare, (forward, backward), verify)
