"""Predicates of batches by name, for ledger entries: hazards (risky properties of batches), and the functions below."""

import re
from collections.abc import Callable
from types import MappingProxyType

import torch

from tal_conformance.batches.hazards.catalogue import HAZARDS, MEANINGS, hazards_of
from tal_conformance.core.batch import Batch

Predicate = Callable[[Batch], bool]
"""Function that returns True if a batch has a property."""


def any_batch(batch: Batch) -> bool:
    """Return True: every batch has this property."""
    return True


def has_truths(batch: Batch) -> bool:
    """Return True if the batch has at least one annotation row (ANN-1)."""
    return len(batch.annotations) > 0


def several_images(batch: Batch) -> bool:
    """Return True if the batch has at least two images (ANN-4)."""
    return batch.images > 1


def half_precision(batch: Batch) -> bool:
    """Return True if the feature maps have a 16-bit dtype."""
    return batch.dtype in (torch.float16, torch.bfloat16)


def mixed_precision(batch: Batch) -> bool:
    """Return True if the loss is called under autocast."""
    return batch.autocast


PROPERTIES = {
    predicate.__name__: predicate
    for predicate in (any_batch, has_truths, several_images, half_precision, mixed_precision)
}


def _has_hazard(hazard: str) -> Predicate:
    def has(batch: Batch) -> bool:
        # only a batch that was built by a recipe stores its hazards
        return hazard in (batch.hazards or hazards_of(batch))

    return has


def meaning_of(name: str) -> str:
    """Return the meaning of a predicate in words, as the end of a sentence about a batch."""
    if name in MEANINGS:
        return MEANINGS[name]
    first_line = (PROPERTIES[name].__doc__ or "").splitlines()[0]
    return re.sub(r"^Return True(: | if )", "", first_line).rstrip(".")


PREDICATES: MappingProxyType[str, Predicate] = MappingProxyType(
    PROPERTIES | {hazard: _has_hazard(hazard) for hazard in HAZARDS}
)
"""Every predicate, by name."""
