"""TODO tal_conformance.judgement.loss_reference."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import DETECT
from tal_conformance.judgement.bounds import (
    precision,
)
from tal_conformance.judgement.comparators import all_finite
from tal_reference import NEWEST, BatchTargets, Dialect, Predictions
from tal_reference.loss import loss_items, read_predictions

Gradients = tuple[Tensor, Tensor]
"""On the distance logits (B, A, 4R), of `LossUnits` (P, 4R), and on the class logits (B, A, C)."""


ZERO = torch.zeros((), dtype=torch.float64)
"""In place of a tensor of zeros: a number on the CPU meets every device."""


LOSS_ITEMS_BY_TASK = {DETECT.name: loss_items}
"""The reference's loss items, one for each term, of every task."""


@dataclass(frozen=True)
class Computed:
    """The reference's loss of a batch in one dtype, for given targets.

    Attributes:
        predictions: the feature maps as the loss reads them.
        items: (3,) box, cls, dfl, with gains, without the batch size.
        of_total: its gradients.
        of_terms: those of box, cls and dfl each, where they were asked for.
    """

    predictions: Predictions
    items: Tensor
    of_total: Gradients
    of_terms: tuple[Gradients, ...] = ()


def compute(
    batch: Batch,
    targets: BatchTargets,
    dtype: torch.dtype,
    dialect: Dialect = NEWEST,
    each_term: bool = False,
    read: Predictions | None = None,
) -> Computed:
    """The reference's loss and gradient in `dtype` for given targets; `each_term` differentiates one by one too.

    `read`: the batch's predictions in that dtype, where they are at hand.
    """
    if read is None:
        read = read_predictions([level.detach().to(dtype) for level in batch.feature_maps], batch.head)
    leaves = distances, logits = (
        read.distances.detach().requires_grad_(),
        read.logits.detach().requires_grad_(),
    )
    finest = torch.promote_types(
        dtype, torch.float32
    )  # targets follow the annotations, which are never coarser
    positives = targets.positives
    given = replace(positives, boxes=positives.boxes.to(finest), weights=positives.weights.to(finest))
    with torch.autocast(batch.device.type, dtype=dtype, enabled=batch.autocast and dtype != torch.float64):
        leaf = replace(read, distances=distances, logits=logits)
        items = LOSS_ITEMS_BY_TASK[batch.task](leaf, given, batch.head, batch.hyperparameters, dialect)
    if not each_term:
        of_distances, of_logits = torch.autograd.grad(items.sum() * batch.images, leaves)
        return Computed(read, items.detach(), (of_distances, of_logits))
    box, cls, dfl = (items * batch.images).unbind()
    of_box, of_dfl = (torch.autograd.grad(term, distances, retain_graph=True)[0] for term in (box, dfl))
    (of_cls,) = torch.autograd.grad(cls, logits)
    # box and dfl meet on the distance logits, and are added there when their total is differentiated too
    of_both = of_box + of_dfl
    # LOSS-GRAD-1: zero; but the terms are differentiated as parts of one tensor, where zero times NaN is NaN
    no_logits, no_distances = torch.zeros_like(logits), of_both * 0
    of_terms = (of_box, no_logits), (no_distances, of_cls), (of_dfl, no_logits)
    return Computed(read, items.detach(), (of_both, of_cls), of_terms)


def is_defined(exact: Computed, at: tuple[Tensor, ...]) -> bool:
    """IOU-1: CIoU and its gradient are numbers at the positives, whose images and anchors `at` gives.

    They are not where a prediction of one bin is a box turned inside out whose negative area takes from the union all
    that is in it, eps included: 0 / 0. What official code makes of it depends on how it rounds.
    """
    return all_finite(exact.items) and all_finite(exact.of_total[0][at])


def loss_precision(batch: Batch) -> torch.dtype:
    """In which dtype the terms are computed: autocast runs softmax, logarithms and cross-entropies in float32."""
    return torch.float32 if batch.autocast else precision(batch.dtype)
