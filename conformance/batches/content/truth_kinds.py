"""The kinds of generated ground truths, such as `tiny` and `nested`, by name, for every task."""

from collections.abc import Callable, Mapping

from tal_conformance.batches.content.truths import KINDS
from tal_conformance.batches.content.turned_truths import TURNED_KINDS
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26

KINDS_BY_TASK: dict[str, Mapping[str, Callable[..., tuple[float, ...]]]] = {
    DETECT.name: KINDS,
    OBB.name: TURNED_KINDS,
    E2E.name: KINDS,
    POSE.name: KINDS,
    POSE26.name: KINDS,
    SEGMENT.name: KINDS,
    SEGMENT26.name: KINDS,
}
"""The kinds of ground truths of every task, by name."""
