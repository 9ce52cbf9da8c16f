"""The branches of a batch for a head with several of them (end-to-end heads), each as a batch of its own task."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_reference import NEWEST, Dialect
from tal_reference.end_to_end import branch_hyperparameters, weights_of

T = TypeVar("T")


def has_branches(batch: Batch) -> bool:
    """Return True if the batch is for a head with several branches."""
    return bool(batch.family.branch_task)


def split(batch: Batch, levels: Sequence[T]) -> dict[str, tuple[T, ...]]:
    """Return a sequence with one entry for each feature map of a batch as one sequence for each branch, by its name."""
    count = len(batch.head.strides)
    names = batch.family.branches
    return {name: tuple(levels[number * count : (number + 1) * count]) for number, name in enumerate(names)}


def branch_batches(batch: Batch, dialect: Dialect = NEWEST) -> dict[str, Batch]:
    """Return the batch of each branch by the branch's name: its feature maps and hyperparameters (E2E-2)."""
    numbers, maps = branch_hyperparameters(batch.hyperparameters, dialect), split(batch, batch.feature_maps)
    return {
        name: replace(
            batch,
            feature_maps=maps[name],
            hyperparameters=numbers[name],
            task=batch.family.branch_task,
            origin=f"branch {name} of {batch.origin}",
            hazards=frozenset(),
        )
        for name in batch.family.branches
    }


def branch_weights(batch: Batch, dialect: Dialect = NEWEST) -> dict[str, float]:
    """Return the weight of each branch in the total loss by the branch's name (E2E-3, E2E-4)."""
    return dict(zip(batch.family.branches, weights_of(batch.hyperparameters, dialect), strict=True))


def branch_gradients(
    batch: Batch, gradients: Sequence[Tensor], dialect: Dialect = NEWEST
) -> dict[str, tuple[Tensor, ...]]:
    """Return the gradients of each branch's own loss by the branch's name.

    They are the gradients of the whole loss on the branch's feature maps, divided by the branch's weight (E2E-6).
    """
    weights = branch_weights(batch, dialect)
    return {
        name: tuple(level * (1 / weights[name]) for level in levels)
        for name, levels in split(batch, gradients).items()
    }
