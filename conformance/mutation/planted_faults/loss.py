"""Faults of the loss and its gradients: box, cls and dfl terms, score sum, gains, CIoU."""

from typing import Any

import torch
from torch import Tensor

import tal_reference.anchors
import tal_reference.annotations
import tal_reference.assignment
import tal_reference.boxes
import tal_reference.decoding
import tal_reference.dialect
import tal_reference.loss
from tal_conformance.mutation.planted_faults.fault import enter, fault
from tal_reference import Head, Hyperparameters, Predictions, Targets
from tal_reference.boxes import EPS


@fault(at="tal_reference.boxes.width_and_height")
def eps_on_the_width(box: Tensor) -> tuple[Tensor, Tensor]:
    """Return width and height with eps added to the width instead of the height."""
    left, top, right, bottom = box.unbind(-1)
    return right - left + EPS, bottom - top


@fault(at="tal_reference.loss.ciou")
def box_loss_in_a_large_unit(first: Tensor, second: Tensor) -> Tensor:
    """Return CIoU for the box loss, of boxes divided by 4,096, so small that the formula's eps changes the result."""
    return tal_reference.boxes.ciou(first / 4096, second / 4096)


_loss_items = tal_reference.loss.loss_items


_cls_loss = tal_reference.loss.cls_loss


_dfl_loss = tal_reference.loss.dfl_loss


def _with_targets(targets: Any, **changed: Tensor) -> Any:
    return type(targets)(**{**vars(targets), **changed})


