"""Criteria of a release of Ultralytics that are kept over several calls: of several tasks, and end to end."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import task_of
from tal_reference import Head, Hyperparameters


class MakesCriteria(Protocol):
    """The methods of an adapter that make and call a criterion."""

    def _new_criterion(
        self, head: Head, hyperparameters: Hyperparameters, device: torch.device
    ) -> tuple[Any, Any]:
        """Return a new criterion, with recorders of its branches."""
        ...

    def _call(
        self,
        made: tuple[Any, Any],
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the loss of a criterion that `_new_criterion` made."""
        ...


class CriterionOfTasks:
    """The criteria of all tasks of a release, of which each call uses the one to which its annotation rows belong.

    Args:
        own: criterion of the adapter's own task.
        others: criteria of other tasks, by name.
        head: head of the model.
    """

    def __init__(self, own: Callable[..., Loss], others: dict[str, Callable[..., Loss]], head: Head) -> None:
        self._own, self._others, self._head = own, others, head

    def __call__(self, feature_maps: tuple[Tensor, ...], annotations: Tensor) -> Loss:
        """Return the loss of the task of the annotation rows."""
        task = task_of(self._head, annotations.shape[1], len(feature_maps))
        return self._others.get(task.name, self._own)(feature_maps, annotations)

    def update(self, hyperparameters: Hyperparameters) -> None:
        """Update the weights of an end-to-end loss after an epoch (E2E-5); other losses have none."""
        for criterion in (self._own, *self._others.values()):
            if isinstance(criterion, EndToEndCriterion):
                criterion.update(hyperparameters)


class EndToEndCriterion:
    """The end-to-end criterion of a release, which is made on the first call and updated after epochs.

    Args:
        adapter: adapter of the release.
        head: head of the model.
        hyperparameters: hyperparameters of the first call.
    """

    def __init__(self, adapter: MakesCriteria, head: Head, hyperparameters: Hyperparameters) -> None:
        self._adapter, self._head, self._numbers = adapter, head, hyperparameters
        self._made: tuple[Any, Any] | None = None

    def __call__(self, feature_maps: tuple[Tensor, ...], annotations: Tensor) -> Loss:
        """Return the loss of both branches."""
        if self._made is None:
            with torch.inference_mode(False):  # a trainer makes its criterion outside of validation
                self._made = self._adapter._new_criterion(self._head, self._numbers, feature_maps[0].device)
        return self._adapter._call(self._made, feature_maps, annotations, self._head, self._numbers)

    def update(self, hyperparameters: Hyperparameters) -> None:
        """Update the criterion as a trainer does after an epoch (E2E-5)."""
        self._numbers = hyperparameters
        if self._made is not None:
            update_weights(self._made[0], hyperparameters, times=1)


def update_weights(criterion: Any, hyperparameters: Hyperparameters, times: int) -> None:
    """Update the branch weights of a release's criterion; releases before 8.4.0 have none."""
    if hasattr(criterion, "update"):
        criterion.one2one.hyp.epochs = hyperparameters.epochs  # read at each update (E2E-4)
        for _ in range(times):
            criterion.update()
