"""Stages "cls", "box", "dfl" and "total": the v8 detection loss (LOSS-*).

The article announces this part and leaves it out; it is written from the specification.
"""

from collections.abc import Sequence
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
"""Grid units by which a target distance stays below the last bin, so that it has a bin on either side (LOSS-DFL-1)."""
NEGLIGIBLE = 40.0
"""Logit x from which log(1 + e^x) is x in every dtype: what is left out, e^-40, is less than a rounding of x."""


@dataclass(frozen=True)
class Predictions:
    """The feature maps as the loss reads them.

    Attributes:
        distances: (B, A, 4R) logits of the sides' distances.
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
        """The decoded boxes, xyxy in grid units (DEC-*); no gradient, the box loss decodes its positives again.

        Image by image: what is needed in between stays small.
        """
        reg_max = self.distances.shape[2] // 4
        with torch.no_grad():
            return torch.stack([decode(image, self.anchors, reg_max) for image in self.distances])  # (B, A, 4)


@dataclass(frozen=True)
class Positives:
    """The P positives of a batch and what they must learn: all that the loss terms read of the targets.

    Attributes:
        image, anchor: (P,) int64 where they are.
        labels: (P,) int64 class.
        boxes: (P, 4) target box, xyxy in pixels.
        weights: (P,) target score of that class, w; every other target score of the batch is zero.
    """

    image: Int[Tensor, "P"]
    anchor: Int[Tensor, "P"]
    labels: Int[Tensor, "P"]
    boxes: Float[Tensor, "P 4"]
    weights: Float[Tensor, "P"]


@dataclass(frozen=True)
class BatchTargets:
    """The targets of a batch's images, stacked: what an assigner returns.

    Attributes:
        foreground: (B, A) the anchor is a positive.
        boxes: (B, A, 4) target boxes, xyxy in pixels.
        scores: (B, A, C) target scores, of which one in a row may be other than zero (TAL-TGT-1).
    """

    foreground: Bool[Tensor, "B A"]
    boxes: Float[Tensor, "B A 4"]
    scores: Float[Tensor, "B A C"]

    @property
    def positives(self) -> Positives:
        """The same without the background."""
        image, anchor = self.foreground.nonzero(as_tuple=True)  # (P,), (P,)
        scores = self.scores[image, anchor]  # (P, C)
        return Positives(image, anchor, scores.argmax(1), self.boxes[image, anchor], scores.sum(1))


@dataclass(frozen=True)
class DetectionLoss:
    """The loss of a batch, and what led to it.

    Attributes:
        terms: (3,) box, cls and dfl, times their gains and the batch size: what is differentiated (LOSS-GAIN-1).
        items: (3,) the same without the batch size, detached: what is logged.
        targets: per image, what each anchor had to learn.
        predictions: the feature maps as the loss read them.
    """

    terms: Float[Tensor, "3"]
    items: Float[Tensor, "3"]
    targets: list[Targets]
    predictions: Predictions

    @property
    def total(self) -> Float[Tensor, ""]:
        """The number to call `backward` on."""
        return self.terms.sum()


def detection_loss(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]],
    annotations: Float[Tensor, "N 6"],
    head: Head,
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
) -> DetectionLoss:
    """The v8 detection loss, from the head's feature maps and the data loader's rows (LOSS-*).

    Args:
        feature_maps: one (B, 4R + C, H, W) map a level, all of one dtype and device (PRE-1).
        annotations: (N, 6) rows (image index, class, cx, cy, w, h), boxes normalised to the input (ANN-1).
        head: strides, classes and bins.
        hyperparameters: of assigner and loss.
        dialect: whose choices to follow where releases differ.
        keep_trace: keep every stage of the assignment in `targets[i].trace`.

    Raises:
        ValueError: maps that are not the head's, rows of other images or classes, fewer anchors than k.
    """
    predictions = read_predictions(feature_maps, head)
    foreign = annotations[(annotations[:, 1] < 0) | (annotations[:, 1] >= head.classes), 1]
    if len(foreign):
        raise ValueError(f"annotation rows name classes {sorted(set(foreign.tolist()))} of a head with {head.classes}")
    finest = torch.promote_types(annotations.dtype, predictions.logits.dtype)  # half precision: as in the annotations
    truths = ground_truths(annotations.to(finest), len(predictions.logits), predictions.size)
    targets = assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace)
    items = loss_items(predictions, positives_of(targets), head, hyperparameters, dialect)  # (3,)
    return DetectionLoss(items * len(targets), items.detach(), targets, predictions)


def read_predictions(feature_maps: Sequence[Float[Tensor, "B _ _ _"]], head: Head) -> Predictions:
    """Flatten the feature maps and place the anchors (PRE-*, ANC-1); boxes are decoded when they are asked for."""
    distances, logits = flatten(feature_maps, head)  # (B, A, 4R), (B, A, C)
    return Predictions(distances, logits, make_anchors(feature_maps, head), input_size(feature_maps, head))


def assign_images(
    predictions: Predictions,
    truths: Sequence[GroundTruths],
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect,
    keep_trace: bool = False,
) -> list[Targets]:
    """Assign image by image (TAL-*): scores after the sigmoid, boxes in pixels; no gradient flows (LOSS-GRAD-1)."""
    logits = predictions.logits.detach()  # (B, A, C)
    boxes = predictions.boxes * predictions.anchors.strides  # (B, A, 4)
    centres = predictions.anchors.pixels  # (A, 2)
    return [
        assign(
            logits[i].sigmoid(), boxes[i].to(image.boxes), centres, image,
            head.strides, hyperparameters, dialect, keep_trace,
        )
        for i, image in enumerate(truths)
    ]


def stacked(targets: Sequence[Targets], classes: int) -> BatchTargets:
    """One batch of the images' targets (TAL-TGT-1)."""
    foreground = torch.stack([image.foreground for image in targets])  # (B, A)
    boxes = torch.stack([image.boxes for image in targets])  # (B, A, 4)
    positives = positives_of(targets)
    scores = positives.weights.new_zeros(*foreground.shape, classes)  # (B, A, C)
    scores[positives.image, positives.anchor, positives.labels] = positives.weights
    return BatchTargets(foreground, boxes, scores)


