"""Stage "decode": what an implementation gave to its assigner, and how far it may lie from what we say it gave.

B images, A anchors, C classes, M ground truths of an image, N annotation rows.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Outcome
from tal_conformance.core.verdicts import Agreement, Judgement, Mismatch
from tal_conformance.implementations.execute import assigner_inputs
from tal_conformance.judgement.bounds import UNITS, bound, boxes_unit, precision, smallest
from tal_conformance.judgement.comparators import assert_within, equal, finite
from tal_conformance.judgement.oracle import InputErrors
from tal_reference import GroundTruths
from tal_reference.annotations import to_corners
from tal_reference.loss import Predictions, read_predictions

PLACE = ("image", "GT")


def exact_predictions(batch: Batch) -> Predictions:
    """The batch's predictions, decoded in float64."""
    with torch.no_grad():
        return read_predictions([level.double() for level in batch.feature_maps], batch.head)


def judge_inputs(
    judgement: Judgement,
    batch: Batch,
    outcome: Outcome,
    exact: Predictions,
    truths: list[GroundTruths],
) -> None:
    """Stage "decode": what the implementation gave to its assigner follows from the feature maps and annotations."""
    seen, own = outcome.inputs, outcome.decoded or assigner_inputs(batch)
    dtype = precision(batch.dtype)
    eps = torch.finfo(dtype).eps
    stage = judgement.stages["decode"]
    boxes = exact.boxes * exact.anchors.strides  # (B, A, 4)
    unit = boxes_unit(exact, batch.head.reg_max, eps) * exact.anchors.strides  # (B, A, 4)
    box_error = bound(own.boxes, boxes, unit, dtype, "predicted box")
    scores = exact.logits.sigmoid()  # (B, A, C)
    score_error = bound(own.scores, scores, 3 * eps * scores, dtype, "class score")
    try:
        centres, own_centres = exact.anchors.pixels, own.anchors.double()  # (A, 2) twice
        centre_error = torch.where(
            own_centres == centres, 0, eps * centres
        )  # a coarse dtype rounds far anchors
        names: tuple[str, ...] = ("anchor", "axis")
        stage.add(
            assert_within("anchor centre", "ANC-1", seen.anchors, centres, centre_error, own.anchors, names)
        )
        finite("stride", "ANC-1", seen.strides)
        stage.add(equal("stride", "ANC-1", seen.strides.double(), exact.anchors.strides, ("anchor",)))
        names = ("image", "anchor", "side")
        stage.add(assert_within("predicted box", "DEC-2", seen.boxes, boxes, box_error, own.boxes, names))
        names = ("image", "anchor", "class")
        stage.add(
            assert_within("class score", "TAL-MET-1", seen.scores, scores, score_error, own.scores, names)
        )
        stage.add(judge_truths(seen, own, truths))
    except Mismatch as mismatch:
        stage.fail(mismatch)


def classes_exist(seen: AssignerInputs) -> bool:
    """Whether every label is the index of a class."""
    return bool(((seen.labels >= 0) & (seen.labels < seen.head.classes)).all())


def judge_truths(seen: AssignerInputs, own: AssignerInputs, truths: list[GroundTruths]) -> Agreement:
    """ANN-1 to ANN-4: each image's ground truths stand first, in their order; what follows is padding.

    Raises:
        Mismatch: they do not, or their boxes or labels are others.
    """
    finite("label", "ANN-1", seen.labels)
    finite("truth mask", "ANN-3", seen.truth_mask)
    labels, mask = seen.labels[..., 0], seen.truth_mask[..., 0] > 0  # (B, M), (B, M)
    wanted = pad_sequence([image.labels for image in truths], batch_first=True)  # (B, M)
    boxes = pad_sequence([image.boxes for image in truths], batch_first=True)  # (B, M, 4)
    counts = torch.tensor([len(image) for image in truths], device=mask.device)  # (B,)
    present = torch.arange(mask.shape[1], device=mask.device) < counts[:, None]  # (B, M)
    equal("label", "ANN-2", labels, wanted, PLACE, where=present)
    shown = seen.truth_boxes.where(present[..., None], 0)  # (B, M, 4)
    dtype = precision(shown.dtype)
    error = bound(
        own.truth_boxes, boxes, truth_unit(boxes, torch.finfo(dtype).eps), dtype, "ground truth box"
    )
    agreement = assert_within(
        "ground truth box", "ANN-1", shown, boxes, error, own.truth_boxes, (*PLACE, "side")
    )
    sums = boxes.sum(-1)  # (B, M)
    sum_error = (4 * error.amax(-1)).where(shown.double().sum(-1) != sums, 0)  # (B, M)
    expected = torch.where(sums.abs() <= sum_error, mask, sums > 0)  # (B, M) either, where it is doubtful
    equal("real", "ANN-3", mask, expected, PLACE, where=present)
    equal("real", "ANN-4", mask, torch.zeros_like(mask), ("image", "padding row"), where=~present)
    return agreement


def truth_unit(boxes: Tensor, eps: float) -> Tensor:
    """ANN-1: error in pixels of converted boxes (.., 4): centre and half side are each rounded, and so is their sum."""
    left_top, right_bottom = boxes.chunk(2, dim=-1)
    error = eps * ((left_top + right_bottom).abs() + (right_bottom - left_top).abs())  # (.., 2)
    return torch.cat((error, error), dim=-1)


def input_errors(batch: Batch, exact: Predictions, truths: list[GroundTruths]) -> list[InputErrors]:
    """How far a loss's own, hidden inputs may lie from the reference's in the same dtype.

    Both may err, to opposite sides, by what implementations that show their inputs may.
    """
    dtype = precision(batch.dtype)
    eps = torch.finfo(dtype).eps
    boxes = (
        2
        * UNITS["predicted box"]
        * (boxes_unit(exact, batch.head.reg_max, eps) * exact.anchors.strides).amax(-1)
    )  # (B, A)
    scores = 2 * UNITS["class score"] * 3 * eps * exact.logits.sigmoid() + smallest(dtype)  # (B, A, C)
    sharp = converts_exactly(batch.annotations[:, 2:], batch.size)  # (N,)
    errors = []
    for image in range(batch.images):
        rows = sharp[batch.annotations[:, 0] == image]  # (M,)
        error = 2 * UNITS["ground truth box"] * truth_unit(truths[image].boxes, eps)  # (M, 4)
        errors.append(InputErrors(boxes[image], scores[image], error.where(~rows[:, None], 0)))
    return errors


def converts_exactly(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """ANN-1: whose conversion to pixels rounds nowhere, whether corners or pixels come first: (N,) bool.

    Such a ground truth has the same edges in every implementation, and its borders are sharp.
    """
    height, width = size
    scale = boxes.new_tensor((width, height, width, height))
    pixels_first = to_corners(boxes, size)
    corners_first = to_corners(boxes, (1, 1)) * scale
    exact = to_corners(boxes.double(), size)
    return ((pixels_first.double() == exact) & (corners_first.double() == exact)).all(1)
