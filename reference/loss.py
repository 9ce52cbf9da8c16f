"""Stages "cls", "box", "dfl" and "total": the v8 detection loss (LOSS-*).

The article does not cover the loss; this module is written from the specification.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from tal_reference.anchors import Anchors, flatten, input_size, make_anchors
from tal_reference.annotations import GroundTruths, ground_truths
from tal_reference.assignment import Targets, assign
from tal_reference.boxes import ciou
from tal_reference.decoding import decode
from tal_reference.dialect import NEWEST, Dialect, SingleBin, WeightBroadcast
from tal_reference.settings import Head, Hyperparameters
from tal_reference.shapes import Bool, Float, Int

LAST_BIN_MARGIN = 0.01
"""Target distances are clamped this far below the last bin (in grid units), to have bins on both sides (LOSS-DFL-1)."""
NEGLIGIBLE = 40.0
"""Logits x above this value have log(1 + e^x) = x in every dtype: the difference, e^-40, is below the rounding of x."""


@dataclass(frozen=True)
class Predictions:
    """The predictions in the feature maps, flattened over levels to one row per anchor.

    Attributes:
        distances: (B, A, 4R) logits of the R bins of the distances of four sides.
        logits: (B, A, C) class logits.
        anchors: centres and strides of the A anchors.
        size: (height, width) of the input in pixels.
    """

    distances: Float[Tensor, "B A bins"]
    logits: Float[Tensor, "B A C"]
    anchors: Anchors
    size: tuple[int, int]

    @cached_property
    def boxes(self) -> Float[Tensor, "B A 4"]:
        """The decoded boxes (B, A, 4), xyxy in grid units, without gradient (DEC-*).

        The box loss decodes the positives again, with gradient. Images are decoded one by one, so that intermediate
        tensors stay small.
        """
        reg_max = self.distances.shape[2] // 4
        with torch.no_grad():
            return torch.stack([decode(image, self.anchors, reg_max) for image in self.distances])  # (B, A, 4)

    @property
    def pixels(self) -> Float[Tensor, "B A box"]:
        """The decoded boxes in pixels, without gradient, for the assignment (TAL-MET-1)."""
        return self.boxes * self.anchors.strides  # (B, A, 4)

    def at(self, positives: "Positives") -> tuple[Anchors, Float[Tensor, "P bins"]]:
        """Return the anchors of the P positives, and their distance logits (P, 4R)."""
        anchors = Anchors(self.anchors.centres[positives.anchor], self.anchors.strides[positives.anchor])
        return anchors, self.distances.mT[positives.image, :, positives.anchor]  # in memory, channels before anchors


@dataclass(frozen=True)
class Positives:
    """The P positives of a batch with their targets; the loss terms use no other targets.

    Attributes:
        image: (P,) int64 index of the image.
        anchor: (P,) int64 index of the anchor in the image.
        labels: (P,) int64 class.
        boxes: (P, 4) target box, xyxy in pixels. Rotated: (P, 5).
        weights: (P,) w, the target score of that class; every other target score of the batch is zero.
        keypoints: (P, K, 3) x and y in pixels and visibility of the ground truth's keypoints; None without keypoints.
        owners: (P,) int64 index of the ground truth in its image; None without masks.
        masks: for each image (M, h_m, w_m), the masks of its ground truths; None without masks.
    """

    image: Int[Tensor, "P"]
    anchor: Int[Tensor, "P"]
    labels: Int[Tensor, "P"]
    boxes: Float[Tensor, "P box"]
    weights: Float[Tensor, "P"]
    keypoints: Float[Tensor, "P K 3"] | None = None
    owners: Int[Tensor, "P"] | None = None
    masks: Sequence[Float[Tensor, "_ height width"]] | None = None


@dataclass(frozen=True)
class BatchTargets:
    """The targets of a whole batch, in the format of an assigner's result.

    Attributes:
        foreground: (B, A) True for positives.
        boxes: (B, A, 4) target boxes, xyxy in pixels. Rotated: (B, A, 5).
        scores: (B, A, C) target scores; at most one score of an anchor is not zero (TAL-TGT-1).
        keypoints: (B, A, K, 3) keypoints of the ground truths, as in `Positives`; None without keypoints.
        owners: (B, A) index of each positive's ground truth in its image; None without masks.
        masks: the masks of the ground truths, as in `Positives`; None without masks.
    """

    foreground: Bool[Tensor, "B A"]
    boxes: Float[Tensor, "B A box"]
    scores: Float[Tensor, "B A C"]
    keypoints: Float[Tensor, "B A K 3"] | None = None
    owners: Int[Tensor, "B A"] | None = None
    masks: Sequence[Float[Tensor, "_ height width"]] | None = None

    @property
    def positives(self) -> Positives:
        """The targets of positives only, without background anchors."""
        image, anchor = self.foreground.nonzero(as_tuple=True)  # (P,), (P,)
        scores = self.scores[image, anchor]  # (P, C)
        keypoints = None if self.keypoints is None else self.keypoints[image, anchor]  # (P, K, 3)
        owners = None if self.owners is None else self.owners[image, anchor]  # (P,)
        labels, weights, boxes = scores.argmax(1), scores.sum(1), self.boxes[image, anchor]  # (P,), (P,), (P, 4)
        return Positives(image, anchor, labels, boxes, weights, keypoints, owners, self.masks)


@dataclass(frozen=True)
class DetectionLoss:
    """The loss of a batch, with the targets and predictions that it was computed from.

    Attributes:
        terms: (3,) box, cls and dfl, times their gains and the batch size; their sum is differentiated (LOSS-GAIN-1).
            Rotated boxes have a fourth term, angle (OBB-SUM-1).
        items: the terms without the factor of the batch size, detached, for logging.
        targets: targets of the anchors of each image.
        predictions: the flattened feature maps.
    """

    terms: Float[Tensor, "terms"]
    items: Float[Tensor, "terms"]
    targets: list[Targets]
    predictions: Predictions

    @property
    def total(self) -> Float[Tensor, ""]:
        """The total loss, the sum of the terms: a scalar on which to call `backward`."""
        return self.terms.sum()


def detection_loss(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]],
    annotations: Float[Tensor, "N 6"],
    head: Head,
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
) -> DetectionLoss:
    """Return the v8 detection loss of the head's feature maps and the data loader's rows (LOSS-*).

    Args:
        feature_maps: one map (B, 4R + C, H, W) per level, all of one dtype and device (PRE-1).
        annotations: (N, 6) rows (image index, class, cx, cy, w, h), boxes normalised to the input (ANN-1).
        head: strides, classes, bins and class weights.
        hyperparameters: hyperparameters of assigner and loss.
        dialect: the choices to follow where releases differ.
        keep_trace: store every stage of the assignment in `targets[i].trace`.

    Raises:
        ValueError: the maps do not fit the head, a row names an unknown image or class, or there are fewer anchors
            than k.
    """
    predictions = read_predictions(feature_maps, head)
    reject_unknown_classes(annotations, head)
    finest = torch.promote_types(annotations.dtype, predictions.logits.dtype)  # half precision: as in the annotations
    truths = ground_truths(annotations.to(finest), len(predictions.logits), predictions.size)
    targets = assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace)
    items = loss_items(predictions, positives_of(targets), head, hyperparameters, dialect)  # (3,)
    return DetectionLoss(items * len(targets), items.detach(), targets, predictions)


def reject_unknown_classes(annotations: Float[Tensor, "N columns"], head: Head) -> None:
    """Raise ValueError if annotation rows name classes that the head does not have.

    Raises:
        ValueError: a class is below 0, or not below the head's number of classes.
    """
    foreign = annotations[(annotations[:, 1] < 0) | (annotations[:, 1] >= head.classes), 1]
    if len(foreign):
        found = sorted(set(foreign.tolist()))
        raise ValueError(f"annotation rows name classes {found}, expected indices below {head.classes}")


def read_predictions(feature_maps: Sequence[Float[Tensor, "B _ _ _"]], head: Head) -> Predictions:
    """Return the flattened feature maps with their anchors (PRE-*, ANC-1); boxes are decoded on first use."""
    distances, logits = flatten(feature_maps, head)  # (B, A, 4R), (B, A, C)
    return Predictions(distances, logits, make_anchors(feature_maps, head), input_size(feature_maps, head))


def assign_images(
    predictions: Predictions,
    truths: Sequence[GroundTruths],
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect,
    keep_trace: bool = False,
    assigner: Callable[..., Targets] | Sequence[Callable[..., Targets]] | None = None,
) -> list[Targets]:
    """Return the targets of each image (TAL-*), assigned with scores after the sigmoid and boxes in pixels.

    No gradient flows through the assignment (LOSS-GRAD-1). The default assigner is `assign`. Rotated boxes have their
    own. Masks and keypoints that take part in the assignment have one for each image.
    """
    assigners = assigner if isinstance(assigner, Sequence) else [assigner or assign] * len(truths)
    logits = predictions.logits.detach()  # (B, A, C)
    boxes = predictions.pixels  # (B, A, 4)
    centres = predictions.anchors.pixels  # (A, 2)
    return [
        assigners[i](
            logits[i].sigmoid(), boxes[i].to(image.boxes), centres, image,
            head.strides, hyperparameters, dialect, keep_trace,
        )
        for i, image in enumerate(truths)
    ]


def stacked(targets: Sequence[Targets], classes: int) -> BatchTargets:
    """Return the targets of all images of a batch, stacked along a first dimension (TAL-TGT-1)."""
    foreground = torch.stack([image.foreground for image in targets])  # (B, A)
    boxes = torch.stack([image.boxes for image in targets])  # (B, A, 4)
    labels = torch.stack([image.labels for image in targets])  # (B, A)
    weights = torch.stack([image.weights for image in targets])  # (B, A)
    scores = weights.new_zeros(*weights.shape, classes)  # (B, A, C)
    return BatchTargets(foreground, boxes, scores.scatter_(2, labels[..., None], weights[..., None]))


def positives_of(targets: Sequence[Targets]) -> Positives:
    """Return the positives of all images, in the order of images and anchors (TAL-TGT-1)."""
    image, anchor = torch.stack([each.foreground for each in targets]).nonzero(as_tuple=True)  # (P,), (P,)
    labels = torch.stack([each.labels for each in targets])[image, anchor]  # (P,)
    boxes = torch.stack([each.boxes for each in targets])[image, anchor]  # (P, 4), or (P, 5)
    weights = torch.stack([each.weights for each in targets])[image, anchor]  # (P,)
    return Positives(image, anchor, labels, boxes, weights)


def loss_items(
    predictions: Predictions,
    targets: Positives | BatchTargets,
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect = NEWEST,
) -> Float[Tensor, "3"]:
    """Return (3,) the losses box, cls and dfl times their gains, differentiable (LOSS-SUM-1, LOSS-GAIN-1).

    The logits have gradients of cls only, and the distances of box and dfl only. Without positives, box and dfl are
    empty sums: exactly zero, with gradients that exist and are zero (LOSS-GRAD-1).
    """
    positives = targets.positives if isinstance(targets, BatchTargets) else targets
    anchors, distances = predictions.at(positives)  # of the positives; (P, 4R)
    boxes = positives.boxes / anchors.strides  # (P, 4) in grid units

    box = box_loss(decode(distances, anchors, head.reg_max), boxes)  # (P,)
    side = side_loss(distances, distances_to(boxes, anchors.centres), anchors, predictions.size, dialect)  # (P,)
    box_sum, side_sum = weighted_sums((box, side), positives.weights, dialect)
    if has_no_distance_loss(head.reg_max, dialect):
        side_sum = torch.zeros_like(side_sum)  # not a term that is divided by N: also 0 where N is 0 or not finite
    cls = cls_sum(predictions.logits, positives, dialect, class_factors(head, predictions.logits))
    gains = hyperparameters.box_gain, hyperparameters.cls_gain, hyperparameters.dfl_gain
    return torch.stack([gain * term for gain, term in zip(gains, (box_sum, cls, side_sum), strict=True)])  # (3,)


def weighted_sums(
    losses: Sequence[Float[Tensor, "P"]], weights: Float[Tensor, "P"], dialect: Dialect
) -> list[Float[Tensor, ""]]:
    """Return each loss (P,) as the weighted sum over the positives, divided by the score sum N (LOSS-SUM-1).

    Without positives the sums are zero, even in dialects where N can be zero.
    """
    score_sum = weights.sum().clamp(min=dialect.score_sum_floor) if len(weights) else 1  # N
    if dialect.weights_meet is WeightBroadcast.ALL_PAIRS:
        weights = weights.sum().expand_as(weights)  # (P,)
    return [(weights * loss).sum() / score_sum for loss in losses]


def class_factors(head: Head, like: Float[Tensor, "..."]) -> Float[Tensor, "C"] | None:
    """Return (C,) the factor of each class's cross-entropy (COR-7), on the device of `like`; None without factors.

    They have the dtype of `like`, but at least float32.
    """
    if head.class_weights is None:
        return None
    return torch.tensor(
        head.class_weights, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device
    )


def cls_sum(
    logits: Float[Tensor, "B A C"],
    positives: Positives,
    dialect: Dialect,
    class_weights: Float[Tensor, "C"] | None = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of all anchors and classes, divided by the score sum N (LOSS-CLS-1, LOSS-SUM-1)."""
    weighting = () if class_weights is None else (class_weights,)
    total = cls_loss(logits, (positives.image, positives.anchor, positives.labels), positives.weights, *weighting)
    return total / positives.weights.sum().clamp(min=dialect.score_sum_floor)


