"""Inputs and results of an implementation under test: assigner inputs, assignment, loss, and the outcome of a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tal_conformance.core.task import StageName
from tal_reference import Head, Hyperparameters


@dataclass(frozen=True)
class AssignerInputs:
    """Inputs of an assigner for a whole batch, padded to M ground truths an image, as most implementations expect.

    Attributes:
        scores: (B, A, C) predicted class scores after the sigmoid.
        boxes: (B, A, 4) predicted boxes, xyxy in pixels.
        anchors: (A, 2) anchor centres in pixels.
        strides: (A, 1) pixels per grid cell of each anchor's level.
        labels: (B, M, 1) class of each ground truth, a float as in the data loader's rows; 0 on padding.
        truth_boxes: (B, M, 4) ground truths, xyxy in pixels; 0 on padding.
        truth_mask: (B, M, 1) 1.0 for real ground truths (ANN-3), 0.0 elsewhere.
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
    """Intermediate values of an assigner that exposes all of them.

    Attributes:
        candidates: (B, M, A) bool, TAL-CAND-1.
        overlap: (B, M, A) overlap u, TAL-MET-1.
        metric: (B, M, A) alignment metric t, TAL-MET-1.
        selected: (B, M, A) bool, candidates among the top k, TAL-TOPK-1.
        positives: (B, M, A) bool, the pairs that remain after contested anchors are resolved, TAL-CONF-1.
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
"""Name of the stage that corresponds to each field of `Stages`."""


@dataclass(frozen=True)
class Assignment:
    """Targets of every anchor (TAL-TGT-1). On background anchors only `foreground` and `scores` are defined.

    Attributes:
        labels: (B, A) integral, target class; None if the implementation has none.
        boxes: (B, A, 4) target box, xyxy in pixels.
        scores: (B, A, C) target scores.
        foreground: (B, A) bool, True for positives.
        truth_index: (B, A) integral, index of the ground truth in its image; None if the implementation has none.
        stages: intermediate values, if the implementation declares `exposes_stages = True`.
    """

    labels: Tensor | None
    boxes: Tensor
    scores: Tensor
    foreground: Tensor
    truth_index: Tensor | None
    stages: Stages | None = None


@dataclass(frozen=True)
class CheckedAssignment(Assignment):
    """An assignment after validation: labels and indices that an adapter left None were derived from other results."""

    labels: Tensor
    truth_index: Tensor


@dataclass(frozen=True)
class Loss:
    """The detection loss of a batch.

    Attributes:
        total: the value to differentiate (LOSS-GAIN-1): a scalar, or one value for each term, to be summed: (3,).
        items: (3,) box, cls and dfl as logged: times their gains, without the batch size, detached. Other tasks have
            one item for each of their terms. None if the implementation has only the total.
        assignment: the assignment that the loss's own assigner returned, if the adapter can expose it. Without it, the
            assignment of ambiguous batches is inferred from gradients, and stages before the loss are not judged.
        inputs: the inputs that the loss passed to its assigner, if the adapter can expose them (stage "decode").
        gradients: gradients of the total's sum on the feature maps, (B, 4R + C, H, W) each, of a loss without a torch
            graph; None if the suite differentiates `total` itself.
        branches: of an end-to-end loss, the loss of each branch ("one2many", "one2one"), not multiplied by its weight,
            if the adapter can expose both. `assignment` and `inputs` belong to a branch, and are None here.
    """

    total: Tensor
    items: Tensor | None
    assignment: Assignment | None = None
    inputs: AssignerInputs | None = None
    gradients: tuple[Tensor, ...] | None = None
    branches: "Mapping[str, Loss] | None" = None


@dataclass(frozen=True)
class LossOutcome:
    """The values of a loss for one batch, and their gradients.

    Attributes:
        items: (3,) box, cls and dfl as logged, or one item for each term of another task.
        total: scalar tensor (), the value that was differentiated.
        gradients: gradient of the total on each feature map, (B, 4R + C, H, W); empty if the implementation has only
            the loss's values.
        term_gradients: gradients of each term on each feature map; empty unless they were requested and `Loss.total`
            has one value for each term.
        shows_items: False if only the sum of the items is known: `items[0]` is the sum, and the others are 0.
        knows_total: False if only the gradients are known, as of a branch that an end-to-end loss does not expose:
            `total` is NaN, and `items` are 0.
    """

    items: Tensor
    total: Tensor
    gradients: tuple[Tensor, ...]
    term_gradients: tuple[tuple[Tensor, ...], ...] = ()
    shows_items: bool = True
    knows_total: bool = True


@dataclass(frozen=True)
class Outcome:
    """The results of an implementation for one batch.

    Attributes:
        inputs: inputs of the assigner, as the implementation or the reference decoded them.
        exposes_inputs: True if `inputs` come from the implementation (its stage "decode"), False if they come from the
            reference.
        assignment: the assigner's result; None if the implementation does not expose it.
        loss: values and gradients of the loss; None if the implementation has none.
        from_loss: True if the loss used `assignment`; False if the adapter's `assign` computed it from `inputs`.
        formal: mistakes in the form of the results, such as a wrong dtype, as sentences; the results were converted.
        absent: names of the results that the implementation does not have, and which were derived from other results.
        branches: of an end-to-end loss, the outcome of each branch by its name. A branch's gradients are those of the
            whole loss on its feature maps, divided by its weight.
    """

    inputs: AssignerInputs
    exposes_inputs: bool
    assignment: CheckedAssignment | None
    loss: LossOutcome | None
    from_loss: bool = False
    formal: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    branches: "Mapping[str, Outcome]" = field(default_factory=dict)
