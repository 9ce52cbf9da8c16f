"""Rotated boxes: the differences from the detection loss (OBB-*).

A rotated box is (cx, cy, w, h, angle): centre, sides, and the angle in radians by which the sides are turned, clockwise
on the screen since y points down. Read `loss` and `assignment` first. Functions of this module replace theirs:

    rotated_truths       replaces  ground_truths    rows have an angle, and boxes with a tiny side are dropped
    decode_rotated       replaces  decode           the four distances are measured along turned axes
    probiou              replaces  ciou             overlap of two Gaussians in place of two rectangles
    candidates_of        replaces  candidates_of    centres are tested in the box's own frame, edges included
    distances_in_frame   replaces  distances_to     target distances along the target's axes
    angle_loss           is new                     the fourth term of the loss

Everything else is shared: top-k, conflict, normalisation and targets, the terms cls and dfl, weights, N and gains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tal_reference.anchors import Anchors, flatten, input_size, make_anchors
from tal_reference.annotations import GroundTruths, image_indices
from tal_reference.assignment import Targets, assign_candidates, background, reject_unsupported, scatter_pairs
from tal_reference.decoding import expected_distances
from tal_reference.dialect import NEWEST, Dialect
from tal_reference.loss import (
    BatchTargets,
    DetectionLoss,
    Positives,
    Predictions,
    assign_images,
    class_factors,
    cls_sum,
    positives_of,
    reject_unknown_classes,
    side_loss,
    weighted_sums,
)
from tal_reference.settings import Head, Hyperparameters
from tal_reference.shapes import Bool, Float

SMALLEST_SIDE = 2
"""Ground truths with a side shorter than this number of pixels are dropped (OBB-ANN-2)."""
EPS = 1e-7
"""Keeps quotient, logarithm and root of OBB-IOU-1 finite; the overlap of equal boxes is 1 - sqrt(2 EPS)."""
FARTHEST = 100
"""Bhattacharyya distance at which OBB-IOU-1 is clamped: boxes farther apart have no gradient (OBB-IOU-2)."""
SIDE_EPS = 1e-9
"""Added to the sides whose ratio weights the angle loss (OBB-ANG-1)."""
ELONGATION_SCALE = 3
"""Logarithm of the ratio of the sides at which the weight of the angle loss is 1/e (OBB-ANG-1)."""


@dataclass(frozen=True)
class RotatedPredictions(Predictions):
    """The predictions in the feature maps, one row per anchor: four distances, class logits and an angle.

    Attributes:
        angles: (B, A, 1) angles in radians.
    """

    angles: Float[Tensor, "B A 1"]

    @cached_property
    def boxes(self) -> Float[Tensor, "B A 5"]:
        """The decoded boxes (B, A, 5) in grid units, without gradient (OBB-DEC-2); the loss decodes positives again."""
        with torch.no_grad():
            return torch.stack(
                [
                    decode_rotated(distances, angles, self.anchors)
                    for distances, angles in zip(self.distances, self.angles, strict=True)
                ]
            )  # (B, A, 5)

    @property
    def pixels(self) -> Float[Tensor, "B A 5"]:
        """The decoded boxes (B, A, 5) in pixels, without gradient, for the assignment (OBB-MET-1)."""
        return scaled(self.boxes, self.anchors.strides)  # (B, A, 5)


def rotated_loss(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]],
    annotations: Float[Tensor, "N 7"],
    head: Head,
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
) -> DetectionLoss:
    """Return the loss of rotated boxes: terms box, cls, dfl (L1 where R = 1) and angle (OBB-SUM-1).

    Args:
        feature_maps: one map (B, 4R + C + 1, H, W) per level, the angle last, all of one dtype and device (OBB-DEC-1).
        annotations: (N, 7) rows (image index, class, cx, cy, w, h, angle) (OBB-ANN-1).
        head: strides, classes, bins and class weights.
        hyperparameters: hyperparameters of assigner and loss.
        dialect: the choices to follow where releases differ.
        keep_trace: store every stage of the assignment in `targets[i].trace`.

    Raises:
        ValueError: the maps do not fit the head, a row names an unknown image or class, or there are fewer anchors
            than k.
    """
    predictions = read_rotated(feature_maps, head)
    reject_unknown_classes(annotations, head)
    finest = torch.promote_types(annotations.dtype, predictions.logits.dtype)
    images, floor = len(predictions.logits), dialect.floor(head.strides)
    truths = rotated_truths(annotations.to(finest), images, predictions.size, dialect, floor)
    targets = assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace, assign_rotated)
    factors = class_factors(head, predictions.logits)  # (C,)
    items = rotated_items(predictions, positives_of(targets), hyperparameters, dialect, factors)  # (4,)
    return DetectionLoss(items * len(targets), items.detach(), targets, predictions)


# --- annotations and predictions


def rotated_truths(
    annotations: Float[Tensor, "N 7"],
    images: int,
    size: tuple[int, int],
    dialect: Dialect = NEWEST,
    floor: tuple[int, int] = (0, 0),
) -> list[GroundTruths]:
    """Return the ground truths of each image, boxes (M, 5) in pixels and radians, in the order of the rows.

    Sides are normalised as if the box were not turned: w by the input's width and h by its height, for every angle
    (OBB-ANN-1). `GroundTruths.real` then adds pixels and radians: x + y + w + h + angle > 0 (OBB-ANN-3).

    Args:
        annotations: (N, 7) rows (image index, class, cx, cy, w, h, angle), the four before the angle normalised.
        images: number of images B in the batch.
        size: (height, width) of the input in pixels (PRE-2).
        dialect: the choices to follow where releases differ.
        floor: sides below the first number are widened to the second, both in pixels, in a dialect that replaces small
            ground truths by widened ones (OBB-CAND-1).

    Raises:
        ValueError: a row names an image outside the batch.
    """
    height, width = size
    image = image_indices(annotations, images)  # (N,)
    boxes = annotations[:, 2:] * annotations.new_tensor((width, height, width, height, 1))  # (N, 5)
    scale = torch.tensor((width, height), device=annotations.device)  # (2,)
    normalised = annotations[:, 4:6].float()  # (N, 2) compared with limits in float32
    filtered = normalised * (scale.flip(0) if dialect.filter_exchanged else scale)  # (N, 2)
    large = (filtered >= SMALLEST_SIDE).all(1)  # (N,) OBB-ANN-2: other rows do not exist
    if dialect.widened_truths:
        keeps = (normalised * scale >= floor[0]) | (boxes.sum(1, keepdim=True) <= 0)  # (N, 2) OBB-ANN-3
        sides = boxes[:, 2:4].where(keeps, float(floor[1]))  # (N, 2)
        boxes = torch.cat((boxes[:, :2], sides, boxes[:, 4:]), dim=1)  # (N, 5)
    labels = annotations[:, 1].long()  # (N,)
    return [GroundTruths(labels[large & (image == i)], boxes[large & (image == i)]) for i in range(images)]


def read_rotated(feature_maps: Sequence[Float[Tensor, "B _ _ _"]], head: Head) -> RotatedPredictions:
    """Return the flattened feature maps, whose last channel is the angle, with anchors (OBB-DEC-1, PRE-*, ANC-1).

    Raises:
        ValueError: the number of maps or channels does not fit the head, or the maps differ in number of images or
            dtype.
    """
    wrong = [tuple(level.shape) for level in feature_maps if level.shape[1] != head.channels + 1]
    if wrong:
        expected = f"4R + C + 1 = {head.channels + 1} channels"
        raise ValueError(f"feature maps have the shapes {wrong}; the head has {expected}")
    distances, logits = flatten([level[:, :-1] for level in feature_maps], head)  # (B, A, 4R), (B, A, C)
    angles = torch.cat([level[:, -1:].flatten(2) for level in feature_maps], dim=2).mT  # (B, A, 1)
    anchors, size = make_anchors(feature_maps, head), input_size(feature_maps, head)
    return RotatedPredictions(distances, logits, anchors, size, angles)


def decode_rotated(
    distances: Float[Tensor, "*rows bins"], angles: Float[Tensor, "*rows 1"], anchors: Anchors
) -> Float[Tensor, "*rows 5"]:
    """Return the box of every anchor, in grid units of its level (OBB-DEC-2).

    The four distances lead from the anchor to the sides along the box's own axes. The centre lies off the anchor by
    half the difference of opposite distances, so that it turns with the box, and its gradient reaches the angle.
    """
    left_top, right_bottom = expected_distances(distances, distances.shape[-1] // 4).chunk(2, dim=-1)  # (.., 2) each
    centres = anchors.centres + from_own_frame((right_bottom - left_top) / 2, angles)  # (.., 2)
    return torch.cat((centres, left_top + right_bottom, angles), dim=-1)  # (.., 5)


def scaled(boxes: Float[Tensor, "*rows 5"], factor: Float[Tensor, "A 1"]) -> Float[Tensor, "*rows 5"]:
    """Return boxes with centre and sides multiplied by a factor, and the same angle (OBB-DEC-2)."""
    return torch.cat((boxes[..., :4] * factor, boxes[..., 4:]), dim=-1)  # (.., 5)


def to_own_frame(offset: Float[Tensor, "*#rows 2"], angles: Float[Tensor, "*#rows 1"]) -> Float[Tensor, "*#rows 2"]:
    """Rotate vectors (.., 2) from image axes to the axes of rotated boxes: Rot(angle)^T offset."""
    return from_own_frame(offset, -angles)


def from_own_frame(offset: Float[Tensor, "*#rows 2"], angles: Float[Tensor, "*#rows 1"]) -> Float[Tensor, "*#rows 2"]:
    """Rotate vectors (.., 2) from the axes of rotated boxes to image axes: Rot(angle) offset."""
    x, y = offset.chunk(2, dim=-1)  # (.., 1) each
    cos, sin = angles.cos(), angles.sin()  # (.., 1) each
    return torch.cat((x * cos - y * sin, x * sin + y * cos), dim=-1)  # (.., 2)


# --- overlap


def covariance(
    boxes: Float[Tensor, "*pairs 5"], variance: float
) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
    """Return the covariance entries xx, yy and xy of the Gaussian with a box's centre and axes (OBB-IOU-1).

    Along each axis the variance is that of a uniform distribution over the side, side^2 / 12, so that the sign of a
    side has no effect (OBB-IOU-2); `variance` is added along both axes.
    """
    _, _, w, h, angle = boxes.unbind(-1)
    along, across = w.square() / 12 + variance, h.square() / 12 + variance
    cos, sin = angle.cos(), angle.sin()
    return (
        along * cos.square() + across * sin.square(),
        along * sin.square() + across * cos.square(),
        (along - across) * cos * sin,
    )


def probiou(
    first: Float[Tensor, "*#pairs 5"], second: Float[Tensor, "*#pairs 5"], variance: float = 0.0
) -> Float[Tensor, "*#pairs"]:
    """Return the probabilistic IoU: 1 minus the Hellinger distance of two Gaussians (Llerena et al., 2021; OBB-IOU-1).

    Values lie between just below 0 (far apart) and 1 - sqrt(2e) (equal). The Bhattacharyya distance is clamped, so the
    gradient is zero at both ends (OBB-IOU-2).

    Args:
        first: (.., 5) boxes, which broadcast against `second`; exchanging the two does not change the result.
        second: (.., 5) boxes in the same units.
        variance: the number F in OBB-IOU-1, added to the variances of both boxes along both axes.
    """
    (xx1, yy1, xy1), (xx2, yy2, xy2) = covariance(first, variance), covariance(second, variance)
    xx, yy, xy = xx1 + xx2, yy1 + yy2, xy1 + xy2  # S
    dx, dy = (first - second)[..., :2].unbind(-1)  # d
    own1, own2 = (xx1 * yy1 - xy1.square()).clamp(min=0), (xx2 * yy2 - xy2.square()).clamp(min=0)
    together = xx * yy - xy.square()  # D
    apart = (yy * dx.square() + xx * dy.square() - 2 * xy * dx * dy) / (4 * (together + EPS))
    differing = (together / (4 * (own1 * own2).sqrt() + EPS) + EPS).log() / 2
    distance = (apart + differing).clamp(EPS, FARTHEST)  # B, the Bhattacharyya distance
    return 1 - (1 - (-distance).exp() + EPS).sqrt()


# --- assignment


@torch.no_grad()
def assign_rotated(
    scores: Float[Tensor, "A C"],
    boxes: Float[Tensor, "A 5"],
    centres: Float[Tensor, "A 2"],
    truths: GroundTruths,
    strides: tuple[int, ...],
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
) -> Targets:
    """Return the targets of the anchors of one image with rotated boxes (OBB-CAND-1, OBB-MET-1).

    Arguments and errors are the same as for `assign`, with boxes (A, 5) in pixels and radians.
    """
    if not len(truths):
        return background(truths, len(centres))  # TAL-EMPTY-1
    reject_unsupported(strides, hyperparameters, dialect)
    candidates = candidates_of(truths, centres, dialect.floor(strides))  # (M, A)
    overlap = overlaps_of(truths.boxes, boxes, candidates)  # (M, A)
    return assign_candidates(scores, truths, candidates, candidates, overlap, hyperparameters, keep_trace)


def candidates_of(
    truths: GroundTruths, centres: Float[Tensor, "A 2"], floor: tuple[int, int]
) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: True if the anchor's centre lies in a real ground truth or on its edge (OBB-CAND-1).

    Args:
        truths: ground truths, boxes (M, 5) in pixels and radians.
        centres: (A, 2) anchor centres in pixels.
        floor: sides below the first number are widened to the second, both in pixels (TAL-CAND-2).
    """
    box = widened(truths.boxes, floor)[:, None]  # (M, 1, 5)
    offset = to_own_frame(centres - box[..., :2], box[..., 4:])  # (M, A, 2)
    return (offset.abs() <= box[..., 2:4] / 2).all(-1) & truths.real[:, None]  # (M, A)


