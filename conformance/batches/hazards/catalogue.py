"""Hazards of every task: properties of a batch that implementations tend to get wrong, with their meanings."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from tal_conformance.batches.hazards import (  # noqa: F401 (register detectors)
    branches,
    detection,
    keypoints,
    masks,
    sizes,
    turned_boxes,
)
from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.hazards.registry import HAZARDS_BY_TASK, Detector
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, has_branches
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26, TASKS

__all__ = [
    "HAZARDS",
    "HAZARDS_BY_TASK",
    "MEANINGS",
    "MEANINGS_BY_TASK",
    "hazards_of",
    "with_hazards",
]


CONTENTS_BY_TASK: dict[str, Callable[[Batch], Any]] = {
    DETECT.name: Content,
    OBB.name: turned_boxes.TurnedContent,
    E2E.name: branches.BranchContent,
    POSE.name: keypoints.PosedContent,
    POSE26.name: keypoints.PosedContent,
    SEGMENT.name: masks.MaskedContent,
    SEGMENT26.name: masks.MaskedContent,
}
"""The content that the detectors of every task read."""


@torch.inference_mode()
def hazards_of(batch: Batch) -> frozenset[str]:
    """Return the names of the hazards of a batch: properties for which implementations often go wrong.

    A batch for a head with branches has the hazards of each branch too.
    """
    content, detectors = CONTENTS_BY_TASK[batch.task](batch), HAZARDS_BY_TASK[batch.task]
    own = frozenset(
        name for name, (needs, found) in detectors.items() if content.has(needs) and bool(found(content))
    )
    parts = branch_batches(batch).values() if has_branches(batch) else ()
    return own.union(*(hazards_of(part) for part in parts))


def with_hazards(batch: Batch) -> Batch:
    """Return a copy of the batch whose field `hazards` names the hazards that it contains."""
    return replace(batch, hazards=hazards_of(batch))


def _meaning(detector: Detector) -> str:
    return (detector.__doc__ or "").partition("\n")[0]


MEANINGS_BY_TASK: Mapping[str, Mapping[str, str]] = {
    task: MappingProxyType(
        {
            name: _meaning(detector)
            for kind in filter(None, (TASKS[task].branch_task, task))
            for name, (_, detector) in HAZARDS_BY_TASK[kind].items()
        }
    )
    for task in HAZARDS_BY_TASK
}
"""The meaning of every hazard in one line, for every task."""
MEANINGS = MEANINGS_BY_TASK[DETECT.name]
"""The meaning of every hazard of detection, in one line."""
HAZARDS: tuple[str, ...] = tuple(MEANINGS)
"""The names of the hazards of detection."""
