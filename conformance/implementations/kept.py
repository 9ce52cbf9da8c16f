"""Adapters that reuse a criterion (loss object) between calls, as trainers do, and adapters without state."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.protocol import Assigner, CriterionMaker, Implementation, LossFunction
from tal_reference import Head, Hyperparameters


class KeptAdapter:
    """An adapter that makes one criterion (loss object) for each head and hyperparameters, and reuses it.

    A criterion with a method `update` is kept in further epochs too: `update` is called as often as the number of
    updates grows (E2E-5). If the given adapter has no `make`, its `loss` is called, which may store state itself.

    Args:
        adapter: an adapter with `assign`, `loss` or `make`.
    """

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._criteria: dict[tuple[Head, Hyperparameters], Callable[..., Loss]] = {}
        if isinstance(adapter, Assigner):
            self.assign = self._assign
        if isinstance(adapter, (LossFunction, CriterionMaker)):
            self.loss = self._loss

    def _assign(self, inputs: AssignerInputs) -> Assignment:
        """Call the adapter's assigner and return its result."""
        assignment: Assignment = self._adapter.assign(inputs)
        return assignment

    def _loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Call the criterion of the given head and hyperparameters, and return its result."""
        if not isinstance(self._adapter, CriterionMaker):
            loss: Loss = self._adapter.loss(feature_maps, annotations, head, hyperparameters)
            return loss
        key = head, hyperparameters
        if key not in self._criteria:
            with torch.inference_mode(
                False
            ):  # a trainer makes and updates its criterion outside of validation
                updated = self._updated(head, hyperparameters)
                self._criteria[key] = (
                    self._adapter.make(head, hyperparameters) if updated is None else updated
                )
        return self._criteria[key](feature_maps, annotations)

    def _updated(self, head: Head, hyperparameters: Hyperparameters) -> Callable[..., Loss] | None:
        """Return the criterion of an earlier epoch after its further updates (E2E-5), and forget its earlier state.

        Return None if no criterion can be updated: criteria have no method `update`, or the latest criterion has been
        updated more often than the batch says. A trainer then makes a new one.
        """
        base = _without_progress(hyperparameters)
        latest = next(
            (key for key in reversed(self._criteria) if key[0] == head and _without_progress(key[1]) == base),
            None,
        )
        if latest is None or latest[1].updates >= hyperparameters.updates:
            return None
        update = getattr(self._criteria[latest], "update", None)
        if update is None:
            return None
        for number in range(latest[1].updates + 1, hyperparameters.updates + 1):
            update(replace(hyperparameters, updates=number))
        return self._criteria.pop(latest)


def _without_progress(hyperparameters: Hyperparameters) -> Hyperparameters:
    """Return the hyperparameters with the default number of updates and of epochs."""
    return replace(hyperparameters, updates=Hyperparameters.updates, epochs=Hyperparameters.epochs)


def fresh_adapter(implementation: Implementation) -> KeptAdapter:
    """Return an adapter in its state before the first call, if it can be made again.

    If a class or function made the adapter, it is called again to make a new adapter. An adapter with `make` makes new
    criteria. Any other object is returned unchanged.
    """
    factory = implementation.factory
    return KeptAdapter(implementation.adapter if factory is None else factory())


def renewed(implementation: Implementation) -> Implementation:
    """Return the implementation in its state before the first call, if it can be made again (`fresh_adapter`)."""
    if implementation.in_subprocess:
        return replace(implementation, adapter=implementation.adapter.renewed())
    return replace(implementation, adapter=fresh_adapter(implementation))