def widened(boxes: Float[Tensor, "M 5"], floor: tuple[int, int]) -> Float[Tensor, "M 5"]:
    """Return boxes whose sides below `floor[0]` pixels are widened to `floor[1]` (OBB-CAND-1, TAL-CAND-2)."""
    below, to = floor
    centre, sides, angle = boxes.split((2, 2, 1), dim=1)
    return torch.cat((centre, torch.where(sides < below, float(to), sides), angle), dim=1)  # (M, 5)


def overlaps_of(
    truths: Float[Tensor, "M 5"], boxes: Float[Tensor, "A 5"], candidates: Bool[Tensor, "M A"]
) -> Float[Tensor, "M A"]:
    """Return (M, A) overlap u: probIoU of ground truth (not widened) and prediction; 0 off candidates (OBB-MET-1)."""
    truth, anchor = pairs = candidates.nonzero(as_tuple=True)  # (P,), (P,)
    return scatter_pairs(probiou(truths[truth], boxes[anchor]).clamp(min=0), pairs, candidates)  # (M, A)


# --- loss


def rotated_items(
    predictions: RotatedPredictions,
    targets: Positives | BatchTargets,
    hyperparameters: Hyperparameters,
    dialect: Dialect = NEWEST,
    class_weights: Float[Tensor, "C"] | None = None,
) -> Float[Tensor, "4"]:
    """Return (4,) the losses box, cls, dfl and angle times their gains, differentiable (OBB-SUM-1).

    The logits have gradients of cls only, the distances of box and dfl, the angles of box and angle. Without positives
    all gradients except those of cls exist and are zero.
    """
    positives = targets.positives if isinstance(targets, BatchTargets) else targets
    anchors, distances = predictions.at(positives)  # of the positives; (P, 4R)
    angles = predictions.angles[positives.image, positives.anchor]  # (P, 1)
    boxes = scaled(positives.boxes, 1 / anchors.strides)  # (P, 5) in grid units

    box = box_loss(decode_rotated(distances, angles, anchors), boxes, dialect.box_variance)  # (P,)
    framed = boxes if dialect.turned_distances else upright(boxes)  # (P, 5)
    side = side_loss(distances, distances_in_frame(framed, anchors.centres), anchors, predictions.size, dialect)  # (P,)
    angle = angle_loss(angles.squeeze(1), boxes) * dialect.angle_term  # (P,)
    box_sum, side_sum, angle_sum = weighted_sums((box, side, angle), positives.weights, dialect)
    cls = cls_sum(predictions.logits, positives, dialect, class_weights)  # OBB-CLS-1
    numbers = hyperparameters
    gains = numbers.box_gain, numbers.cls_gain, numbers.dfl_gain, numbers.angle_gain
    sums = box_sum, cls, side_sum, angle_sum
    return torch.stack([gain * term for gain, term in zip(gains, sums, strict=True)])  # (4,)


