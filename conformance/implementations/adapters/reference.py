"""The reference as an implementation under test, in which the suite must find no error."""

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
from tal_conformance.core.task import E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26, TASKS, task_of
from tal_conformance.implementations.protocol import EVERY
from tal_reference import (
    NEWEST,
    DetectionLoss,
    Dialect,
    GroundTruths,
    Head,
    Hyperparameters,
    Targets,
    assign,
)
from tal_reference.composed import detection_loss, reach_of
from tal_reference.end_to_end import BRANCHES, end_to_end_loss
from tal_reference.keypoints import pose_loss
from tal_reference.masks import segmentation_loss
from tal_reference.rotated import assign_rotated, rotated_loss
from tal_reference.varied_assignment import radius_of

LOSSES = {
    OBB.name: rotated_loss,
    POSE.name: pose_loss,
    SEGMENT.name: segmentation_loss,
    POSE26.name: pose_loss,
    SEGMENT26.name: segmentation_loss,
}
"""The reference's losses of other tasks than detection."""


class ReferenceAdapter:
    """The reference with one of its dialects."""

    name = "reference"
    version = "1"
    exposes_stages = True
    precisions = EVERY
    class_weights = True
    tasks = tuple(TASKS)

    def __init__(self, dialect: Dialect = NEWEST) -> None:
        self.dialect = dialect

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Run the reference's assigner image by image."""
        numbers = inputs.head.strides, inputs.hyperparameters, self.dialect
        rotated = inputs.boxes.shape[-1] == len(OBB.box_columns)
        reach, radius = reach_of(inputs.strides, inputs.head.reg_max), radius_of(inputs.strides, self.dialect)
        targets = []
        for i, boxes in enumerate(inputs.truth_boxes):
            truths = GroundTruths(inputs.labels[i, :, 0].long(), boxes)
            given = inputs.scores[i], inputs.boxes[i], inputs.anchors, truths, *numbers
            targets.append(
                assign_rotated(*given, keep_trace=True)
                if rotated
                else assign(*given, keep_trace=True, reach=reach, radius=radius)
            )
        return _assignment(targets, inputs.head.classes)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Compute the reference's loss."""
        levels, numbers = len(head.strides), (annotations, head, hyperparameters, self.dialect, True)
        task = task_of(head, annotations.shape[1], len(feature_maps))
        if task is E2E:
            both = end_to_end_loss(feature_maps[:levels], feature_maps[levels:], *numbers)
            parts = {name: _shown(getattr(both, name), head) for name in BRANCHES}
            return Loss(both.terms, both.items, branches=parts)
        return _shown(LOSSES.get(task.name, detection_loss)(feature_maps, *numbers), head)


def _shown(loss: DetectionLoss, head: Head) -> Loss:
    return Loss(loss.terms, loss.items, _assignment(loss.targets, head.classes))


def _assignment(targets: list[Targets], classes: int) -> Assignment:
    return Assignment(
        labels=torch.stack([image.labels for image in targets]),
        boxes=torch.stack([image.boxes for image in targets]),
        scores=torch.stack([image.scores(classes) for image in targets]),
        foreground=torch.stack([image.foreground for image in targets]),
        truth_index=torch.stack([image.truth_index for image in targets]),
        stages=_stages(targets),
    )


def _stages(targets: list[Targets]) -> Stages | None:
    """Return all images' stages, padded to the largest number of ground truths; None if no image has any."""
    most = max((len(image.trace.metric) for image in targets if image.trace), default=0)
    if not most:
        return None
    names = ("candidates", "overlap", "metric", "selected", "positives")
    return Stages(**{name: torch.stack([_padded(image, name, most) for image in targets]) for name in names})


def _padded(image: Targets, name: str, rows: int) -> Tensor:
    """Return the stage `name` of one image, padded with zeros to (rows, A)."""
    dtype = image.weights.dtype if name in ("overlap", "metric") else torch.bool
    padded = torch.zeros(rows, len(image.weights), dtype=dtype, device=image.weights.device)
    if image.trace:
        value: Tensor = getattr(image.trace, name)
        padded[: len(value)] = value
    return padded
