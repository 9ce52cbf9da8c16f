"""The reference as a criterion (loss object) that a trainer reuses, with a fault in handling calls or in its state.

Such a fault is not a replaced line of the reference, but code around its loss that remembers earlier calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import StageName
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.planted_faults.fault import Fault
from tal_reference import Head, Hyperparameters


@dataclass(frozen=True)
class LossWithItems(Loss):
    """A loss whose items are not None."""

    items: Tensor


@dataclass(frozen=True)
class CriterionCall:
    """The arguments of one call of a criterion.

    Attributes:
        maps: feature maps, one per level.
        rows: annotation rows.
        head: strides, number of classes and number of bins of the detection head.
        numbers: hyperparameters of assigner and loss.
    """

    maps: tuple[Tensor, ...]
    rows: Tensor
    head: Head
    numbers: Hyperparameters

    def loss(self, **changes: Any) -> LossWithItems:
        """Return the reference's loss for these arguments; `changes` replaces some arguments."""
        call = replace(self, **changes)
        loss = ReferenceAdapter().loss(call.maps, call.rows, call.head, call.numbers)
        assert loss.items is not None, "the reference returns items"
        return LossWithItems(loss.total, loss.items, loss.assignment, loss.inputs, branches=loss.branches)


class Behaviour(Protocol):
    """Interface of a planted fault: a function around the reference's loss that handles its calls wrongly."""

    __name__: str

    def __call__(self, memory: dict[Any, Any], call: CriterionCall) -> Loss:
        """Return the loss for a call.

        Args:
            memory: state of the criterion, or of the adapter, that persists from call to call.
            call: the arguments of the call.
        """


@dataclass(frozen=True)
class UsageFault:
    """A fault in the handling of calls, or in the state between calls.

    Attributes:
        name: name of the function with the faulty code.
        clause: the violated clause.
        stage: stage that the report must name: "calling" or "state".
        check: name of the check that must find the fault, with the value of its parameter in brackets.
        behaviour: the function with the faulty code.
        shared: True if all criteria of the adapter share one state.
        reduces: the declared reduction of N (sum of target scores) over processes: "mean", "sum" or None.
    """

    name: str
    clause: str
    stage: str
    check: str
    behaviour: Behaviour
    shared: bool
    reduces: str | None

    def as_fault(self) -> Fault:
        """Return the fault as a `Fault`, the type that mutation testing expects."""
        return Fault(
            self.name, (self.clause,), self.stage, {}, (self.stage,), self.check, self.implementation
        )

    def implementation(self, exposes: str) -> Implementation:
        """Return the reference with this fault, as an implementation under test.

        Args:
            exposes: "stages" (the result has stages and outputs of the assigner), "outputs" (only its outputs) or
                "loss" (neither).
        """
        return implementation_from(lambda: FaultyCriterion(self, exposes), self.name)


class FaultyCriterion:
    """An adapter whose criteria (loss objects that a trainer reuses) have a planted fault.

    Args:
        fault: the fault in all criteria that the adapter makes.
        exposes: see `UsageFault.implementation`.
    """

    def __init__(self, fault: UsageFault, exposes: str) -> None:
        self.name, self.exposes_stages = fault.name, exposes == "stages"
        self.version, self.dialect, self.tasks = "1", ReferenceAdapter().dialect, ReferenceAdapter.tasks
        self.reduces_over_ranks = fault.reduces
        self._fault, self._exposes = fault, exposes
        self._memory: dict[Any, Any] = {}

    def make(
        self, head: Head, hyperparameters: Hyperparameters
    ) -> Callable[[tuple[Tensor, ...], Tensor], Loss]:
        """Return a faulty criterion: a function that returns the loss of feature maps and annotations."""
        memory = self._memory if self._fault.shared else {}

        def criterion(feature_maps: tuple[Tensor, ...], annotations: Tensor) -> Loss:
            call = CriterionCall(feature_maps, annotations, head, hyperparameters)
            return self._visible(self._fault.behaviour(memory, call))

        return criterion

    def _visible(self, loss: Loss) -> Loss:
        """Return the loss without the parts that the fault's implementation does not expose."""
        if self._exposes == "loss":
            return replace(loss, assignment=None, inputs=None, branches=None)
        if loss.branches is not None:
            return replace(loss, branches={name: self._visible(part) for name, part in loss.branches.items()})
        if loss.assignment is None:
            return replace(loss, inputs=None)
        stages = loss.assignment.stages if self.exposes_stages else None
        return replace(loss, assignment=replace(loss.assignment, stages=stages))


USAGE_FAULTS: dict[str, UsageFault] = {}
"""Every registered fault in the handling of calls or in state, by name."""


def calling(way: str, clause: str, reduces: str | None = None) -> Callable[[Behaviour], Behaviour]:
    """Return a decorator that registers a faulty loss, to be found by the check that calls a loss in the way `way`."""
    check = "calling_slowly" if way in ("compile", "two-processes") else "calling"

    def register(behaviour: Behaviour) -> Behaviour:
        name = behaviour.__name__
        USAGE_FAULTS[name] = UsageFault(
            name, clause, StageName.CALLING, f"{check}[{way}]", behaviour, False, reduces
        )
        return behaviour

    return register


def state(sequence: str, clause: str = "STATE-1", shared: bool = False) -> Callable[[Behaviour], Behaviour]:
    """Return a decorator that registers a faulty loss, to be found by the check of the call sequence `sequence`."""

    def register(behaviour: Behaviour) -> Behaviour:
        name = behaviour.__name__
        USAGE_FAULTS[name] = UsageFault(
            name, clause, StageName.STATE, f"state[{sequence}]", behaviour, shared, None
        )
        return behaviour

    return register
