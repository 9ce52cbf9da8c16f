"""Judging the stage "decode": the inputs that an implementation passed to its assigner.

B images, A anchors, C classes, M ground truths of an image.
"""

from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence

from tal_conformance.core.outcome import AssignerInputs, Outcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Agreement, Judgement, Mismatch
from tal_conformance.judgement.comparators import (
    Bounded,
    Quantity,
    assert_equal,
    assert_finite,
    assert_within,
)
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.rounding.bounds import bound, precision

PLACE = ("image", "GT")


def judge_inputs(judgement: Judgement, outcome: Outcome, expected: Expectation) -> None:
    """Judge the inputs that an implementation passed to its assigner, and record the result at the stage "decode".

    The inputs must follow from the feature maps and annotations.
    """
    stage = judgement.stages[StageName.DECODE]
    try:
        for agreement in _agreements(outcome.inputs, expected):
            stage.add(agreement)
    except Mismatch as mismatch:
        stage.fail(mismatch)


def _agreements(observed: AssignerInputs, expected: Expectation) -> Iterator[Agreement]:
    """Compare the inputs that the implementation passed to its assigner with the expected inputs, tensor by tensor.

    Raises:
        Mismatch: a tensor differs.
    """
    own, exact = expected.inputs, expected.predictions
    box_error, score_error = expected.decoding_errors
    centres, own_centres = exact.anchors.pixels, own.anchors.double()  # (A, 2) twice
    # a coarse dtype rounds far anchors
    centre_error = torch.where(own_centres == centres, 0, expected.eps * centres)
    quantity = Quantity("anchor centre", "ANC-1", ("anchor", "axis"))
    yield assert_within(quantity, observed.anchors, Bounded(centres, centre_error, own.anchors))
    quantity = Quantity("stride", "ANC-1", ("anchor",))
    assert_finite(quantity, observed.strides)
    yield assert_equal(quantity, observed.strides.double(), exact.anchors.strides)
    boxes = exact.pixels  # (B, A, 4)
    clause = expected.batch.family.clauses[StageName.DECODE]
    quantity = Quantity("predicted box", clause, ("image", "anchor", "side"))
    yield assert_within(quantity, observed.boxes, Bounded(boxes, box_error, own.boxes))
    scores = exact.logits.sigmoid()  # (B, A, C)
    quantity = Quantity("class score", "TAL-MET-1", ("image", "anchor", "class"))
    yield assert_within(quantity, observed.scores, Bounded(scores, score_error, own.scores))
    yield judge_truths(observed, expected)


def classes_exist(inputs: AssignerInputs) -> bool:
    """Return True if every label is the index of a class."""
    return bool(((inputs.labels >= 0) & (inputs.labels < inputs.head.classes)).all())


def judge_truths(observed: AssignerInputs, expected: Expectation) -> Agreement:
    """Compare the ground truths of each image: in the order of the annotation rows, then padding (ANN-1 to ANN-4).

    Raises:
        Mismatch: order, boxes, labels or mask of the ground truths differ.
    """
    assert_finite(Quantity("label", "ANN-1"), observed.labels)
    assert_finite(Quantity("truth mask", "ANN-3"), observed.truth_mask)
    labels, mask = observed.labels[..., 0], observed.truth_mask[..., 0] > 0  # (B, M), (B, M)
    truths, own = expected.truths, expected.inputs
    own_labels = pad_sequence([image.labels for image in truths], batch_first=True)  # (B, M)
    boxes = pad_sequence([image.boxes for image in truths], batch_first=True)  # (B, M, 4)
    counts = torch.tensor(expected.counts, device=mask.device)  # (B,)
    present = torch.arange(mask.shape[1], device=mask.device) < counts[:, None]  # (B, M)
    assert_equal(Quantity("label", "ANN-2", PLACE), labels, own_labels, where=present)
    shown = observed.truth_boxes.where(present[..., None], 0)  # (B, M, 4)
    dtype = precision(shown.dtype)
    unit = expected.geometry.truth_unit(boxes, torch.finfo(dtype).eps)  # (B, M, 4)
    error = bound(own.truth_boxes, boxes, unit, dtype, "ground truth box")
    quantity = Quantity("ground truth box", "ANN-1", (*PLACE, "side"))
    agreement = assert_within(quantity, shown, Bounded(boxes, error, own.truth_boxes))
    sums = boxes.sum(-1)  # (B, M)
    sum_error = (4 * error.amax(-1)).where(shown.double().sum(-1) != sums, 0)  # (B, M)
    real = torch.where(sums.abs() <= sum_error, mask, sums > 0)  # (B, M) either value, where rounding decides
    assert_equal(Quantity("real", "ANN-3", PLACE), mask, real, where=present)
    padding = Quantity("real", "ANN-4", ("image", "padding row"))
    assert_equal(padding, mask, torch.zeros_like(mask), where=~present)
    return agreement
