"""Faults of constants: the code assumes the head or the hyperparameters of official models."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tal_reference.anchors
import tal_reference.assignment
import tal_reference.decoding
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import LEFT_OUT, SEEN_LATER, enter, fault
from tal_reference import Anchors, Head, Hyperparameters, Predictions

_make_anchors = tal_reference.anchors.make_anchors
_alignment_metric = tal_reference.assignment.alignment_metric
_top_k = tal_reference.assignment.top_k
_loss_items = tal_reference.loss.loss_items


def _with_strides(feature_maps: Sequence[Tensor], strides: Sequence[int]) -> Anchors:
    return _make_anchors(feature_maps, Head(tuple(strides), 1))


@fault(at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def strides_doubled(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """Return anchors as if each level had twice the stride of the level before."""
    return _with_strides(feature_maps, [head.strides[0] * 2**level for level in range(len(head.strides))])


@fault(at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def strides_sorted(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """Return anchors with the strides in ascending order instead of the order of the levels."""
    return _with_strides(feature_maps, sorted(head.strides))


@fault(at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def strides_of_four_levels(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """Return anchors with the fourth stride for every level after the fourth."""
    return _with_strides(feature_maps, [head.strides[min(n, 3)] for n in range(len(head.strides))])


@fault(at="tal_reference.dialect.Dialect.floor", outputs_stages=SEEN_LATER)
def floor_of_twice_the_first_stride(self: object, strides: tuple[int, ...]) -> tuple[int, int]:
    """Return twice the first stride as the length to which small boxes are widened, instead of the second stride."""
    second = 2 * strides[0] if len(strides) > 1 else strides[0]
    return second, second


@fault(at="tal_reference.dialect.Dialect.floor", outputs_stages=SEEN_LATER)
def floor_of_the_second_smallest(self: object, strides: tuple[int, ...]) -> tuple[int, int]:
    """Return the second smallest stride as the length to which small boxes are widened, not the second level's."""
    second = sorted(strides)[min(1, len(strides) - 1)]
    return second, second


@fault(at="tal_reference.decoding.expected_distances", outputs_stages=(*SEEN_LATER, StageName.BOX))
def odd_bins_without_the_last(distances: Tensor, reg_max: int) -> Tensor:
    """Return expected distances without the last of an odd number of bins, as if bins were read in pairs."""
    sides = distances.unflatten(-1, (4, reg_max))
    if reg_max == 1:
        return sides.squeeze(-1)
    bins = torch.arange(reg_max, dtype=distances.dtype, device=distances.device)
    paired = bins < reg_max // 2 * 2
    return sides.softmax(-1) @ (bins * paired)


@fault(at="tal_reference.decoding.expected_distances", outputs_stages=(*SEEN_LATER, StageName.BOX))
def bins_end_at_15(distances: Tensor, reg_max: int) -> Tensor:
    """Return expected distances with the numbers of the bins modulo 16, as in four bits."""
    sides = distances.unflatten(-1, (4, reg_max))
    if reg_max == 1:
        return sides.squeeze(-1)
    bins = torch.arange(reg_max, dtype=distances.dtype, device=distances.device) % 16
    return sides.softmax(-1) @ bins


@fault(at="tal_reference.assignment.top_k", outputs_stages=LEFT_OUT)
def k_of_at_most_13(metric: Tensor, k: int) -> Tensor:
    """Return the selection of at most 13 anchors for each ground truth, even if k is larger."""
    return _top_k(metric, min(k, 13))


@fault(at="tal_reference.assignment.top_k", outputs_stages=LEFT_OUT)
def k_of_at_most_32(metric: Tensor, k: int) -> Tensor:
    """Return the selection of at most 32 anchors for each ground truth, even if k is larger."""
    return _top_k(metric, min(k, 32))


@fault(at="tal_reference.assignment.alignment_metric")
def beta_as_a_whole_number(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric with beta rounded down to a whole number."""
    return _alignment_metric(score, overlap, replace(numbers, beta=int(numbers.beta)))


@fault(at="tal_reference.assignment.alignment_metric")
def alpha_in_halves(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric with alpha rounded to a multiple of 0.5."""
    return _alignment_metric(score, overlap, replace(numbers, alpha=round(2 * numbers.alpha) / 2))


def _with_gains(
    predictions: Predictions,
    targets: Any,
    head: Head,
    numbers: Hyperparameters,
    *dialect: Any,
    **gains: Any,
) -> Tensor:
    return _loss_items(predictions, targets, head, replace(numbers, **gains), *dialect)


@fault(at="tal_reference.loss.loss_items")
def class_gain_in_float16(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items with the gain of the class loss rounded to float16."""
    gain = float(torch.tensor(numbers.cls_gain).half())
    return _with_gains(predictions, targets, head, numbers, *dialect, cls_gain=gain)


@fault(at="tal_reference.loss.loss_items")
def class_gain_or_default(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """Return the loss items with the default class gain of 0.5 instead of a given gain of zero."""
    gain = numbers.cls_gain or 0.5
    return _with_gains(predictions, targets, head, numbers, *dialect, cls_gain=gain)


def _naive_softmax(sides: Tensor, eps: float = 0.0) -> Tensor:
    exponentials = sides.exp()
    return exponentials / (exponentials.sum(-1, keepdim=True) + eps)


def _expected(shares: Tensor) -> Tensor:
    return shares @ torch.arange(shares.shape[-1], dtype=shares.dtype, device=shares.device)


def _of_shares(name: str, shares_of: Any) -> None:
    """Register a fault that computes the probabilities of the bins with `shares_of` instead of the softmax."""

    def expected_distances(distances: Tensor, reg_max: int) -> Tensor:
        sides = distances.unflatten(-1, (4, reg_max))
        return sides.squeeze(-1) if reg_max == 1 else _expected(shares_of(sides))

    stages = (*SEEN_LATER, StageName.BOX)
    enter(name, {"tal_reference.decoding.expected_distances": expected_distances}, outputs_stages=stages)


_of_shares("softmax_of_large_logits", _naive_softmax)
_of_shares("softmax_with_eps", lambda sides: _naive_softmax(sides.clamp(max=80), 1e-6))
_of_shares("softmax_of_clamped_logits", lambda sides: sides.clamp(-50, 50).softmax(-1))

_dfl_loss = tal_reference.loss.dfl_loss
_cls_loss = tal_reference.loss.cls_loss


@fault(at="tal_reference.loss.dfl_loss")
def dfl_of_clamped_logits(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return the distribution focal loss of distance logits clamped to [-64, 64]."""
    return _dfl_loss(distances.clamp(-64, 64), target, reg_max)


@fault(at="tal_reference.loss.cls_loss")
def class_logits_clamped(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """Return the class loss of logits clamped to [-709, 709], where exponentials are finite in float64."""
    return _cls_loss(logits.clamp(-709, 709), at, scores)
