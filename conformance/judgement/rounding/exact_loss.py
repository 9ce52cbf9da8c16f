"""The reference's loss of a batch and its gradients, for given targets, in a given dtype.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import DETECT, OBB, POSE, POSE26, SEGMENT, SEGMENT26, Task
from tal_conformance.judgement.rounding.bounds import precision
from tal_reference import (
    NEWEST,
    BatchTargets,
    Dialect,
    GroundTruths,
    Head,
    Hyperparameters,
    Predictions,
    RotatedPredictions,
    Targets,
)
from tal_reference.anchors import Anchors, flatten
from tal_reference.composed import assign_images, loss_items, total_factor
from tal_reference.keypoints import KeypointPredictions, pose_items
from tal_reference.loss import Positives, class_factors
from tal_reference.loss import assign_images as official_assign_images
from tal_reference.masks import mask_items
from tal_reference.rotated import assign_rotated, rotated_items

Gradients = tuple[Tensor, ...]
"""Gradients on every head field of the task: on the distance logits, (B, A, 4R), of `LossRounding` (P, 4R), on the
class logits, (B, A, C), and, for rotated boxes, on the angles, (B, A, 1), of `LossRounding` (P, 1); for poses, on the
keypoints, (B, A, K D), of `LossRounding` (P, K D); for masks, on the coefficients, (B, A, n), of `LossRounding` (P, n),
and on the prototypes, (B, n, h_p, w_p)."""

ZERO = torch.zeros((), dtype=torch.float64)
"""A scalar that stands for a tensor of zeros; on the CPU it can be combined with tensors of every device."""
FIELD_ATTRIBUTES = {
    "distances": "distances",
    "logits": "logits",
    "angle": "angles",
    "keypoints": "keypoints",
    "coefficients": "coefficients",
    "prototypes": "prototypes",
}
"""Attribute of the reference's predictions that contains each head field."""


def _rotated_items(
    predictions: Predictions,
    targets: Positives | BatchTargets,
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect = NEWEST,
) -> Tensor:
    assert isinstance(predictions, RotatedPredictions)
    factors = class_factors(head, predictions.logits)  # (C,)
    return rotated_items(predictions, targets, hyperparameters, dialect, factors)


def _assign_rotated_images(
    predictions: Predictions,
    truths: Sequence[GroundTruths],
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect,
) -> list[Targets]:
    return official_assign_images(
        predictions, truths, head, hyperparameters, dialect, assigner=assign_rotated
    )


LOSS_ITEMS_BY_TASK: dict[str, Callable[..., Tensor]] = {
    DETECT.name: loss_items,
    OBB.name: _rotated_items,
    POSE.name: pose_items,
    SEGMENT.name: mask_items,
    POSE26.name: pose_items,
    SEGMENT26.name: mask_items,
}
"""The reference's loss items, one for each term, of every task."""
DISTANCE_ITEMS_BY_TASK = LOSS_ITEMS_BY_TASK | dict.fromkeys(
    (POSE.name, SEGMENT.name, POSE26.name, SEGMENT26.name), loss_items
)
"""The reference's items of the terms that have a gradient on the distance logits, of every task."""
ASSIGN_BY_TASK: dict[str, Callable[..., list[Targets]]] = {
    DETECT.name: assign_images,
    OBB.name: _assign_rotated_images,
    POSE.name: assign_images,
    SEGMENT.name: assign_images,
}
"""The reference's assignment of decoded images, of every task in which no keypoints or masks take part."""


def fields_of(maps: Sequence[Tensor], batch: Batch) -> Gradients:
    """Return feature maps or their gradients by head field, in the order of the channels: (B, A, width) each.

    Fields of the whole image follow, as they are: (B, width, h, w).
    """
    head, family = batch.head, batch.family
    if family.image_fields:
        count, fields = len(head.strides), [field for field in family.fields if field.place != "image"]
        channels = torch.cat([level.flatten(2) for level in maps[:count]], dim=2)  # (B, channels, A)
        parts = channels.split([field.width(head) for field in fields], dim=1)
        return (*(part.mT for part in parts), *maps[count:])
    if len(family.fields) == len(DETECT.fields):
        return flatten(maps, head)
    channels = torch.cat([level.flatten(2) for level in maps], dim=2)  # (B, channels, A)
    return tuple(part.mT for part in channels.split([field.width(head) for field in family.fields], dim=1))


def at_anchors(
    predictions: Predictions, image: int, anchor: Tensor, distances: Tensor, logits: Tensor, anchors: Anchors
) -> Predictions:
    """Return predictions of one image with one row for each of some anchors, which may repeat.

    Args:
        predictions: the predictions of the batch.
        image: index of the image.
        anchor: (P,) indices of the anchors.
        distances: (1, P, 4R) distance logits of these anchors.
        logits: (1, P, C) class logits.
        anchors: the P anchors.
    """
    chosen = replace(predictions, distances=distances, logits=logits, anchors=anchors)
    if isinstance(chosen, RotatedPredictions):
        return replace(chosen, angles=chosen.angles[image, anchor][None])
    if isinstance(chosen, KeypointPredictions):
        return replace(chosen, keypoints=chosen.keypoints[image, anchor][None])
    return chosen


