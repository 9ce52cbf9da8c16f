"""Decode a batch with the reference: predictions, ground truths in pixels, and the inputs of an assigner.

No other module decodes predictions or converts annotations. `judgement.expectation.Expectation` caches the results
for one judged batch.
"""

import torch
from torch.nn.utils.rnn import pad_sequence

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs
from tal_reference import NEWEST, Dialect, GroundTruths, Predictions, ground_truths
from tal_reference.loss import read_predictions


def predictions_of(batch: Batch, dtype: torch.dtype | None = None) -> Predictions:
    """Return the decoded predictions of a batch (PRE-*, ANC-1, DEC-*), in `dtype` or else the batch's own dtype."""
    maps = batch.feature_maps if dtype is None else [level.to(dtype) for level in batch.feature_maps]
    return read_predictions(maps, batch.head)


def truths_of(
    batch: Batch, dtype: torch.dtype | None = None, dialect: Dialect = NEWEST
) -> list[GroundTruths]:
    """Return the ground truths of each image, made from the annotations by the rules of a dialect (ANN-*).

    The ground truths have the dtype `dtype` or, if it is None, the dtype of the annotations.
    """
    annotations = batch.annotations if dtype is None else batch.annotations.to(dtype)
    return ground_truths(annotations, batch.images, batch.size, dialect)


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
        boxes=(predictions.boxes * predictions.anchors.strides).to(boxes.dtype),
        anchors=predictions.anchors.pixels,
        strides=predictions.anchors.strides,
        labels=labels[..., None],
        truth_boxes=boxes,
        truth_mask=real[..., None],
        head=batch.head,
        hyperparameters=batch.hyperparameters,
    )
