"""Assigner and loss of any dialect: `assignment` and `loss` for official ones, `varied_*` for all others.

Users of the reference call these functions. For an official dialect, a function here calls the function of the same
name in `assignment`, `annotations` or `loss`.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tal_reference import annotations as official_annotations
from tal_reference import assignment, loss, varied_assignment, varied_loss
from tal_reference.annotations import GroundTruths
from tal_reference.assignment import Targets
from tal_reference.dialect import NEWEST, Dialect
from tal_reference.loss import (
    LAST_BIN_MARGIN,
    BatchTargets,
    DetectionLoss,
    Positives,
    Predictions,
    positives_of,
    read_predictions,
    reject_unknown_classes,
)
from tal_reference.settings import Head, Hyperparameters
from tal_reference.shapes import Float
from tal_reference.varied_assignment import radius_of


def ground_truths(
    annotations: Float[Tensor, "N 6"], images: int, size: tuple[int, int], dialect: Dialect = NEWEST
) -> list[GroundTruths]:
    """Return the ground truths of each image, from rows in the dialect's format; see `annotations`.

    Raises:
        ValueError: a row names an image outside the batch.
    """
    if not dialect.is_varied:
        return official_annotations.ground_truths(annotations, images, size)
    return varied_assignment.ground_truths(annotations, images, size, dialect)


def assign(
    scores: Float[Tensor, "A C"],
    boxes: Float[Tensor, "A 4"],
    centres: Float[Tensor, "A 2"],
    truths: GroundTruths,
    strides: tuple[int, ...],
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
    reach: Float[Tensor, "A 1"] | None = None,
    radius: Float[Tensor, "A 1"] | None = None,
) -> Targets:
    """Assign the ground truths of one image to its anchors, as `assignment.assign` does, in any dialect.

    Args:
        scores: (A, C) predicted class scores, after the sigmoid.
        boxes: (A, 4) predicted boxes, xyxy in pixels.
        centres: (A, 2) anchor centres in pixels.
        truths: the image's ground truths, boxes in pixels.
        strides: the head's strides in pixels, for TAL-CAND-2.
        hyperparameters: k, alpha, beta and topk2.
        dialect: the choices to follow.
        keep_trace: store every stage's values in `trace`.
        reach: (A, 1) largest distance in pixels of a candidate to a side; None: unlimited. See `reach_of`.
        radius: (A, 1) distance in pixels from a ground truth's centre that a candidate is below; None: unlimited.
            See `radius_of`.

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2), or the dialect does not support the head or topk2.
    """
    numbers = scores, boxes, centres, truths, strides, hyperparameters, dialect, keep_trace
    return varied_assignment.assign(*numbers, reach, radius) if dialect.is_varied else assignment.assign(*numbers)


def reach_of(strides: Float[Tensor, "A 1"], reg_max: int) -> Float[Tensor, "A 1"] | None:
    """Return (A, 1) the largest distance in pixels that bins can represent (LOSS-DFL-1); None, no limit, if R = 1."""
    return strides * (reg_max - 1 - LAST_BIN_MARGIN) if reg_max > 1 else None


def assign_images(
    predictions: Predictions,
    truths: Sequence[GroundTruths],
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect,
    keep_trace: bool = False,
) -> list[Targets]:
    """Return the targets of each image with the dialect's choices; see `loss.assign_images`."""
    if not dialect.is_varied:
        return loss.assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace)
    strides = predictions.anchors.strides
    reach, radius = reach_of(strides, head.reg_max), radius_of(strides, dialect)
    assigner = partial(varied_assignment.assign, reach=reach, radius=radius)
    return loss.assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace, assigner)


def loss_items(
    predictions: Predictions,
    targets: Positives | BatchTargets,
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect = NEWEST,
) -> Float[Tensor, "3"]:
    """Return the losses box, cls and dfl times their gains, with the dialect's choices; see `loss.loss_items`."""
    items = varied_loss.loss_items if dialect.is_varied else loss.loss_items
    return items(predictions, targets, head, hyperparameters, dialect)


def total_factor(images: int, dialect: Dialect) -> int:
    """Return the factor by which the sum of the items is multiplied before differentiation (LOSS-GAIN-1)."""
    return images if dialect.total_times_images else 1


def detection_loss(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]],
    annotations: Float[Tensor, "N 6"],
    head: Head,
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
) -> DetectionLoss:
    """Return the v8 detection loss with the dialect's choices; see `loss.detection_loss`.

    Raises:
        ValueError: the maps do not fit the head, a row names an unknown image or class, or there are fewer anchors
            than k.
    """
    if not dialect.is_varied:
        return loss.detection_loss(
            feature_maps, annotations, head, hyperparameters, dialect, keep_trace
        )
    predictions = read_predictions(feature_maps, head)
    reject_unknown_classes(annotations, head)
    finest = torch.promote_types(annotations.dtype, predictions.logits.dtype)
    truths = ground_truths(annotations.to(finest), len(predictions.logits), predictions.size, dialect)
    targets = assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace)
    items = loss_items(predictions, positives_of(targets), head, hyperparameters, dialect)  # (3,)
    return DetectionLoss(items * total_factor(len(targets), dialect), items.detach(), targets, predictions)
