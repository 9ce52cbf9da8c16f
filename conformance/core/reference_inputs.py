"""Decode a batch with the reference: predictions, ground truths in pixels, and the inputs of an assigner.

No other module decodes predictions or converts annotations. `judgement.expectation.Expectation` caches the results
for one judged batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26
from tal_reference import (
    NEWEST,
    DetectionLoss,
    Dialect,
    GroundTruths,
    Head,
    Predictions,
    Targets,
    detection_loss,
    ground_truths,
    keypoints,
    masks,
    pose_loss,
    rotated,
    rotated_loss,
    segmentation_loss,
)
from tal_reference.loss import assign_images, read_predictions


def _detection_truths(
    annotations: Tensor, images: int, size: tuple[int, int], dialect: Dialect = NEWEST
) -> list[GroundTruths]:
    return ground_truths(annotations, images, size, dialect)  # a planted fault may replace it


def _rotated_predictions(feature_maps: Sequence[Tensor], head: Head) -> Predictions:
    return rotated.read_rotated(feature_maps, head)


def _predictions_of_first_branch(feature_maps: Sequence[Tensor], head: Head) -> Predictions:
    return read_predictions(feature_maps[: len(head.strides)], head)


def _truths_of_boxes(
    annotations: Tensor, images: int, size: tuple[int, int], dialect: Dialect = NEWEST
) -> list[GroundTruths]:
    return ground_truths(annotations[:, : DETECT.annotation_columns], images, size, dialect)


def _keypoint_predictions(feature_maps: Sequence[Tensor], head: Head) -> Predictions:
    return keypoints.read_keypoints(feature_maps, head)  # a planted fault may replace it


def _mask_predictions(feature_maps: Sequence[Tensor], head: Head) -> Predictions:
    *levels, prototypes = feature_maps
    return masks.read_masks(levels, prototypes, None, head)  # a planted fault may replace it


PREDICTIONS_BY_TASK = {
    DETECT.name: read_predictions,
    OBB.name: _rotated_predictions,
    E2E.name: _predictions_of_first_branch,
    POSE.name: _keypoint_predictions,
    POSE26.name: _keypoint_predictions,
    SEGMENT.name: _mask_predictions,
    SEGMENT26.name: _mask_predictions,
}
"""The reference's function that reads the feature maps of every task; with branches, those of the first one."""
TRUTHS_BY_TASK = {
    DETECT.name: _detection_truths,
    E2E.name: _detection_truths,
    POSE.name: _truths_of_boxes,
    POSE26.name: _truths_of_boxes,
    SEGMENT.name: _truths_of_boxes,
    SEGMENT26.name: _truths_of_boxes,
}
"""The reference's function that converts the annotation rows of every task with upright boxes."""
LOSSES_BY_TASK = {
    DETECT.name: detection_loss,
    OBB.name: rotated_loss,
    POSE.name: pose_loss,
    POSE26.name: pose_loss,
    SEGMENT.name: segmentation_loss,
    SEGMENT26.name: segmentation_loss,
}
"""The reference's loss of every task; with branches, use the batch of each branch (`core.branches`)."""


def reference_loss(
    batch: Batch, dialect: Dialect, feature_maps: Sequence[Tensor] | None = None, keep_trace: bool = False
) -> DetectionLoss:
    """Return the reference's loss of a batch in a dialect.

    Args:
        batch: any batch.
        dialect: the dialect to follow.
        feature_maps: feature maps to use instead of the batch's own, such as in another dtype.
        keep_trace: store every stage of the assignment.
    """
    maps = batch.feature_maps if feature_maps is None else feature_maps
    numbers = batch.annotations, batch.head, batch.hyperparameters, dialect
    return LOSSES_BY_TASK[batch.task](maps, *numbers, keep_trace=keep_trace)


def predictions_of(batch: Batch, dtype: torch.dtype | None = None) -> Predictions:
    """Return the decoded predictions of a batch (PRE-*, ANC-1, DEC-*), in `dtype` or else the batch's own dtype."""
    maps = batch.feature_maps if dtype is None else [level.to(dtype) for level in batch.feature_maps]
    return PREDICTIONS_BY_TASK[batch.task](maps, batch.head)


