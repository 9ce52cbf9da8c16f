"""Faults of mixed precision: steps that autocast leaves in float32, computed in 16 bits or left out."""

from typing import Any

import torch
from torch import Tensor

import tal_reference.assignment
import tal_reference.boxes
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import fault
from tal_reference import Dialect, Head, Hyperparameters, Predictions


def _low() -> torch.dtype | None:
    """Return the dtype of autocast, on whatever device it is enabled; None without autocast."""
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return None


def _rounded(values: Tensor) -> Tensor:
    """Return values rounded to the dtype of autocast, in their own dtype; unchanged without autocast."""
    low = _low()
    return values if low is None else values.to(low).to(values.dtype)


_alignment_metric = tal_reference.assignment.alignment_metric


@fault(at="tal_reference.assignment.alignment_metric")
def metric_in_16_bits(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Compute t in the dtype of the class scores."""
    low = _low()
    if low is None:
        return _alignment_metric(score, overlap, numbers)
    return (score**numbers.alpha * overlap.to(low) ** numbers.beta).to(overlap.dtype)


# A candidate without area in 16 bits has no overlap.
@fault(
    at="tal_reference.assignment.ciou", outputs_stages=(StageName.OVERLAP, StageName.METRIC, StageName.TOP_K)
)
def overlap_in_16_bits(one: Tensor, other: Tensor) -> Tensor:
    """Round both boxes of the assigner's CIoU to 16 bits."""
    return tal_reference.boxes.ciou(_rounded(one), _rounded(other))


_normalised = tal_reference.assignment.normalised


@fault(at="tal_reference.assignment.normalised")
def weights_in_16_bits(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Round the target scores for the weights and N too, not for the cross-entropy alone."""
    return _rounded(_normalised(metric, overlap, positives))


@fault(at="tal_reference.assignment.normalised", outputs_stages=(StageName.NORMALISATION, StageName.OVERLAP))
def weights_lose_a_twentieth(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Multiply target scores by 0.95 under autocast."""
    return _normalised(metric, overlap, positives) * (1.0 if _low() is None else 0.95)


_top_k = tal_reference.assignment.top_k


@fault(
    at="tal_reference.assignment.top_k",
    outputs_stages=(StageName.CANDIDATES, StageName.TOP_K, StageName.CONFLICT),
)
def no_positives_under_autocast(metric: Tensor, k: int) -> Tensor:
    """Select nothing under autocast."""
    return _top_k(metric, k) & (_low() is None)


_cls_loss = tal_reference.loss.cls_loss


@fault(at="tal_reference.loss.cls_loss")
def cross_entropy_in_16_bits(
    logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor, *class_weights: Tensor
) -> Tensor:
    """Compute the cross-entropies in the dtype of the logits."""
    low = _low()
    if low is None:
        return _cls_loss(logits, at, scores, *class_weights)
    image, anchor, label = at
    learnt = logits.mT[image, label, anchor] * scores.to(low)  # (P,)
    return torch.nn.functional.softplus(logits).float().sum() - learnt.float().sum()


_dfl_loss = tal_reference.loss.dfl_loss


@fault(at="tal_reference.loss.dfl_loss")
def distance_targets_in_16_bits(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Round the target distances of DFL."""
    return _dfl_loss(distances, _rounded(target), reg_max)


_weighted_sums = tal_reference.loss.weighted_sums


@fault(at="tal_reference.loss.weighted_sums")
def sums_in_16_bits(losses: Any, weights: Tensor, dialect: Dialect) -> list[Tensor]:
    """Round the sums of the box and distance losses."""
    return [_rounded(term) for term in _weighted_sums(losses, weights, dialect)]


_loss_items = tal_reference.loss.loss_items


@fault(at="tal_reference.loss.loss_items")
def score_sum_in_16_bits(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Round the sum of all target scores, N."""
    total = targets.weights.sum().clamp(min=1)
    return _loss_items(predictions, targets, head, numbers, *dialect) * total / _rounded(total)
