"""What an entry may ask of a batch, by name: the hazards, and the few properties below that are none."""

from collections.abc import Callable
from types import MappingProxyType

import torch

from tal_conformance.batches.hazards import HAZARDS, hazards_of
from tal_conformance.core.batch import Batch

Predicate = Callable[[Batch], bool]
"""Whether a batch has a property."""


def any_batch(batch: Batch) -> bool:
    """Every batch has it."""
    return True


def has_truths(batch: Batch) -> bool:
    """There is at least one annotation row (ANN-1)."""
    return len(batch.annotations) > 0


def several_images(batch: Batch) -> bool:
    """There are two images or more (ANN-4)."""
    return batch.images > 1


def half_precision(batch: Batch) -> bool:
    """Feature maps are of 16 bits."""
    return batch.dtype in (torch.float16, torch.bfloat16)


def mixed_precision(batch: Batch) -> bool:
    """The loss is called under autocast."""
    return batch.autocast


OWN = {
    predicate.__name__: predicate
    for predicate in (any_batch, has_truths, several_images, half_precision, mixed_precision)
}


def _having(hazard: str) -> Predicate:
    def has(batch: Batch) -> bool:
        return hazard in (batch.hazards or hazards_of(batch))  # batches that no recipe made carry none along

    return has


PREDICATES: MappingProxyType[str, Predicate] = MappingProxyType(
    OWN | {hazard: _having(hazard) for hazard in HAZARDS}
)
"""Every predicate by its name."""