def side_loss(
    distances: Float[Tensor, "P bins"],
    target: Float[Tensor, "P 4"],
    anchors: Anchors,
    size: tuple[int, int],
    dialect: Dialect,
) -> Float[Tensor, "P"]:
    """Return (P,) the mean loss of each positive's four distances: DFL, or L1 if R = 1 (LOSS-DFL-1, COR-1)."""
    reg_max = distances.shape[1] // 4
    if reg_max > 1:
        return dfl_loss(distances, target, reg_max)
    if dialect.single_bin is SingleBin.L1:
        return l1_loss(distances, target, anchors.strides, size)
    return torch.zeros_like(target[:, 0])  # (P,)


def has_no_distance_loss(reg_max: int, dialect: Dialect) -> bool:
    """Return True if a dialect has no loss of the distances for a head with R bins (LOSS-DFL-1)."""
    return reg_max == 1 and dialect.single_bin is SingleBin.NOTHING


def cls_loss(
    logits: Float[Tensor, "B A C"],
    at: tuple[Int[Tensor, "P"], ...],
    scores: Float[Tensor, "P"],
    class_weights: Float[Tensor, "C"] | None = None,
) -> Float[Tensor, ""]:
    """Return the summed binary cross-entropy of every anchor and class, background included (LOSS-CLS-1).

    With logit x and target score z the loss is log(1 + e^x) - z x: the first part needs no target, and the second part
    is zero except for P target scores.

    Args:
        logits: (B, A, C) class logits.
        at: index tensors (P,) of image, anchor and class of the target scores that may differ from zero.
        scores: (P,) target scores at these indices.
        class_weights: (C,) factor of each class (COR-7); None: 1.
    """
    image, anchor, label = at
    logits = logits.to(torch.promote_types(logits.dtype, scores.dtype))  # (B, A, C)
    learnt = logits.mT[image, label, anchor] * scores  # (P,)
    background = functional.softplus(logits, threshold=NEGLIGIBLE)  # (B, A, C)
    if class_weights is not None:
        learnt, background = learnt * class_weights[label], background * class_weights  # (P,), (B, A, C)
    return background.sum() - learnt.sum()


