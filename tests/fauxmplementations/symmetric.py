"""Wrong implementations that violate no metamorphic relation, so that the relations must accept them."""

from dataclasses import replace
from typing import Any

from tests.fauxmplementations.relation_faults import planted
from torch import Tensor

import tal_reference.assignment
import tal_reference.boxes
import tal_reference.loss
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.mutation.planted_faults import FAULTS, Fault, FaultyReference
from tal_reference import NEWEST, Dialect, GroundTruths
from tal_reference.assignment import distance_inside, scatter_pairs

_ciou = tal_reference.boxes.ciou
_ground_truths = tal_reference.loss.ground_truths


def plain_overlaps(truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Return overlaps (M, A) computed as IoU instead of CIoU."""
    truth, anchor = pairs = candidates.nonzero(as_tuple=True)
    return scatter_pairs(tal_reference.boxes.iou(truths[truth], boxes[anchor]), pairs, candidates)


def signed_overlaps(truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Return overlaps (M, A) computed as CIoU that is not clamped at zero."""
    truth, anchor = pairs = candidates.nonzero(as_tuple=True)
    return scatter_pairs(_ciou(truths[truth], boxes[anchor]), pairs, candidates)


def edges_count(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates (M, A) that include anchors on the edges of a box."""
    return (distance_inside(truths.boxes, centres, floor) >= 0) & truths.real[:, None]


def halved(*arguments: Any) -> list[GroundTruths]:
    """Return ground truths whose boxes have half the width and height."""
    made = []
    for image in _ground_truths(*arguments):
        quarter = (image.boxes[:, 2:] - image.boxes[:, :2]) / 4  # (M, 2)
        boxes = image.boxes.clone()
        boxes[:, :2] += quarter
        boxes[:, 2:] -= quarter
        made.append(replace(image, boxes=boxes))
    return made


PLAIN_IOU = planted({"tal_reference.assignment.overlaps_of": plain_overlaps}, "overlap")
SIGNED_CIOU = planted({"tal_reference.assignment.overlaps_of": signed_overlaps}, "overlap")
EDGES_COUNT = planted({"tal_reference.assignment.candidates_of": edges_count}, "candidates")
HALF_SIZE = planted({"tal_reference.loss.ground_truths": halved}, "candidates")


class Outputs(FaultyReference):
    """A faulty assigner and loss that expose the assigner's outputs, but no intermediate results."""

    def __init__(self, fault: Fault, dialect: Dialect = NEWEST) -> None:
        ReferenceAdapter.__init__(self, dialect)
        self.fault, self.name, self.exposes_stages = fault, "outputs", False


class AssignerOutputs:
    """The assigner of `Outputs`, without a loss."""

    def __init__(self, fault: Fault, dialect: Dialect = NEWEST) -> None:
        self.whole = Outputs(fault, dialect)
        self.dialect = dialect

    def assign(self, inputs: AssignerInputs) -> Assignment:
        return self.whole.assign(inputs)


class HiddenLoss:
    """A faulty loss that does not expose its assignment."""

    def __init__(self, fault: Fault) -> None:
        self.whole = FaultyReference(fault)

    def loss(self, *arguments: Any) -> Loss:
        loss = self.whole.loss(*arguments)
        return Loss(loss.total, loss.items)


class OtherFactor(ReferenceAdapter):
    """A loss whose total is the correct total times `factor`, divided by the batch size."""

    def __init__(self, factor: float, hides: bool) -> None:
        super().__init__()
        self.factor, self.hides, self.exposes_stages = factor, hides, not hides

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        loss = super().loss(feature_maps, *arguments)
        total = loss.total * self.factor / len(feature_maps[0])
        return replace(loss, total=total, assignment=None if self.hides else loss.assignment)


SYMMETRIC: dict[str, Any] = {
    "plain IoU, outputs": lambda: AssignerOutputs(PLAIN_IOU),
    "plain IoU, stages": lambda: FaultyReference(PLAIN_IOU),
    "signed CIoU, outputs": lambda: AssignerOutputs(SIGNED_CIOU),
    "signed CIoU, stages": lambda: FaultyReference(SIGNED_CIOU),
    "edges count, outputs": lambda: AssignerOutputs(EDGES_COUNT),
    "edges count, stages": lambda: FaultyReference(EDGES_COUNT),
    "edges count, hidden": lambda: HiddenLoss(EDGES_COUNT),
    "half the size, hidden": lambda: HiddenLoss(HALF_SIZE),
    "nine for ten, outputs": lambda: AssignerOutputs(FAULTS["nine_for_ten"]),
    "B left out": lambda: OtherFactor(1, hides=False),
    "B left out, hidden": lambda: OtherFactor(1, hides=True),
    "three for B": lambda: OtherFactor(3, hides=False),
    "three for B, hidden": lambda: OtherFactor(3, hides=True),
}
"""Wrong implementations by name. The comparison with the reference finds all of them."""
