"""Modules and classes of the losses of every release of Ultralytics, and the releases at which their form changed."""

import re
from typing import NamedTuple

from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26

Version = tuple[int, int, int]


class Criterion(NamedTuple):
    """Modules and class of a loss family's criterion, valid from the release `first` on.

    Attributes:
        first: the first release with these modules.
        loss_module: module of the criterion.
        loss_class: name of the criterion's class.
        assigner_module: module of the assigner.
        assigner_class: name of the assigner's class.
    """

    first: Version
    loss_module: str
    loss_class: str
    assigner_module: str
    assigner_class: str = "TaskAlignedAssigner"


CRITERIA: dict[str, tuple[Criterion, ...]] = {
    DETECT.name: (
        Criterion((8, 0, 136), "ultralytics.utils.loss", "v8DetectionLoss", "ultralytics.utils.tal"),
        Criterion(
            (8, 0, 111), "ultralytics.yolo.utils.loss", "v8DetectionLoss", "ultralytics.yolo.utils.tal"
        ),
        Criterion((8, 0, 0), "ultralytics.yolo.v8.detect.train", "Loss", "ultralytics.yolo.utils.tal"),
    ),
    OBB.name: (
        Criterion(
            (8, 0, 235),
            "ultralytics.utils.loss",
            "v8OBBLoss",
            "ultralytics.utils.tal",
            "RotatedTaskAlignedAssigner",
        ),
    ),
    E2E.name: (
        Criterion((8, 4, 0), "ultralytics.utils.loss", "E2ELoss", "ultralytics.utils.tal"),
        Criterion((8, 2, 38), "ultralytics.utils.loss", "E2EDetectLoss", "ultralytics.utils.tal"),
    ),
    POSE.name: (Criterion((8, 4, 141), "ultralytics.utils.loss", "v8PoseLoss", "ultralytics.utils.tal"),),
    SEGMENT.name: (
        Criterion((8, 4, 83), "ultralytics.utils.loss", "v8SegmentationLoss", "ultralytics.utils.tal"),
    ),
    POSE26.name: (
        Criterion(
            (8, 4, 187),
            "ultralytics.utils.loss",
            "PoseLoss26",
            "ultralytics.utils.tal",
            "PoseTaskAlignedAssigner",
        ),
    ),
    SEGMENT26.name: (
        Criterion(
            (8, 4, 190),
            "ultralytics.utils.loss",
            "SegmentLoss26",
            "ultralytics.utils.tal",
            "SegTaskAlignedAssigner",
        ),
    ),
}
"""Modules of each task's criterion, the newest releases first."""
FIELD_NAMES = {
    "distances": "boxes",
    "logits": "scores",
    "angle": "angle",
    "keypoints": "kpts",
    "coefficients": "mask_coefficient",
    "prototypes": "proto",
}
"""Name of every head field in the predictions that a loss reads since `SPLIT_PREDICTIONS`."""
SPLIT_PREDICTIONS: Version = (8, 4, 0)
"""First release whose loss reads `boxes`, `scores` and `feats` by name."""
CLASS_WEIGHTS: dict[str, Version] = {OBB.name: (8, 4, 68)}
"""First release whose loss of a task reads `model.class_weights` (COR-7)."""
CLASS_WEIGHTS_OF_DETECTION: Version = (8, 4, 37)
"""First release whose losses of all tasks but those of `CLASS_WEIGHTS` read `model.class_weights` (COR-7)."""
SIZE_FROM_MAPS: Version = (8, 4, 7)
"""First release whose loss of rotated boxes takes the input's size from the feature maps, not from the batch."""


def criterion_of(version: str, task: str = DETECT.name) -> Criterion:
    """Return the modules and classes of a task's criterion in a release.

    Args:
        version: version of the release; text after the three numbers, as in forks, is ignored.
        task: key of `CRITERIA`.

    Raises:
        ValueError: the version does not have three numbers, or is older than 8.0.0.
    """
    numbers = leading_numbers(version)
    for criterion in CRITERIA[task]:
        if numbers >= criterion.first:
            return criterion
    raise ValueError(f"ultralytics {version} is older than {_first(task)}, the first release with this loss")


def _first(task: str) -> str:
    return ".".join(map(str, CRITERIA[task][-1].first))


def leading_numbers(version: str) -> Version:
    """Return the first three numbers of a version, and ignore any further text.

    Raises:
        ValueError: the version does not have three numbers.
    """
    return parsed(".".join(re.findall(r"\d+", version)[:3]))


def parsed(version: str) -> Version:
    """Return the three numbers of a release.

    Raises:
        ValueError: the version does not have three numbers.
    """
    major, minor, patch = (int(part) for part in version.split("."))
    return major, minor, patch