@dataclass(frozen=True)
class ReferenceLoss:
    """The reference's loss of a batch in one dtype, for given targets.

    Attributes:
        predictions: the decoded feature maps.
        items: (terms,) box, cls, dfl: times their gains, not times the batch size.
        of_total: gradients of the total loss on the head fields.
        of_terms: separate gradients of every term; empty unless they were requested.
    """

    predictions: Predictions
    items: Tensor
    of_total: Gradients
    of_terms: tuple[Gradients, ...] = ()


def compute_loss(
    batch: Batch,
    targets: BatchTargets,
    dtype: torch.dtype,
    dialect: Dialect,
    predictions: Predictions,
    each_term: bool = False,
) -> ReferenceLoss:
    """Return the reference's loss of a batch for given targets, and its gradients.

    Args:
        batch: any batch.
        targets: labels, boxes and scores that the batch's anchors learn.
        dtype: dtype to compute in.
        dialect: the dialect to follow.
        predictions: the decoded predictions of the batch, in `dtype`.
        each_term: differentiate every term separately, in addition to the total.
    """
    names = [FIELD_ATTRIBUTES[field.name] for field in batch.family.fields]
    leaves = [getattr(predictions, name).detach().requires_grad_() for name in names]
    # targets have the annotations' dtype, float32 or finer
    finest = torch.promote_types(dtype, torch.float32)
    positives = targets.positives
    points = None if positives.keypoints is None else positives.keypoints.to(finest)
    cast = replace(
        positives, boxes=positives.boxes.to(finest), weights=positives.weights.to(finest), keypoints=points
    )
    with torch.autocast(batch.device.type, dtype=dtype, enabled=batch.autocast and dtype != torch.float64):
        leaf = replace(predictions, **dict(zip(names, leaves, strict=True)))
        items = LOSS_ITEMS_BY_TASK[batch.task](leaf, cast, batch.head, batch.hyperparameters, dialect)
    factor = total_factor(batch.images, dialect)
    if not each_term:
        of_total = torch.autograd.grad(items.sum() * factor, leaves)
        return ReferenceLoss(predictions, items.detach(), of_total)
    of_total, of_terms = _of_each_term(batch.family, items * factor, leaves)
    return ReferenceLoss(predictions, items.detach(), of_total, of_terms)


def _of_each_term(
    family: Task, values: Tensor, leaves: Sequence[Tensor]
) -> tuple[Gradients, tuple[Gradients, ...]]:
    """Return the gradients of the total and of each term on the leaves, one leaf for each head field.

    The gradients of all terms on a field are added, as they are when their total is differentiated.
    """
    own: dict[tuple[int, int], Tensor] = {}
    for at, (term, value) in enumerate(zip(family.terms, values.unbind(), strict=True)):
        for place, field in enumerate(family.fields):
            if field.name in term.reads:
                own[at, place] = torch.autograd.grad(value, leaves[place], retain_graph=True)[0]
    of_total = tuple(
        sum_of([own[at, place] for at in range(len(family.terms)) if (at, place) in own])
        for place in range(len(leaves))
    )
    # LOSS-GRAD-1: zero; but the terms are differentiated as parts of one tensor, where zero times NaN is NaN
    absent = [
        torch.zeros_like(leaf) if field.name == "logits" else total * 0
        for field, leaf, total in zip(family.fields, leaves, of_total, strict=True)
    ]
    of_terms = tuple(
        tuple(own.get((at, place), absent[place]) for place in range(len(leaves)))
        for at in range(len(family.terms))
    )
    return of_total, of_terms


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    return reduce(torch.add, parts)


def class_factors_of(batch: Batch, like: Tensor) -> Tensor:
    """Return the factor of each class's cross-entropy (C,) in float64 (COR-7), or a scalar 1 without class weights.

    The factors are on the device of `like`.
    """
    factors = class_factors(batch.head, like.double())
    return like.new_ones((), dtype=torch.float64) if factors is None else factors


def logit_gradient_roundings(batch: Batch) -> int:
    """Return the number of roundings of the gradient on a class logit (LOSS-GRAD-1).

    The rounded results are sigma, its difference from the target score z, and the product with gain and 1 / N; a factor
    of the class adds one product (COR-7).
    """
    return 3 if batch.head.class_weights is None else 4


def class_gradient_roundings(batch: Batch, logits: Tensor, sizes: Tensor) -> Tensor:
    """Return the errors of the gradients on the class logits (B, A, C), in roundings, before gain and 1 / N.

    An exponential reduces its argument by a rounded multiple of ln 2, so that its relative error may grow with the
    argument, as in the gradient of DFL: MLX's on a CPU is off by 29 float32 roundings at -59, torch's by less than one.
    The derivative of a class score p in its logit x is p (1 - p).

    Args:
        batch: the batch.
        logits: (B, A, C) class logits, float64.
        sizes: (B, A, C) sums of class score and target score; zero where no loss is computed.
    """
    score = logits.sigmoid()  # (B, A, C)
    of_argument = score * (1 - score) * logits.abs()
    return sizes * logit_gradient_roundings(batch) + of_argument.where(sizes > 0, 0)


def loss_precision(batch: Batch) -> torch.dtype:
    """Return the dtype of the loss terms: float32 under autocast, which computes them in float32."""
    return torch.float32 if batch.autocast else precision(batch.dtype)
