"""Faults planted in the loss of rotated boxes, in its own functions and in functions shared with detection."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import StageName
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.planted_faults.fault import ENTERED, Decorator, Fault, registering
from tal_conformance.mutation.planted_faults.faulty_reference import FaultyReference
from tal_reference import DetectionLoss, Head, Hyperparameters, rotated
from tal_reference.anchors import Anchors
from tal_reference.annotations import GroundTruths
from tal_reference.assignment import scatter_pairs
from tal_reference.loss import cls_sum as right_cls_sum

HOME = "tal_reference.rotated"
SHARED = (
    *("alpha_of_one", "beta_of_five", "nine_for_ten", "contested_by_metric"),
    *("weights_before_conflict", "clamped_for_added_eps", "losing_truth_keeps_its_score"),
)
"""Faults of detection in functions that rotated boxes share (COR-4)."""

ROTATED_FAULTS: dict[str, Fault] = {}
"""Every fault of rotated boxes by name."""


def planted(
    clauses: str, stage: str, check: str, at: str, *outputs_stages: str, home: str = HOME
) -> Decorator:
    """Return a decorator that registers a fault: the decorated function replaces the function `at` of module `home`."""
    return registering(ROTATED_FAULTS, home)(clauses, stage, at, *outputs_stages, check=check)


ASSIGNED = (
    *(StageName.CANDIDATES, StageName.OVERLAP, StageName.METRIC, StageName.TOP_K, StageName.CONFLICT),
    *(StageName.TARGETS, StageName.NORMALISATION),
)
right = {
    name: getattr(rotated, name)
    for name in (
        *("rotated_truths", "read_rotated", "decode_rotated", "probiou", "candidates_of", "widened"),
        *("overlaps_of", "rotated_items", "box_loss", "distances_in_frame", "angle_loss", "covariance"),
    )
}
"""The functions of the reference, before faults replace them."""


@planted("OBB-ANN-1", StageName.DECODE, "decoding", "rotated_truths", *ASSIGNED)
def sides_exchange_with_the_angle(
    annotations: Tensor, images: int, size: tuple[int, int], *others: Any
) -> Any:
    """Return ground truths whose normalised widths are multiplied by the input's height, and heights by its width."""
    height, width = size
    rows = annotations.clone()
    rows[:, 4] = rows[:, 4] * height / width
    rows[:, 5] = rows[:, 5] * width / height
    return right["rotated_truths"](rows, images, size, *others)


@planted("OBB-ANN-1", StageName.DECODE, "decoding", "rotated_truths", *ASSIGNED)
def angle_taken_anticlockwise(annotations: Tensor, images: int, size: tuple[int, int], *others: Any) -> Any:
    """Return ground truths with the angles of the annotations negated, as if the y axis pointed up."""
    rows = annotations.clone()
    rows[:, 6] = -rows[:, 6]
    return right["rotated_truths"](rows, images, size, *others)


@planted("OBB-ANN-2", StageName.GRADIENTS, "annotations", "SMALLEST_SIDE")
def no_row_dropped() -> None:
    """Set the limit of side lengths to 0, so that annotation rows with sides below 2 pixels are kept."""


@planted("OBB-ANN-2", StageName.CLS, "annotations", "SMALLEST_SIDE")
def rows_below_eight_pixels_dropped() -> None:
    """Set the limit of side lengths to 8 pixels instead of 2, so that more annotation rows are dropped."""


@planted("OBB-ANN-3", StageName.CANDIDATES, "annotations", "GroundTruths", home="tal_reference.annotations")
def sum_without_the_angle() -> None:
    """Count a ground truth as real if x + y + w + h > 0, without adding the angle."""


@planted("OBB-ANN-3", StageName.CANDIDATES, "annotations", "GroundTruths", home="tal_reference.annotations")
def every_row_is_real() -> None:
    """Count every ground truth as real, also if its five numbers add up to zero or less."""