def positives_of(targets: Sequence[Targets]) -> Positives:
    """The positives of all images, in the order of images and anchors (TAL-TGT-1)."""
    image, anchor = torch.stack([each.foreground for each in targets]).nonzero(as_tuple=True)  # (P,), (P,)
    labels = torch.stack([each.labels for each in targets])[image, anchor]  # (P,)
    boxes = torch.stack([each.boxes for each in targets])[image, anchor]  # (P, 4)
    weights = torch.stack([each.weights for each in targets])[image, anchor]  # (P,)
    return Positives(image, anchor, labels, boxes, weights)


def loss_items(
    predictions: Predictions,
    targets: Positives | BatchTargets,
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect = NEWEST,
) -> Float[Tensor, "3"]:
    """box, cls and dfl times their gains, differentiable (LOSS-SUM-1, LOSS-GAIN-1).

    Gradients reach the logits through cls alone and the distances through box and dfl alone; without positives those
    two are sums over nothing: exactly zero, with gradients that exist and are zero (LOSS-GRAD-1).
    """
    positives = targets.positives if isinstance(targets, BatchTargets) else targets
    image, anchor, weights = positives.image, positives.anchor, positives.weights  # (P,) each
    score_sum = weights.sum().clamp(min=dialect.score_sum_floor)  # N, LOSS-SUM-1
    anchors = Anchors(predictions.anchors.centres[anchor], predictions.anchors.strides[anchor])  # of the positives
    boxes = positives.boxes / anchors.strides  # (P, 4) in grid units
    distances = predictions.distances.mT[image, :, anchor]  # (P, 4R): in memory, channels stand before anchors

    box = box_loss(decode(distances, anchors, head.reg_max), boxes)  # (P,)
    if head.reg_max > 1:
        side = dfl_loss(distances, distances_to(boxes, anchors.centres), head.reg_max)  # (P,)
    elif dialect.single_bin is SingleBin.L1:
        side = l1_loss(distances, distances_to(boxes, anchors.centres), anchors.strides, predictions.size)  # (P,)
    else:
        side = torch.zeros_like(box)  # (P,)
    cls = cls_loss(predictions.logits, (image, anchor, positives.labels), weights) / score_sum
    if dialect.weights_meet is WeightBroadcast.ALL:
        weights = weights.sum().expand_as(weights)  # (P,)
    of_positives = score_sum if len(weights) else 1  # without positives box and dfl are zero, also where N is
    terms = (weights * box).sum() / of_positives, cls, (weights * side).sum() / of_positives
    gains = hyperparameters.box_gain, hyperparameters.cls_gain, hyperparameters.dfl_gain
    return torch.stack([gain * term for gain, term in zip(gains, terms, strict=True)])  # (3,)


def cls_loss(
    logits: Float[Tensor, "B A C"], at: tuple[Int[Tensor, "P"], ...], scores: Float[Tensor, "P"]
) -> Float[Tensor, ""]:
    """LOSS-CLS-1: binary cross-entropy of every anchor and class, background included, summed.

    With x the logit and z the target score it is log(1 + e^x) - z x: the first part needs no target, and the second
    is zero but for the P target scores that are not.

    Args:
        logits: (B, A, C).
        at: image, anchor and class of each target score that may be other than zero.
        scores: (P,) those target scores.
    """
    image, anchor, label = at
    logits = logits.to(torch.promote_types(logits.dtype, scores.dtype))  # (B, A, C)
    learnt = (logits.mT[image, label, anchor] * scores).sum()
    return functional.softplus(logits, threshold=NEGLIGIBLE).sum() - learnt


def box_loss(predicted: Float[Tensor, "P 4"], target: Float[Tensor, "P 4"]) -> Float[Tensor, "P"]:
    """LOSS-BOX-1: 1 - CIoU of each positive; both boxes xyxy in grid units."""
    return 1 - ciou(target, predicted)


def distances_to(boxes: Float[Tensor, "P 4"], centres: Float[Tensor, "P 2"]) -> Float[Tensor, "P 4"]:
    """LOSS-DFL-1: left, top, right and bottom distance from an anchor to the sides of its target box, in grid units."""
    left_top, right_bottom = boxes.chunk(2, dim=1)
    return torch.cat((centres - left_top, right_bottom - centres), dim=1)


def dfl_loss(
    distances: Float[Tensor, "P bins"], target: Float[Tensor, "P 4"], reg_max: int
) -> Float[Tensor, "P"]:
    """LOSS-DFL-1: pull each side's distribution to the two bins around its target distance.

    Args:
        distances: (P, 4R) logits.
        target: (P, 4) target distances in grid units; clamped to [0, R - 1 - 0.01].
        reg_max: R, at least 2.
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
    """LOSS-DFL-1 where R = 1: absolute error of the four distances as shares of the input's width and height."""
    height, width = size
    share = strides / strides.new_tensor((width, height, width, height))  # (P, 4)
    return ((distances - target) * share).abs().mean(1)  # (P,)
