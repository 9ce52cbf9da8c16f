"""Faults of mixed precision: under autocast, a float32 step is computed in 16 bits, or is left out.

Without autocast, all of these functions compute the correct result.
"""

from typing import Any

import torch
from torch import Tensor

import tal_reference.assignment
import tal_reference.boxes
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import LEFT_OUT, fault
from tal_reference import Dialect, Head, Hyperparameters, Predictions


def _low() -> torch.dtype | None:
    """Return the dtype of autocast on CPU or CUDA; None if autocast is not enabled."""
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return None


def _rounded(values: Tensor) -> Tensor:
    """Return values rounded to autocast's dtype, in their own dtype; without autocast, return the values unchanged."""
    low = _low()
    return values if low is None else values.to(low).to(values.dtype)


_alignment_metric = tal_reference.assignment.alignment_metric


@fault(at="tal_reference.assignment.alignment_metric", outputs_stages=(StageName.METRIC, *LEFT_OUT))
def metric_in_16_bits(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric computed in the 16-bit dtype of autocast."""
    low = _low()
    if low is None:
        return _alignment_metric(score, overlap, numbers)
    return (score**numbers.alpha * overlap.to(low) ** numbers.beta).to(overlap.dtype)


# A box whose area becomes zero in 16 bits has no overlap, so that its anchor is not selected.
@fault(
    at="tal_reference.assignment.ciou", outputs_stages=(StageName.OVERLAP, StageName.METRIC, StageName.TOP_K)
)
def overlap_in_16_bits(first: Tensor, second: Tensor) -> Tensor:
    """Return CIoU for the assigner, of boxes that are both rounded to 16 bits."""
    return tal_reference.boxes.ciou(_rounded(first), _rounded(second))


_normalised = tal_reference.assignment.normalised


@fault(at="tal_reference.assignment.normalised")
def weights_in_16_bits(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return weights rounded to 16 bits; they should be rounded in the cross-entropy only."""
    return _rounded(_normalised(metric, overlap, positives))


@fault(at="tal_reference.assignment.normalised", outputs_stages=(StageName.NORMALISATION, StageName.OVERLAP))
def weights_lose_a_twentieth(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return weights multiplied by 0.95 under autocast."""
    return _normalised(metric, overlap, positives) * (1.0 if _low() is None else 0.95)


_top_k = tal_reference.assignment.top_k


@fault(
    at="tal_reference.assignment.top_k",
    outputs_stages=(StageName.CANDIDATES, StageName.TOP_K, StageName.CONFLICT),
)
def no_positives_under_autocast(metric: Tensor, k: int) -> Tensor:
    """Return an empty selection under autocast."""
    return _top_k(metric, k) & (_low() is None)


_cls_loss = tal_reference.loss.cls_loss


@fault(at="tal_reference.loss.cls_loss")
def cross_entropy_in_16_bits(
    logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor, *class_weights: Tensor
) -> Tensor:
    """Return the class loss with every cross-entropy computed in the 16-bit dtype of autocast."""
    low = _low()
    if low is None:
        return _cls_loss(logits, at, scores, *class_weights)
    image, anchor, label = at
    learnt = logits.mT[image, label, anchor] * scores.to(low)  # (P,)
    return torch.nn.functional.softplus(logits).float().sum() - learnt.float().sum()


_dfl_loss = tal_reference.loss.dfl_loss


@fault(at="tal_reference.loss.dfl_loss")
def distance_targets_in_16_bits(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return DFL of target distances that are rounded to 16 bits."""
    return _dfl_loss(distances, _rounded(target), reg_max)


_weighted_sums = tal_reference.loss.weighted_sums


@fault(at="tal_reference.loss.weighted_sums")
def sums_in_16_bits(losses: Any, weights: Tensor, dialect: Dialect) -> list[Tensor]:
    """Return the weighted sums of box loss and DFL, rounded to 16 bits."""
    return [_rounded(term) for term in _weighted_sums(losses, weights, dialect)]


_loss_items = tal_reference.loss.loss_items


@fault(at="tal_reference.loss.loss_items")
def score_sum_in_16_bits(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items divided by N, the sum of all target scores, rounded to 16 bits."""
    total = targets.weights.sum().clamp(min=1)
    return _loss_items(predictions, targets, head, numbers, *dialect) * total / _rounded(total)