@planted("OBB-DEC-1", StageName.DECODE, "decoding", "read_rotated", *ASSIGNED)
def angle_read_as_logit(feature_maps: Any, head: Any) -> Any:
    """Return predictions whose angles were passed through the head's sigmoid a second time."""
    predictions = right["read_rotated"](feature_maps, head)
    angles = (predictions.angles.sigmoid() - 0.25) * torch.pi
    return rotated.RotatedPredictions(
        predictions.distances, predictions.logits, predictions.anchors, predictions.size, angles
    )


@planted("OBB-DEC-1", StageName.DECODE, "decoding", "read_rotated", *ASSIGNED)
def angle_wrapped_to_a_quarter(feature_maps: Any, head: Any) -> Any:
    """Return predictions with all angles wrapped to [0, pi/2)."""
    predictions = right["read_rotated"](feature_maps, head)
    return replace(predictions, angles=predictions.angles.remainder(torch.pi / 2))


@planted("OBB-DEC-2", StageName.DECODE, "decoding", "decode_rotated", *ASSIGNED)
def centre_not_turned(distances: Tensor, angles: Tensor, anchors: Anchors) -> Tensor:
    """Return boxes whose centre is offset along the axes of the image instead of the axes of the box."""
    box = right["decode_rotated"](distances, torch.zeros_like(angles), anchors)
    return torch.cat((box[..., :4], angles), dim=-1)


@planted("OBB-DEC-2", StageName.DECODE, "decoding", "decode_rotated", *ASSIGNED)
def centre_turned_the_other_way(distances: Tensor, angles: Tensor, anchors: Anchors) -> Tensor:
    """Return boxes whose centre offset is rotated by minus the angle."""
    box = right["decode_rotated"](distances, -angles, anchors)
    return torch.cat((box[..., :4], angles), dim=-1)


@planted("OBB-DEC-2 LOSS-GRAD-1", StageName.GRADIENTS, "loss", "decode_rotated")
def centre_without_gradient_on_the_angle(distances: Tensor, angles: Tensor, anchors: Anchors) -> Tensor:
    """Return boxes whose centre has no gradient with respect to the angle."""
    box = right["decode_rotated"](distances, angles.detach(), anchors)
    return torch.cat((box[..., :4], angles), dim=-1)


