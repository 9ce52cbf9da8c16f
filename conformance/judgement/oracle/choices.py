"""The admissible selections and owners of dialects with other rules of selection or ownership (TAL-TOPK-1, TAL-CONF-1).

M ground truths, A anchors. For a dialect that is a release, these rules equal those of the module `admissible`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tal_conformance.judgement.oracle.admissible import Range, Selection, may_own, top_k_choices
from tal_reference import Dialect, OverlapsCompared
from tal_reference.variations import Contested, DroppedPicks
from tal_reference.varied_assignment import LEAST_PICK


def pick_choices(
    metric: Range, candidate: Tensor, may_candidate: Tensor, real: Tensor, k: int, dialect: Dialect
) -> Selection:
    """Return the admissible selections of each ground truth (TAL-TOPK-1).

    Args:
        metric: (M, A) ranges of t, also off candidates if the dialect compares overlaps there.
        candidate: (M, A) bool: the anchor is certainly a candidate.
        may_candidate: (M, A) bool: the anchor may be a candidate; includes `candidate`.
        real: (M,) bool: the ground truth is real, not padding (ANN-3).
        k: number of anchors that each ground truth selects.
        dialect: the dialect, which may replace k.
    """
    rivals = metric
    if (
        dialect.overlaps_compared is OverlapsCompared.EVERYWHERE
    ):  # off candidates t is known, and does not compete
        rivals = Range(metric.low * candidate, metric.high * may_candidate)
    shows, may_show = candidate, may_candidate
    if dialect.dropped_picks is not DroppedPicks.NONE:  # a dropped pick has competed, and does not show
        least = LEAST_PICK[dialect.dropped_picks]
        shows, may_show = shows & (metric.low > least), may_show & (metric.high > least)
    selection = top_k_choices(rivals, shows, may_show, k)
    return with_at_least_one(selection, metric, real) if dialect.at_least_one else selection


def with_at_least_one(selection: Selection, metric: Range, real: Tensor) -> Selection:
    """Return selections in which every ground truth that selected no anchor takes its anchor of largest t, if t > 0."""
    could_be_largest = (metric.high >= metric.low.amax(1, keepdim=True)) & (metric.high > 0)
    could_be_largest = could_be_largest & real[:, None]  # (M, A)
    may_lack, lacks = selection.min_count == 0, selection.max_count == 0  # (M,) twice
    exists = (metric.low.amax(1) > 0) & real  # (M,)
    alone = could_be_largest & (could_be_largest.sum(1, keepdim=True) == 1)  # (M, A)
    return replace(
        selection,
        must=selection.must | (alone & (lacks & exists)[:, None]),
        may=selection.may | (could_be_largest & may_lack[:, None]),
        min_count=torch.where(may_lack & exists, 1, selection.min_count),
        max_count=torch.where(
            may_lack & could_be_largest.any(1), selection.max_count.clamp(min=1), selection.max_count
        ),
    )


def may_win(selection: Selection, overlap: Range, metric: Range, dialect: Dialect) -> Tensor:
    """Return (M, A) bool: True for ground truths that may own the anchor if several select it (TAL-CONF-1).

    In some dialects only a ground truth that selected an anchor can own it. If the selection is not unique, the mask is
    then a necessary condition, not a sufficient one: no ground truth that certainly selects the anchor has a certainly
    larger value.

    Args:
        selection: the admissible selections.
        overlap: (M, A) ranges of the overlap that is compared.
        metric: (M, A) ranges of t.
        dialect: the dialect.
    """
    order = torch.arange(len(metric.low), device=metric.low.device, dtype=metric.low.dtype)
    position = Range.exact(order[:, None].expand_as(metric.low))  # (M, A)
    match dialect.contested:
        case Contested.OVERLAP | Contested.ANY_OVERLAP:
            return may_own(overlap)
        case Contested.METRIC:
            return may_own(metric)
        case Contested.CLAIMANTS:
            return _best_claimant(selection, overlap)
        case Contested.CLAIMANTS_METRIC:
            return _best_claimant(selection, metric)
        case Contested.FIRST:
            return _best_claimant(selection, Range.exact(-position.low))
        case Contested.LAST:
            return _best_claimant(selection, position)


def _best_claimant(selection: Selection, value: Range) -> Tensor:
    """Return (M, A) bool: the pair may be selected, and no certainly selected pair of its anchor has a larger value."""
    return selection.may & (value.high >= value.low.where(selection.must, -torch.inf).amax(0))
