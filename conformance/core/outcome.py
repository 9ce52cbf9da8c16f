"""What passes through an implementation under test: an assigner's inputs, an assignment, a loss, and their outcome."""

from dataclasses import dataclass

from torch import Tensor

from tal_conformance.core.task import StageName
from tal_reference import Head, Hyperparameters


@dataclass(frozen=True)
class AssignerInputs:
    """What the assigner of a batch reads; padded to M ground truths an image, as most implementations want it.

    Attributes:
        scores: (B, A, C) predicted class scores after the sigmoid.
        boxes: (B, A, 4) predicted boxes, xyxy in pixels.
        anchors: (A, 2) anchor centres in pixels.
        strides: (A, 1) pixels per grid cell of each anchor's level.
        labels: (B, M, 1) class of each ground truth, a float as the data loader gives it; 0 on padding.
        truth_boxes: (B, M, 4) ground truths, xyxy in pixels; 0 on padding.
        truth_mask: (B, M, 1) 1.0 where a real ground truth stands (ANN-3), 0.0 elsewhere.
        head: strides, classes and bins.
        hyperparameters: k, alpha, beta, topk2.
    """

    scores: Tensor
    boxes: Tensor
    anchors: Tensor
    strides: Tensor
    labels: Tensor
    truth_boxes: Tensor
    truth_mask: Tensor
    head: Head
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class Stages:
    """The intermediate values of an assigner that shows them; all or none.

    Attributes:
        candidates: (B, M, A) bool, TAL-CAND-1.
        overlap: (B, M, A) u, TAL-MET-1.
        metric: (B, M, A) t, TAL-MET-1.
        selected: (B, M, A) bool, candidates among the top k, TAL-TOPK-1.
        positives: (B, M, A) bool, after contested anchors are settled, TAL-CONF-1.
    """

    candidates: Tensor
    overlap: Tensor
    metric: Tensor
    selected: Tensor
    positives: Tensor


STAGE_OF_FIELD = {
    "candidates": StageName.CANDIDATES,
    "overlap": StageName.OVERLAP,
    "metric": StageName.METRIC,
    "selected": StageName.TOP_K,
    "positives": StageName.CONFLICT,
}
"""The stage that each field of `Stages` shows."""


@dataclass(frozen=True)
class Assignment:
    """What each anchor must learn (TAL-TGT-1); only `foreground` and `scores` have a meaning on background.

    Attributes:
        labels: (B, A) integral, target class.
        boxes: (B, A, 4) target box, xyxy in pixels.
        scores: (B, A, C) target scores.
        foreground: (B, A) bool.
        truth_index: (B, A) integral, which of the image's ground truths.
        stages: intermediate values, of an implementation that declares `exposes_stages = True`.
    """

    labels: Tensor
    boxes: Tensor
    scores: Tensor
    foreground: Tensor
    truth_index: Tensor
    stages: Stages | None = None


@dataclass(frozen=True)
class Loss:
    """The detection loss of a batch.

    Attributes:
        total: scalar, or (3,) whose sum is meant: what is differentiated (LOSS-GAIN-1).
        items: (3,) box, cls and dfl as logged: times their gains, without the batch size, detached.
        assignment: what the loss's own assigner returned, if it can be seen. Without it, it is read back from the
            gradients where a batch is ambiguous, and stages before the loss are not judged.
        inputs: what the loss gave to its assigner, if it can be seen (stage "decode").
    """

    total: Tensor
    items: Tensor
    assignment: Assignment | None = None
    inputs: AssignerInputs | None = None


@dataclass(frozen=True)
class LossOutcome:
    """What a loss returned, and what its total's gradient is.

    Attributes:
        items: (3,) box, cls and dfl as logged.
        total: scalar that was differentiated.
        gradients: one (B, 4R + C, H, W) a feature map.
        term_gradients: the same of box, cls and dfl each, where they were asked for and `Loss.total` is of three.
    """

    items: Tensor
    total: Tensor
    gradients: tuple[Tensor, ...]
    term_gradients: tuple[tuple[Tensor, ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What an implementation made of a batch.

    Attributes:
        inputs: what its assigner read.
        exposes_inputs: they are the implementation's own (its stage "decode"), not the reference's.
        assignment: what its assigner returned; None if it shows none.
        loss: what its loss returned; None if it has none.
        from_loss: the assignment is the one that the loss used; if not, that of `assign` on `inputs`.
        decoded: what the reference decodes of the same batch, where it is at hand; the implementation never had it.
    """

    inputs: AssignerInputs
    exposes_inputs: bool
    assignment: Assignment | None
    loss: LossOutcome | None
    from_loss: bool = False
    decoded: AssignerInputs | None = None