def box_loss(
    predicted: Float[Tensor, "P 5"], target: Float[Tensor, "P 5"], variance: float = NEWEST.box_variance
) -> Float[Tensor, "P"]:
    """Return (P,) 1 - probIoU of the predicted and target boxes, in grid units (OBB-BOX-1).

    The variance, in squared grid units, is added to both sides of both boxes.
    """
    return 1 - probiou(predicted, target, variance)


def upright(boxes: Float[Tensor, "P 5"]) -> Float[Tensor, "P 5"]:
    """Return boxes with an angle of zero: the frame of target distances before 8.4.0 (OBB-DFL-1)."""
    return boxes * boxes.new_tensor((1, 1, 1, 1, 0))  # (P, 5)


def distances_in_frame(boxes: Float[Tensor, "P 5"], centres: Float[Tensor, "P 2"]) -> Float[Tensor, "P 4"]:
    """Return the distances from each anchor to the left, top, right and bottom side of its target (OBB-DFL-1).

    Distances are measured along the axes of the target, not of the predicted box. If R = 1, left and right are compared
    as shares of the input's width, and top and bottom as shares of its height, for every angle.
    """
    offset, half = to_own_frame(boxes[:, :2] - centres, boxes[:, 4:]), boxes[:, 2:4] / 2  # (P, 2), (P, 2)
    return torch.cat((half - offset, half + offset), dim=1)  # (P, 4)


def angle_loss(angles: Float[Tensor, "P"], target: Float[Tensor, "P 5"]) -> Float[Tensor, "P"]:
    """Return (P,) sin^2 of twice the difference of the angles, weighted by the target's shape (OBB-ANG-1).

    The loss of a difference of 90 degrees is zero for every shape. The weight is exp(-(ln(w / h) / 3)^2): 1 for
    squares, and less for elongated targets.
    """
    _, _, w, h, target_angle = target.unbind(1)
    elongation = ((w + SIDE_EPS) / (h + SIDE_EPS)).log() / ELONGATION_SCALE  # (P,)
    return (-elongation.square()).exp() * (2 * (angles - target_angle)).sin().square()  # (P,)