def box_loss(predicted: Float[Tensor, "P 4"], target: Float[Tensor, "P 4"]) -> Float[Tensor, "P"]:
    """Return (P,) 1 - CIoU of the predicted and target boxes, xyxy in grid units (LOSS-BOX-1)."""
    return 1 - ciou(target, predicted)


def distances_to(boxes: Float[Tensor, "P 4"], centres: Float[Tensor, "P 2"]) -> Float[Tensor, "P 4"]:
    """Return the distances (P, 4) from anchors to left, top, right, bottom of their target boxes (LOSS-DFL-1).

    Boxes and distances are in grid units.
    """
    left_top, right_bottom = boxes.chunk(2, dim=1)
    return torch.cat((centres - left_top, right_bottom - centres), dim=1)


def dfl_loss(
    distances: Float[Tensor, "P bins"], target: Float[Tensor, "P 4"], reg_max: int
) -> Float[Tensor, "P"]:
    """Return the cross-entropy of each side's distribution at the two bins around the target distance (LOSS-DFL-1).

    Args:
        distances: (P, 4R) distance logits.
        target: (P, 4) target distances in grid units; they are clamped to [0, R - 1 - 0.01].
        reg_max: number of bins R, at least 2.
    """
    log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)  # (P, 4, R)
    clamped = target.clamp(0, reg_max - 1 - LAST_BIN_MARGIN)  # (P, 4)
    lower = clamped.floor()  # (P, 4)
    upper_share = clamped - lower  # (P, 4): the nearer the upper bin, the larger its share
    at = lower.long()[..., None]  # (P, 4, 1)
    below, above = (log_probability.gather(-1, at + step).squeeze(-1) for step in (0, 1))  # (P, 4) twice
    return -((1 - upper_share) * below + upper_share * above).mean(1)  # (P,)


def l1_loss(
    distances: Float[Tensor, "P 4"], target: Float[Tensor, "P 4"], strides: Float[Tensor, "P 1"], size: tuple[int, int]
) -> Float[Tensor, "P"]:
    """Return (P,) the mean absolute error of the distances as shares of the input's size (LOSS-DFL-1, R = 1)."""
    height, width = size
    share = strides / strides.new_tensor((width, height, width, height))  # (P, 4)
    return ((distances - target) * share).abs().mean(1)  # (P,)
