"""The reference's loss of a batch and its gradients, for given targets, in a given dtype.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import DETECT
from tal_conformance.judgement.bounds import precision
from tal_reference import BatchTargets, Dialect, Predictions
from tal_reference.composed import loss_items, total_factor
from tal_reference.loss import class_factors

Gradients = tuple[Tensor, Tensor]
"""Gradients on the distance logits, (B, A, 4R), of `LossRounding` (P, 4R), and on the class logits, (B, A, C)."""

ZERO = torch.zeros((), dtype=torch.float64)
"""A scalar that stands for a tensor of zeros; on the CPU it can be combined with tensors of every device."""


LOSS_ITEMS_BY_TASK = {DETECT.name: loss_items}
"""The reference's loss items, one for each term, of every task."""


@dataclass(frozen=True)
class ReferenceLoss:
    """The reference's loss of a batch in one dtype, for given targets.

    Attributes:
        predictions: the decoded feature maps.
        items: (3,) box, cls, dfl: times their gains, not times the batch size.
        of_total: gradients of the total.
        of_terms: separate gradients of box, cls and dfl; empty unless they were requested.
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
        each_term: differentiate box, cls and dfl separately, in addition to the total.
    """
    leaves = distances, logits = (
        predictions.distances.detach().requires_grad_(),
        predictions.logits.detach().requires_grad_(),
    )
    finest = torch.promote_types(
        dtype, torch.float32
    )  # targets have the annotations' dtype, float32 or finer
    positives = targets.positives
    cast = replace(positives, boxes=positives.boxes.to(finest), weights=positives.weights.to(finest))
    with torch.autocast(batch.device.type, dtype=dtype, enabled=batch.autocast and dtype != torch.float64):
        leaf = replace(predictions, distances=distances, logits=logits)
        items = LOSS_ITEMS_BY_TASK[batch.task](leaf, cast, batch.head, batch.hyperparameters, dialect)
    factor = total_factor(batch.images, dialect)
    if not each_term:
        of_distances, of_logits = torch.autograd.grad(items.sum() * factor, leaves)
        return ReferenceLoss(predictions, items.detach(), (of_distances, of_logits))
    box, cls, dfl = (items * factor).unbind()
    of_box, of_dfl = (torch.autograd.grad(term, distances, retain_graph=True)[0] for term in (box, dfl))
    (of_cls,) = torch.autograd.grad(cls, logits)
    # gradients of box and dfl on the distance logits are added, as they are when their total is differentiated
    of_both = of_box + of_dfl
    # LOSS-GRAD-1: zero; but the terms are differentiated as parts of one tensor, where zero times NaN is NaN
    no_logits, no_distances = torch.zeros_like(logits), of_both * 0
    of_terms = (of_box, no_logits), (no_distances, of_cls), (of_dfl, no_logits)
    return ReferenceLoss(predictions, items.detach(), (of_both, of_cls), of_terms)


def class_factors_of(batch: Batch, like: Tensor) -> Tensor:
    """Return the factor of each class's cross-entropy (C,) in float64 (COR-7), or a scalar 1 without class weights.

    The factors are on the device of `like`.
    """
    factors = class_factors(batch.head, like.double())
    return like.new_ones((), dtype=torch.float64) if factors is None else factors


def logit_gradient_roundings(batch: Batch) -> int:
    """Return the number of roundings of the gradient on a class logit (LOSS-GRAD-1).

    They are those of sigma, of its difference to z, and of the product with gain and 1 / N; a factor of the class is
    one more product (COR-7).
    """
    return 3 if batch.head.class_weights is None else 4


def loss_precision(batch: Batch) -> torch.dtype:
    """Return the dtype of the loss terms: float32 under autocast, which computes them in float32."""
    return torch.float32 if batch.autocast else precision(batch.dtype)
