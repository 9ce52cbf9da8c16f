"""What is timed: the assigner's call, and the loss's call with the backward pass behind it."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.benchmarks.uninstrumented import uninstrumented
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.implementations.errors import ImplementationFailed, ProtocolViolation
from tal_conformance.implementations.protocol import Implementation, check_assignment, check_loss

LAPS = {"assign": ("assign forward",), "loss": ("loss forward", "loss forward+backward")}
"""What the times at the ends of an operation's steps are called, by the capability that it needs."""


@dataclass(frozen=True)
class Operation:
    """A call to be timed over and over.

    Attributes:
        prepare: makes the first step's input; not timed.
        steps: the call in parts: each takes what the one before returned. A lap ends with each.
        verify: raise `ProtocolViolation` unless the result of the first step is what it should be; not timed.
    """

    prepare: Callable[[], Any]
    steps: tuple[Callable[[Any], Any], ...]
    verify: Callable[[Any], None]

    def run(self) -> None:
        """Run it once and look at what it returns.

        Raises:
            ImplementationFailed: it raised, or returned something that the protocol does not allow.
        """
        with failing_clearly():
            state = self.steps[0](self.prepare())
            self.verify(state)
            for step in self.steps[1:]:
                state = step(state)


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn whatever an implementation raises into `ImplementationFailed`."""
    try:
        yield
    except ImplementationFailed:
        raise
    except ProtocolViolation as error:
        raise ImplementationFailed(str(error)) from error
    except Exception as error:
        raise ImplementationFailed(
            f"raised {type(error).__name__}: {error}", traceback.format_exc()
        ) from error


def operation(capability: str, implementation: Implementation, batch: Batch) -> Operation:
    """The operation of an implementation that has the capability "assign" or "loss".

    Every run gets tensors of its own, so an implementation may write into what it is given.
    """
    adapter = uninstrumented(implementation.adapter)
    return assigning(adapter, batch) if capability == "assign" else training(adapter, batch)


def assigning(adapter: Any, batch: Batch) -> Operation:
    """One lap: the assigner on what the reference decoded."""
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
        check_assignment(assignment, inputs, exposes_stages=False)

    return Operation(prepare, (assign,), verify)


def training(adapter: Any, batch: Batch) -> Operation:
    """Two laps: the loss, with what the backward pass needs being kept; the gradient on the feature maps."""

    def prepare() -> tuple[tuple[Tensor, ...], Tensor]:
        maps = tuple(level.detach().clone().requires_grad_() for level in batch.feature_maps)
        return maps, batch.annotations.clone()

    def forward(own: tuple[tuple[Tensor, ...], Tensor]) -> tuple[Loss, tuple[Tensor, ...]]:
        maps, annotations = own
        return adapter.loss(maps, annotations, batch.head, batch.hyperparameters), maps

    def backward(state: tuple[Loss, tuple[Tensor, ...]]) -> tuple[Tensor | None, ...]:
        loss, maps = state
        return torch.autograd.grad(loss.total.sum(), maps, allow_unused=True)

    def verify(state: tuple[Loss, tuple[Tensor, ...]]) -> None:
        check_loss(*state)

    return Operation(prepare, (forward, backward), verify)
