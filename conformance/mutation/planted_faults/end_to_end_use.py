"""Faults of end-to-end criteria in the state of the branch weights, which trainers update after each epoch (E2E-5)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import E2E, StageName
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.planted_faults.fault import Fault
from tal_reference import Head, Hyperparameters

SEQUENCE = "state[epochs]"
"""The check that must find every fault of this module."""


@dataclass
class Progress:
    """The state of a criterion.

    Attributes:
        updates: number of updates.
        epochs: number of epochs.
    """

    updates: int
    epochs: int


Calls = Callable[[Progress], None]
"""Function that changes the state after a call of the criterion."""
Updates = Callable[[Progress, Hyperparameters], None]
"""Function that changes the state in an update, to which a trainer passes the hyperparameters."""


@dataclass(frozen=True)
class ProgressFault:
    """A fault in the state of the branch weights.

    Attributes:
        name: name of the fault.
        update: the update.
        call: called after each call of the criterion.
        shared: True if all criteria of the adapter share one state.
    """

    name: str
    update: Updates
    call: Calls
    shared: bool = False

    def as_fault(self) -> Fault:
        """Return the fault as a `Fault`, the type that mutation testing expects."""
        make = partial(_implementation, self)
        return Fault(self.name, ("E2E-5",), StageName.STATE, {}, (StageName.STATE,), SEQUENCE, make)


class ProgressiveCriterion:
    """The reference's end-to-end loss with updates of its weights, in which a fault is planted.

    Args:
        fault: the fault.
        head: head of the model.
        numbers: hyperparameters at construction.
        progress: state of the weights.
        exposes: see `UsageFault.implementation`.
    """

    def __init__(
        self, fault: ProgressFault, head: Head, numbers: Hyperparameters, progress: Progress, exposes: str
    ) -> None:
        self._fault, self._head, self._numbers = fault, head, numbers
        self._progress, self._exposes = progress, exposes

    def __call__(self, feature_maps: tuple[Tensor, ...], annotations: Tensor) -> Loss:
        """Return the loss in the current state."""
        numbers = replace(self._numbers, **vars(self._progress))
        loss = ReferenceAdapter().loss(feature_maps, annotations, self._head, numbers)
        self._fault.call(self._progress)
        if self._exposes == "loss":
            return replace(loss, branches=None)
        return loss if self._exposes == "stages" else replace(loss, branches=_without_stages(loss))

    def update(self, hyperparameters: Hyperparameters) -> None:
        """Update the weights after an epoch, with the fault."""
        self._fault.update(self._progress, hyperparameters)


def _without_stages(loss: Loss) -> dict[str, Loss]:
    """Return the branches of a loss with assignments that do not expose their stages."""
    branches = {}
    for name, part in (loss.branches or {}).items():
        assert part.assignment is not None
        branches[name] = replace(part, assignment=replace(part.assignment, stages=None))
    return branches


class ProgressiveAdapter:
    """An adapter that makes criteria whose weights are updated, with a fault.

    Args:
        fault: the fault in all criteria.
        exposes: see `UsageFault.implementation`.
    """

    version, tasks, dialect = "1", (E2E.name,), ReferenceAdapter().dialect

    def __init__(self, fault: ProgressFault, exposes: str) -> None:
        self.name, self.exposes_stages = fault.name, exposes == "stages"
        self._fault, self._exposes = fault, exposes
        self._progress: Progress | None = None

    def make(self, head: Head, hyperparameters: Hyperparameters) -> ProgressiveCriterion:
        """Return a criterion that has been updated as often as the hyperparameters say."""
        progress = Progress(hyperparameters.updates, hyperparameters.epochs)
        if self._fault.shared:
            progress = self._progress = self._progress or progress
        return ProgressiveCriterion(self._fault, head, hyperparameters, progress, self._exposes)


def _implementation(fault: ProgressFault, exposes: str) -> Implementation:
    return implementation_from(lambda: ProgressiveAdapter(fault, exposes), fault.name)


PROGRESS_FAULTS: dict[str, Fault] = {}
"""Every fault in the state of the branch weights, by name."""


def right(progress: Progress, numbers: Hyperparameters) -> None:
    """Update the state without a fault: once, with the current number of epochs."""
    progress.updates, progress.epochs = progress.updates + 1, numbers.epochs


def nothing(*_: Any) -> None:
    """Leave the state unchanged."""


def _enter(name: str, update: Updates = right, call: Calls = nothing, shared: bool = False) -> None:
    PROGRESS_FAULTS[name] = ProgressFault(name, update, call, shared).as_fault()


def _twice(progress: Progress, numbers: Hyperparameters) -> None:
    right(progress, numbers)
    right(progress, numbers)


def _first_epochs(progress: Progress, _: Hyperparameters) -> None:
    progress.updates += 1


def _to_the_end(progress: Progress, numbers: Hyperparameters) -> None:
    right(progress, numbers)
    if progress.updates >= numbers.epochs:  # the schedule begins anew
        progress.updates = 0


def _each_call(progress: Progress) -> None:
    progress.updates += 1


def _each_validation(progress: Progress) -> None:
    progress.updates += not torch.is_grad_enabled()


_enter("never_updated", update=nothing)
_enter("updated_twice_an_epoch", update=_twice)
_enter("updated_by_every_batch", call=_each_call)
_enter("updated_by_validation", call=_each_validation)
_enter("epochs_read_once", update=_first_epochs)
_enter("begins_anew_after_the_last_epoch", update=_to_the_end)
_enter("resumed_training_goes_on", shared=True)