@fault(at="tal_reference.loss.loss_items")
def target_box_in_pixels(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items with target boxes in pixels, but predicted boxes in grid units."""
    pixels = targets.boxes * predictions.anchors.strides[targets.anchor]
    return _loss_items(predictions, _with_targets(targets, boxes=pixels), head, numbers, *dialect)


@fault(at="tal_reference.loss.ciou")
def iou_for_ciou_in_the_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return IoU instead of CIoU in the box loss."""
    return tal_reference.boxes.iou(first, second)


@fault(at="tal_reference.loss.dfl_loss")
def dfl_weights_swapped(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return DFL with the weights of the bins below and above the target distance exchanged."""
    log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)
    clamped = target.clamp(0, reg_max - 1 - 0.01)
    lower = clamped.floor().long()[..., None]
    share = clamped - clamped.floor()
    below, above = (log_probability.gather(-1, lower + step).squeeze(-1) for step in (0, 1))
    return -(share * below + (1 - share) * above).mean(1)


enter("dfl_clamped_late", {"tal_reference.loss.LAST_BIN_MARGIN": 1e-6})


def _clamped_at(distances: Tensor, target: Tensor, reg_max: int, last: float) -> Tensor:
    """Return DFL with target distances clamped at `last`; the last bin stands for any bin above it."""
    log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)
    clamped = target.clamp(0, last)
    lower = clamped.floor().long()
    share = clamped - lower
    below, above = (
        log_probability.gather(-1, (lower + step).clamp(max=reg_max - 1)[..., None]).squeeze(-1)
        for step in (0, 1)
    )
    return -((1 - share) * below + share * above).mean(1)


@fault(at="tal_reference.loss.dfl_loss")
def dfl_clamp_15_99(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return DFL with target distances clamped at R - 0.01 instead of R - 1.01, for R bins."""
    return _clamped_at(distances, target, reg_max, reg_max - 0.01)


@fault(at="tal_reference.loss.dfl_loss")
def dfl_clamp_15_99_in_the_gradient(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return DFL with the correct value, but the gradient for targets clamped at R - 0.01, for R bins."""
    wrong = _clamped_at(distances, target, reg_max, reg_max - 0.01)
    return _dfl_loss(distances, target, reg_max).detach() + wrong - wrong.detach()


@fault(at="tal_reference.loss.dfl_loss")
def dfl_without_gradient_at_the_clamp(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return DFL with the correct value, but gradient zero for sides whose target distance is clamped."""
    inside = (target < reg_max - 1 - 0.01)[..., None]  # (P, 4, 1)
    sides = distances.unflatten(1, (4, reg_max))
    return _dfl_loss(torch.where(inside, sides, sides.detach()).flatten(1), target, reg_max)


@fault(at="tal_reference.loss.loss_items")
def score_sum_not_clamped(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items divided by the score sum instead of max(1, sum), as before release 8.0.35."""
    total = targets.weights.sum()
    return (
        _loss_items(predictions, targets, head, numbers, *dialect)
        * total.clamp(min=1)
        / total.clamp(min=1e-3)
    )


@fault(at="tal_reference.loss.loss_items")
def score_sum_an_image(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items divided by the mean score sum per image instead of the sum over the batch."""
    total = targets.weights.sum()
    each = (total / len(predictions.logits)).clamp(min=1)
    return _loss_items(predictions, targets, head, numbers, *dialect) * total.clamp(min=1) / each


@fault(at="tal_reference.loss.cls_loss")
def mean_cross_entropy(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """Return the class loss as the mean of the cross-entropy instead of the sum."""
    return _cls_loss(logits, at, scores) / logits.numel()


@fault(at="tal_reference.loss.cls_loss")
def cross_entropy_of_positives(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """Return the class loss of positives only, without background anchors."""
    image, anchor, label = (index[scores > 0] for index in at)  # (P,) each
    places = torch.arange(len(label), device=label.device)
    return _cls_loss(logits[image, anchor][None], (0 * places, places, label), scores[scores > 0])


@fault(at="tal_reference.loss.loss_items")
def gains_swapped(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items with the gains of the box loss and the class loss exchanged."""
    swapped = Hyperparameters(**{**vars(numbers), "box_gain": numbers.cls_gain, "cls_gain": numbers.box_gain})
    return _loss_items(predictions, targets, head, swapped, *dialect)


class _WithoutBatchSize(tal_reference.loss.DetectionLoss):
    def __init__(
        self, terms: Tensor, items: Tensor, targets: list[Targets], predictions: Predictions
    ) -> None:
        super().__init__(terms / len(targets), items, targets, predictions)


enter("missing_batch_size", {"tal_reference.loss.DetectionLoss": _WithoutBatchSize})


@fault(at="tal_reference.boxes.shape_penalty")
def alpha_differentiated(first: Tensor, second: Tensor, overlap: Tensor) -> Tensor:
    """Return the shape penalty of CIoU with a gradient through its weight alpha, instead of detaching it."""
    (w1, h1), (w2, h2) = (
        tal_reference.boxes.width_and_height(first),
        tal_reference.boxes.width_and_height(second),
    )
    difference = 4 / torch.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square()
    return difference / (1 - overlap + difference + EPS) * difference


_shape_penalty = tal_reference.boxes.shape_penalty


@fault(at="tal_reference.boxes.shape_penalty")
def shape_penalty_without_gradient(first: Tensor, second: Tensor, overlap: Tensor) -> Tensor:
    """Return the shape penalty of CIoU without any gradient, instead of detaching only its weight alpha."""
    return _shape_penalty(first, second, overlap).detach()


def _assign_with_gradient(
    predictions: Predictions,
    truths: Any,
    head: Head,
    numbers: Hyperparameters,
    dialect: Any,
    keep_trace: bool = False,
) -> list[Targets]:
    """Return targets through which gradients flow to the predictions."""
    scores = predictions.logits.sigmoid()
    boxes = predictions.boxes * predictions.anchors.strides
    plain = tal_reference.assignment.assign.__wrapped__  # type: ignore[attr-defined]
    return [
        plain(
            scores[i],
            boxes[i],
            predictions.anchors.pixels,
            truths[i],
            head.strides,
            numbers,
            dialect,
            keep_trace,
        )
        for i in range(len(truths))
    ]


enter("assignment_not_detached", {"tal_reference.loss.assign_images": _assign_with_gradient})
