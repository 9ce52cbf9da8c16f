"""Faults of rewrites: other margins, epsilons and dtypes, shortcuts, and repairs that no clause has."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tal_reference.annotations
import tal_reference.assignment
import tal_reference.boxes
import tal_reference.decoding
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import LEFT_OUT, SEEN_LATER, enter, fault
from tal_reference import GroundTruths, Head, Hyperparameters, Predictions, Targets
from tal_reference.assignment import NORMALISATION_EPS
from tal_reference.boxes import EPS

_settle_contested = tal_reference.assignment.settle_contested
_assign = tal_reference.assignment.assign
_ground_truths = tal_reference.annotations.ground_truths
_shape_penalty = tal_reference.boxes.shape_penalty
_dfl_loss = tal_reference.loss.dfl_loss
_loss_items = tal_reference.loss.loss_items
WITHOUT_OWNER = (*LEFT_OUT, StageName.CONFLICT)
"""Stages that the report may name for a missing candidate of which only the assigner's outputs are visible."""


@fault(at="tal_reference.assignment.candidates_of", outputs_stages=WITHOUT_OWNER)
def margin_of_a_thousandth(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates whose centres lie at least a thousandth of a pixel inside the box."""
    return (tal_reference.assignment.distance_inside(truths.boxes, centres, floor) > 1e-3) & truths.real[
        :, None
    ]


enter(
    "normalised_with_1e_8",
    {"tal_reference.assignment.NORMALISATION_EPS": 1e-8},
    outputs_stages=(StageName.METRIC, StageName.NORMALISATION),
)


@fault(at="tal_reference.assignment.alignment_metric")
def metric_in_logarithms(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric as the exponential of a sum of logarithms, with 1e-7 added to their arguments."""
    power = numbers.alpha * (score + 1e-7).log() + numbers.beta * (overlap + 1e-7).log()
    return power.exp() * (overlap > 0)


def _scores_of_one_class(scores: Tensor, *arguments: Any, **named: Any) -> Targets:
    """Return targets of a head with one class as if all class scores were 1."""
    return _assign(torch.ones_like(scores) if scores.shape[1] == 1 else scores, *arguments, **named)


enter(
    "one_class_scores_one",
    {"tal_reference.loss.assign": _scores_of_one_class},
    outputs_stages=(StageName.METRIC, StageName.TOP_K, StageName.NORMALISATION),
)


@fault(at="tal_reference.assignment.settle_contested")
def contested_by_the_first_two(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives with a contested anchor given to the first or the second ground truth that selected it."""
    first = selected & ((selected.int().cumsum(0) <= 2) | (selected.sum(0) <= 1))  # (M, A)
    return _settle_contested(selected, overlap.where(first, -1))


@fault(at="tal_reference.assignment.settle_contested")
def every_truth_keeps_one(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives with an anchor for each ground truth: one that lost all gets its most overlapped one back."""
    positives = _settle_contested(selected, overlap)
    for truth in (selected.any(1) & ~positives.any(1)).nonzero().flatten().tolist():
        best = (overlap[truth] * selected[truth]).argmax()
        positives[:, best] = False
        positives[truth, best] = True
    return positives


@fault(at="tal_reference.assignment.normalised")
def overlap_of_the_best_metric(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return weights with u* of the positive that has the largest metric, not the largest overlap."""
    owner, anchor = pairs = positives.nonzero(as_tuple=True)
    own = metric * positives  # (M, A)
    best = (overlap * positives).gather(1, own.argmax(1, keepdim=True))[:, 0]  # (M,)
    weight = metric[pairs] * best[owner] / (own.amax(1)[owner] + NORMALISATION_EPS)
    return weight.new_zeros(metric.shape[1]).index_add(0, anchor, weight)


def _clipped(annotations: Tensor, images: int, size: tuple[int, int], *_: Any) -> list[GroundTruths]:
    """Return ground truths clipped to the input."""
    height, width = size
    return [
        GroundTruths(
            image.labels,
            torch.minimum(image.boxes.clamp(min=0), image.boxes.new_tensor((width, height) * 2)),
        )
        for image in _ground_truths(annotations, images, size)
    ]


def _of_half_rows(annotations: Tensor, images: int, size: tuple[int, int], *_: Any) -> list[GroundTruths]:
    """Return ground truths of rows whose coordinates were stored in float16."""
    stored = annotations[:, 2:].half().to(annotations.dtype)  # (N, 4)
    return _ground_truths(torch.cat((annotations[:, :2], stored), 1), images, size)


_READERS = ("tal_reference.loss.ground_truths", "tal_conformance.core.reference_inputs.ground_truths")
enter("truths_clipped_to_the_input", dict.fromkeys(_READERS, _clipped), outputs_stages=SEEN_LATER)
enter("rows_in_float16", dict.fromkeys(_READERS, _of_half_rows), outputs_stages=SEEN_LATER)


@fault(at="tal_reference.boxes.shape_penalty", outputs_stages=(StageName.OVERLAP, StageName.METRIC))
def shape_penalty_of_large_overlaps(first: Tensor, second: Tensor, overlap: Tensor) -> Tensor:
    """Return the shape penalty of CIoU where the IoU is at least a half, and zero elsewhere."""
    return _shape_penalty(first, second, overlap) * (overlap >= 0.5)


@fault(at="tal_reference.boxes.centre_penalty")
def constant_diagonal(first: Tensor, second: Tensor) -> Tensor:
    """Return the centre penalty of CIoU without a gradient through the enclosing box."""
    (left_top1, right_bottom1), (left_top2, right_bottom2) = first.chunk(2, -1), second.chunk(2, -1)
    enclosing = torch.maximum(right_bottom1, right_bottom2) - torch.minimum(left_top1, left_top2)
    apart = (left_top1 + right_bottom1 - left_top2 - right_bottom2) / 2
    return apart.square().sum(-1) / (enclosing.square().sum(-1) + EPS).detach()


@fault(at="tal_reference.loss.dfl_loss")
def target_distances_in_float16(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return DFL of target distances that were stored in float16, which is exact to a thousandth."""
    return _dfl_loss(distances, target.half().to(target.dtype), reg_max)


@fault(at="tal_reference.loss.cls_loss")
def probabilities_clamped(logits: Tensor, at: tuple[Tensor, ...], scores: Tensor, *weights: Tensor) -> Tensor:
    """Return the cross-entropy of probabilities clamped to 1e-7 and 1 - 1e-7."""
    chance = logits.sigmoid().clamp(1e-7, 1 - 1e-7)  # (B, A, C)
    target = torch.zeros_like(chance).index_put(at, scores.to(chance.dtype))
    entropy = -(target * chance.log() + (1 - target) * (1 - chance).log())
    return (entropy * weights[0] if weights else entropy).sum()


class _OfImagesWithTruths(tal_reference.loss.DetectionLoss):
    def __init__(
        self, terms: Tensor, items: Tensor, targets: list[Targets], predictions: Predictions
    ) -> None:
        filled = sum(bool(image.foreground.any()) for image in targets)
        super().__init__(terms / len(targets) * max(filled, 1), items, targets, predictions)


class _OfImagesUpToTheLastRow(tal_reference.loss.DetectionLoss):
    def __init__(
        self, terms: Tensor, items: Tensor, targets: list[Targets], predictions: Predictions
    ) -> None:
        last = max((place + 1 for place, image in enumerate(targets) if image.foreground.any()), default=1)
        super().__init__(terms / len(targets) * last, items, targets, predictions)


enter("total_of_images_with_truths", {"tal_reference.loss.DetectionLoss": _OfImagesWithTruths})
enter("images_counted_by_the_last_row", {"tal_reference.loss.DetectionLoss": _OfImagesUpToTheLastRow})


@fault(at="tal_reference.loss.loss_items")
def weights_with_ten_bits(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items with target scores cut to ten bits, as TensorFloat-32 holds."""
    weights = targets.weights
    if weights.dtype == torch.float32:
        weights = (weights.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return _loss_items(predictions, replace(targets, weights=weights), head, numbers, *dialect)