@planted("OBB-CAND-1", StageName.CANDIDATES, "borders", "candidates_of", *ASSIGNED)
def edges_excluded(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates without the anchors whose centre lies exactly on an edge of the box."""
    box = rotated.widened(truths.boxes, floor)[:, None]
    offset = rotated.to_own_frame(centres - box[..., :2], box[..., 4:])
    return (offset.abs() < box[..., 2:4] / 2).all(-1) & truths.real[:, None]


@planted("OBB-CAND-1", StageName.CANDIDATES, "borders", "candidates_of", *ASSIGNED)
def box_taken_as_upright(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates as if every ground truth had the angle 0."""
    boxes = truths.boxes * truths.boxes.new_tensor((1, 1, 1, 1, 0))
    return right["candidates_of"](GroundTruths(truths.labels, boxes), centres, floor) & truths.real[:, None]


@planted("OBB-CAND-1 TAL-CAND-2", StageName.CANDIDATES, "small_boxes", "widened", *ASSIGNED)
def no_side_widened(boxes: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return boxes unchanged, although short sides must be widened."""
    return boxes


@planted("OBB-IOU-1", StageName.OVERLAP, "metric", "covariance", *ASSIGNED, StageName.BOX)
def variance_of_a_quarter(boxes: Tensor, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return covariances with the variance side^2 / 4 instead of side^2 / 12."""
    scale = boxes.new_tensor((1, 1, 3**0.5, 3**0.5, 1))
    xx, yy, xy = right["covariance"](boxes * scale, variance)
    return xx, yy, xy


@planted("OBB-IOU-1", StageName.OVERLAP, "metric", "covariance", *ASSIGNED, StageName.BOX)
def covariance_without_the_angle(boxes: Tensor, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the covariances of the boxes' Gaussians as if every angle were 0."""
    xx, yy, xy = right["covariance"](boxes * boxes.new_tensor((1, 1, 1, 1, 0)), variance)
    return xx, yy, xy


@planted("OBB-IOU-2", StageName.GRADIENTS, "loss", "box_loss")
def gradient_of_equal_boxes(predicted: Tensor, target: Tensor, variance: float) -> Tensor:
    """Return the box loss with a nonzero gradient for equal boxes, where the clamp must make it zero."""
    loss = right["box_loss"](predicted, target, variance)
    pull = (predicted - predicted.detach())[:, :4].sum(1)
    return loss + 0.1 * pull * (loss.detach() < 1e-3)


@planted("OBB-IOU-2", StageName.OVERLAP, "metric", "FARTHEST", *ASSIGNED)
def distance_clamped_early() -> None:
    """Set the upper limit of the Bhattacharyya distance to 1."""


@planted("OBB-MET-1", StageName.OVERLAP, "metric", "overlaps_of", *ASSIGNED)
def variance_in_the_assignment(truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Return overlaps for the assignment with the variance that only the box loss must add."""
    truth, anchor = pairs = candidates.nonzero(as_tuple=True)
    values = right["probiou"](truths[truth], boxes[anchor], 1.0).clamp(min=0)
    return scatter_pairs(values, pairs, candidates)


@planted("OBB-MET-1", StageName.OVERLAP, "small_boxes", "overlaps_of", *ASSIGNED)
def overlap_of_widened_boxes(truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Return overlaps of ground truths whose sides are widened to at least 16 pixels."""
    sides = torch.cat((truths[:, :2], truths[:, 2:4].clamp(min=16), truths[:, 4:]), dim=1)
    return right["overlaps_of"](sides, boxes, candidates)


@planted("OBB-BOX-1", StageName.BOX, "loss", "box_loss")
def no_variance_in_the_loss(predicted: Tensor, target: Tensor, _: float) -> Any:
    """Return the box loss with a variance of 0, as releases before 8.4.84."""
    return right["box_loss"](predicted, target, 0.0)


@planted("OBB-BOX-1", StageName.BOX, "loss", "box_loss")
def hellinger_squared(predicted: Tensor, target: Tensor, variance: float) -> Any:
    """Return the squared box loss: the squared Hellinger distance instead of the distance."""
    return right["box_loss"](predicted, target, variance).square()


@planted("OBB-DFL-1", StageName.DFL, "loss", "distances_in_frame")
def distances_along_the_image(boxes: Tensor, centres: Tensor) -> Tensor:
    """Return target distances along the axes of the image instead of the box, as the first releases do."""
    return right["distances_in_frame"](boxes * boxes.new_tensor((1, 1, 1, 1, 0)), centres)


@planted("OBB-DFL-1", StageName.DFL, "loss", "distances_in_frame")
def left_and_right_exchanged(boxes: Tensor, centres: Tensor) -> Tensor:
    """Return target distances with left and right exchanged, and top and bottom exchanged."""
    return right["distances_in_frame"](boxes, centres)[:, [2, 3, 0, 1]]


@planted("OBB-ANG-1", StageName.ANGLE, "loss", "angle_loss")
def angle_loss_without_shape(angles: Tensor, target: Tensor) -> Tensor:
    """Return the angle loss without the weight that depends on the box's aspect ratio."""
    loss: Tensor = (2 * (angles - target[:, 4])).sin().square()
    return loss


@planted("OBB-ANG-1", StageName.ANGLE, "loss", "angle_loss")
def angle_loss_of_a_half_turn(angles: Tensor, target: Tensor) -> Tensor:
    """Return the angle loss of half the angles, so that its period is 180 instead of 90 degrees."""
    halved = torch.cat((target[:, :4], target[:, 4:] / 2), dim=1)
    loss: Tensor = right["angle_loss"](angles / 2, halved)
    return loss


@planted("OBB-CLS-1 LOSS-CLS-1", StageName.CLS, "loss", "cls_sum")
def class_loss_of_positives(logits: Tensor, positives: Any, dialect: Any, class_weights: Any = None) -> Any:
    """Return the class loss of the positives only, without background anchors."""
    own = logits[positives.image, positives.anchor]  # (P, C)
    nothing = right_cls_sum(logits * 0, positives, dialect, class_weights) * 0
    return own.sigmoid().sum() + nothing


@planted("OBB-CLS-1 LOSS-CLS-1", StageName.CLS, "targets", "cls_sum")
def targets_at_the_first_class(
    logits: Tensor, positives: Any, dialect: Any, class_weights: Any = None
) -> Any:
    """Return the class loss with every target score at class 0 instead of the ground truth's class."""
    first = replace(positives, labels=torch.zeros_like(positives.labels))
    return right_cls_sum(logits, first, dialect, class_weights)


@planted("OBB-BOX-1 LOSS-SUM-1", StageName.BOX, "loss", "weighted_sums")
def terms_not_divided(losses: Any, weights: Tensor, dialect: Any) -> Any:
    """Return the weighted sums of box loss, DFL and angle loss without division by N, the sum of target scores."""
    return tuple((loss * weights).sum() for loss in losses)


@planted("OBB-SUM-1", StageName.BOX, "hyperparameters", "rotated_items")
def angle_gain_on_the_box(predictions: Any, targets: Any, numbers: Any, *others: Any) -> Tensor:
    """Return the loss items with the gains of the box loss and the angle loss exchanged."""
    swapped = type(numbers)(
        **{**vars(numbers), "box_gain": numbers.angle_gain, "angle_gain": numbers.box_gain}
    )
    items: Tensor = right["rotated_items"](predictions, targets, swapped, *others)
    return items


@planted("OBB-SUM-1", StageName.TOTAL, "loss", "DetectionLoss")
def total_without_the_angle(terms: Tensor, items: Tensor, *others: Any) -> DetectionLoss:
    """Return the loss with a total that lacks the angle loss."""
    return DetectionLoss(torch.cat((terms[:3], terms[3:] * 0)), items, *others)


@planted("OBB-SUM-1 LOSS-GAIN-1", StageName.TOTAL, "loss", "DetectionLoss")
def total_of_one_image(terms: Tensor, items: Tensor, *others: Any) -> DetectionLoss:
    """Return the loss with a total that is not multiplied by the batch size."""
    return DetectionLoss(terms / len(others[0]), items, *others)


def _without_angle(self: GroundTruths) -> Tensor:
    return self.boxes[:, :4].sum(1) > 0


def _all_real(self: GroundTruths) -> Tensor:
    return torch.ones_like(self.labels, dtype=torch.bool)


class HiddenReference(FaultyReference):
    """The reference with a planted fault, of which only the loss is visible."""

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Run the reference's loss with the fault planted, and return only its total and its items."""
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        return Loss(loss.total, loss.items)

    assign = None  # type: ignore[assignment] # an implementation without an assigner of its own


def _hidden(name: str, _: str) -> Implementation:
    return implementation_from(HiddenReference(ROTATED_FAULTS[name], exposes_stages=False), name)


def _replace(name: str, **replaces: Any) -> None:
    """Register replacements of constants and properties for the fault `name`, which has no replaced function."""
    known = ROTATED_FAULTS[name]
    stages = (*known.outputs_stages, *ASSIGNED)
    named = {key.replace("__", "."): value for key, value in replaces.items()}
    ROTATED_FAULTS[name] = Fault(name, known.clauses, known.stage, named, stages, known.check)


_replace("no_row_dropped", tal_reference__rotated__SMALLEST_SIDE=0)
_replace("rows_below_eight_pixels_dropped", tal_reference__rotated__SMALLEST_SIDE=8)
_replace("distance_clamped_early", tal_reference__rotated__FARTHEST=1)
_replace("sum_without_the_angle", tal_reference__annotations__GroundTruths__real=property(_without_angle))
_replace("every_row_is_real", tal_reference__annotations__GroundTruths__real=property(_all_real))
for _name in (
    "no_row_dropped",
    "rows_below_eight_pixels_dropped",
):  # a fault that drops other rows returns stages of another shape
    ROTATED_FAULTS[_name] = replace(ROTATED_FAULTS[_name], implementation=partial(_hidden, _name))
ROTATED_FAULTS.update({name: ENTERED[name] for name in SHARED})
