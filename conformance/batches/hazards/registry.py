"""The registry of hazards: for every task, the detectors of its hazards by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tal_conformance.core.task import DETECT, POSE, POSE26, SEGMENT, SEGMENT26, TASKS

UPRIGHT = DETECT.name, POSE.name, SEGMENT.name, POSE26.name, SEGMENT26.name
"""Tasks with upright boxes and one branch, whose batches may have every hazard of detection."""
Detector = Callable[[Any], "bool | Tensor"]
"""Function of a batch's content, an object that `CONTENTS_BY_TASK` in `hazards` makes for every task."""
HAZARDS_BY_TASK: dict[str, dict[str, tuple[str, Detector]]] = {task: {} for task in TASKS}
"""For every task: what each hazard needs of a batch (an argument of `Content.has`), and its detector, by name."""


def hazard(needs: str = "", tasks: tuple[str, ...] = UPRIGHT) -> Callable[[Detector], Detector]:
    """Return a decorator that registers a detector of a hazard under its function name.

    Args:
        needs: a precondition of the detector, such as "pair" for two GTs in one image; an argument of `Content.has`.
        tasks: names of the tasks whose batches may have the hazard.
    """

    def register(detector: Detector) -> Detector:
        for task in tasks:
            HAZARDS_BY_TASK[task][detector.__name__] = (needs, detector)
        return detector

    return register
