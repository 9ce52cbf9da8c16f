"""Faults of the class weights (COR-7)."""

import torch
from torch import Tensor

import tal_reference.loss
from tal_conformance.mutation.planted_faults.fault import enter, fault
from tal_reference import Head
from tal_reference.loss import Positives

_class_factors = tal_reference.loss.class_factors
_cls_loss = tal_reference.loss.cls_loss

enter("class_weights_ignored", {"tal_reference.loss.class_factors": lambda head, like: None})


@fault(at="tal_reference.loss.class_factors")
def class_weights_of_mean_one(head: Head, like: Tensor) -> Tensor | None:
    """Return class weights divided by their mean, unless all are zero."""
    weights = _class_factors(head, like)
    return None if weights is None else weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)


@fault(at="tal_reference.loss.class_factors")
def class_weights_shifted(head: Head, like: Tensor) -> Tensor | None:
    """Return the class weights as if a background class came first."""
    weights = _class_factors(head, like)
    return None if weights is None else weights.roll(1)


@fault(at="tal_reference.loss.cls_loss")
def class_weights_of_positives_alone(
    logits: Tensor, at: tuple[Tensor, ...], scores: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Return the class loss with weights at the positives' own classes only."""
    whole = _cls_loss(logits, at, scores)
    if class_weights is None:
        return whole
    image, anchor, label = at
    own = logits.mT[image, label, anchor]  # (P,)
    return whole + ((torch.nn.functional.softplus(own) - scores * own) * (class_weights[label] - 1)).sum()


@fault(at="tal_reference.loss.cls_loss")
def class_weights_of_backgrounds_alone(
    logits: Tensor, at: tuple[Tensor, ...], scores: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Return the class loss with weights on log(1 + e^x) only, not on the product with the target score."""
    if class_weights is None:
        return _cls_loss(logits, at, scores)
    image, anchor, label = at
    own = logits.mT[image, label, anchor] * scores  # (P,)
    return _cls_loss(logits, at, scores, class_weights) + (own * (class_weights[label] - 1)).sum()


@fault(at="tal_reference.loss.cls_sum")
def class_weights_in_the_score_sum(
    logits: Tensor, positives: Positives, dialect: tal_reference.Dialect, class_weights: Tensor | None = None
) -> Tensor:
    """Return the class loss divided by the sum of weighted target scores."""
    at = positives.image, positives.anchor, positives.labels
    factors = torch.ones_like(logits[0, 0]) if class_weights is None else class_weights
    score_sum = (positives.weights * factors[positives.labels]).sum()
    return _cls_loss(logits, at, positives.weights, class_weights) / score_sum.clamp(
        min=dialect.score_sum_floor
    )