def truths_of(
    batch: Batch, dtype: torch.dtype | None = None, dialect: Dialect = NEWEST
) -> list[GroundTruths]:
    """Return the ground truths of each image, made from the annotations by the rules of a dialect (ANN-*).

    The ground truths have the dtype `dtype` or, if it is None, the dtype of the annotations.
    """
    annotations = batch.annotations if dtype is None else batch.annotations.to(dtype)
    if batch.turned:
        floor = dialect.floor(batch.head.strides)
        return rotated.rotated_truths(annotations, batch.images, batch.size, dialect, floor)
    return TRUTHS_BY_TASK[batch.task](annotations, batch.images, batch.size, dialect)


def keypoints_of(batch: Batch) -> list[Tensor]:
    """Return the keypoints (M, K, 3) of each image's ground truths in float64, x and y in pixels (POSE-IN-2)."""
    rows, given = keypoints.split_rows(batch.annotations.double(), batch.head)
    return keypoints.true_keypoints(given, rows, batch.images, batch.size)


def masks_of(batch: Batch) -> list[Tensor]:
    """Return the masks (M, h_m, w_m) of each image's ground truths in float64 (SEG-IN-2)."""
    rows, given = masks.split_rows(batch.annotations.double(), batch.images, batch.head)
    return masks.true_masks(given, rows, batch.images, bool(batch.head.overlapping_masks), None).instances


def assign_with_parts(
    batch: Batch, predictions: Predictions, truths: list[GroundTruths], dialect: Dialect
) -> list[Targets]:
    """Return the reference's assignment of each image, in which keypoints or masks take part (P26-3, S26-1).

    Args:
        batch: a batch of a task in which keypoints or masks take part.
        predictions: the batch's decoded predictions.
        truths: the ground truths of each image.
        dialect: the dialect to follow.
    """
    like = truths[0].boxes if truths else batch.annotations
    if isinstance(predictions, keypoints.KeypointPredictions):
        wanted = [own.to(like) for own in keypoints_of(batch)]
        sigmas = keypoints.sigmas_of(batch.head, like=like)  # (K,)
        assigners = keypoints.keypoint_assigners(predictions, wanted, sigmas)
    else:
        assert isinstance(predictions, masks.MaskPredictions)
        own_masks = masks_of(batch)
        covered = torch.zeros(batch.images, *own_masks[0].shape[1:], dtype=torch.bool)
        assigners = masks.mask_assigners(predictions, masks.TrueMasks(own_masks, covered, None), batch.head)
    return assign_images(predictions, truths, batch.head, batch.hyperparameters, dialect, assigner=assigners)


def assigner_inputs(
    batch: Batch, predictions: Predictions | None = None, truths: list[GroundTruths] | None = None
) -> AssignerInputs:
    """Return the inputs of an assigner as the reference decodes them, in the batch's dtype.

    Predicted boxes are converted to float32, the dtype of the ground truths, for every dtype of the batch, as in
    official code.

    Args:
        batch: any batch.
        predictions: the batch's decoded predictions in its own dtype; None to decode them.
        truths: the batch's ground truths in the annotations' dtype; None to convert the annotations.
    """
    predictions = predictions_of(batch) if predictions is None else predictions
    truths = truths_of(batch) if truths is None else truths
    labels = pad_sequence([image.labels.float() for image in truths], batch_first=True)  # (B, M)
    boxes = pad_sequence([image.boxes for image in truths], batch_first=True)  # (B, M, 4)
    real = pad_sequence([image.real.float() for image in truths], batch_first=True)  # (B, M)
    return AssignerInputs(
        scores=predictions.logits.detach().sigmoid(),
        boxes=predictions.pixels.to(boxes.dtype),
        anchors=predictions.anchors.pixels,
        strides=predictions.anchors.strides,
        labels=labels[..., None],
        truth_boxes=boxes,
        truth_mask=real[..., None],
        head=batch.head,
        hyperparameters=batch.hyperparameters,
    )
