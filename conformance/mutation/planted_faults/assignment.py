"""Faults of the assigner: candidates, overlap, metric, top-k, conflict, targets and normalisation."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import tal_reference.anchors
import tal_reference.annotations
import tal_reference.assignment
import tal_reference.boxes
import tal_reference.decoding
import tal_reference.dialect
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import LEFT_OUT, enter, fault
from tal_reference import GroundTruths, Hyperparameters, Targets
from tal_reference.assignment import NORMALISATION_EPS


@fault(at="tal_reference.assignment.candidates_of")
def inclusive_border(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates that include anchors exactly on the border of a ground truth: `>=` instead of `>`."""
    return (tal_reference.assignment.distance_inside(truths.boxes, centres, floor) >= 0) & truths.real[
        :, None
    ]


@fault(at="tal_reference.dialect.Dialect.floor", outputs_stages=LEFT_OUT)
def floor_of_first_stride(self: object, strides: tuple[int, ...]) -> tuple[int, int]:
    """Return the first stride as the length to which small sides are widened, instead of the second stride."""
    return strides[0], strides[0]


@fault(at="tal_reference.dialect.Dialect.floor", outputs_stages=LEFT_OUT)
def no_floor(self: object, strides: tuple[int, ...]) -> tuple[int, int]:
    """Return zero as the length to which small sides of ground truths are widened, so that no side is widened."""
    return 0, 0


@fault(at="tal_reference.assignment.distance_inside")
def only_horizontally_inside(boxes: Tensor, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return distances to the left and right side of the box only, so that candidates may lie above or below it."""
    wide = tal_reference.assignment.widened(boxes, floor)[:, None]
    return torch.minimum(centres[:, 0] - wide[..., 0], wide[..., 2] - centres[:, 0])


# If the largest overlap happens to equal the reference's, the report names the stage "metric".
@fault(
    at="tal_reference.assignment.ciou",
    outputs_stages=(
        StageName.OVERLAP,
        StageName.METRIC,
    ),
)
def iou_for_ciou(first: Tensor, second: Tensor) -> Tensor:
    """Return IoU instead of CIoU as the overlap in the assignment."""
    return tal_reference.boxes.iou(first, second)


# A negative overlap to an even power gives a positive metric, but never wins a contested anchor.
@fault(
    at="tal_reference.assignment.overlaps_of",
    outputs_stages=(
        StageName.CANDIDATES,
        StageName.OVERLAP,
        StageName.METRIC,
    ),
)
def ciou_unclamped(truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Return overlaps without clamping negative values to zero."""
    return tal_reference.boxes.ciou(truths[:, None], boxes).where(candidates, 0)


# The overlap is too small. In the outputs of a single positive, a too small metric has the same effect.
@fault(at="tal_reference.assignment.ciou", outputs_stages=(StageName.OVERLAP, StageName.METRIC))
def overlap_in_cells(first: Tensor, second: Tensor) -> Tensor:
    """Return CIoU of boxes whose coordinates are divided by 4,096, so that the formula's eps changes the result."""
    return tal_reference.boxes.ciou(first / 4096, second / 4096)


@fault(at="tal_reference.assignment.alignment_metric")
def alpha_of_one(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric with alpha = 1, the default of the official assigner class."""
    return score * overlap**numbers.beta


@fault(at="tal_reference.assignment.alignment_metric")
def beta_of_five(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric with beta - 1 instead of beta."""
    return score**numbers.alpha * overlap ** (numbers.beta - 1)


@fault(at="tal_reference.assignment.alignment_metric")
def alpha_and_beta_swapped(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric with alpha and beta exchanged."""
    return score**numbers.beta * overlap**numbers.alpha


_top_k = tal_reference.assignment.top_k


@fault(at="tal_reference.assignment.top_k")
def nine_for_ten(metric: Tensor, k: int) -> Tensor:
    """Return the selection of the k - 1 best anchors of each ground truth instead of k."""
    return _top_k(metric, k - 1)


@fault(at="tal_reference.assignment.top_k")
def eleven_for_ten(metric: Tensor, k: int) -> Tensor:
    """Return the selection of the k + 1 best anchors of each ground truth instead of k."""
    return _top_k(metric, min(k + 1, metric.shape[1]))


@fault(at="tal_reference.assignment.top_k", outputs_stages=LEFT_OUT)
def zeros_do_not_compete(metric: Tensor, k: int) -> Tensor:
    """Return the k best anchors of each ground truth, without anchors whose metric is zero."""
    return _top_k(metric, k) & (metric > 0)


@fault(at="tal_reference.assignment.top_k")
def threshold_for_top_k(metric: Tensor, k: int) -> Tensor:
    """Return all anchors with at least the k-th largest metric: more than k if several anchors have this metric."""
    return metric >= metric.topk(k, dim=1).values[:, -1:]


@fault(at="tal_reference.assignment.top_k")
def k_cut_to_the_anchors(metric: Tensor, k: int) -> Tensor:
    """Return the selection of all anchors if there are fewer than k, instead of raising."""
    return _top_k(metric, min(k, metric.shape[1]))


@fault(at="tal_reference.assignment.top_k")
def nothing_taken_of_few_anchors(metric: Tensor, k: int) -> Tensor:
    """Return an empty selection if there are fewer than k anchors, instead of raising."""
    return _top_k(metric, k) if k <= metric.shape[1] else torch.zeros_like(metric, dtype=torch.bool)


def _settled(selected: Tensor, score: Tensor) -> Tensor:
    best = torch.zeros_like(selected).scatter(0, score.argmax(0, keepdim=True), True)
    return torch.where(selected.sum(0) > 1, best, selected)


@fault(at="tal_reference.assignment.settle_contested")
def contested_by_claimants(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives in which only a ground truth that selected a contested anchor can win it."""
    return _settled(selected, overlap.where(selected, -1))


@fault(at="tal_reference.assignment.settle_contested")
def contested_goes_to_the_first(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives in which a contested anchor goes to the first ground truth that selected it."""
    return _settled(selected, selected.float())


# The reported ground truth may be correct by chance; the weights of all ground truths that selected the anchor add up.
@fault(
    at="tal_reference.assignment.settle_contested",
    outputs_stages=(
        StageName.CONFLICT,
        StageName.METRIC,
        StageName.NORMALISATION,
    ),
)
def contested_stays_with_all(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives in which a contested anchor stays with all ground truths that selected it."""
    return selected


class _ByMetric:
    """Storage of the metric, filled when `top_k` runs, because `settle_contested` does not receive the metric."""

    metric: Tensor

    @classmethod
    def top_k(cls, metric: Tensor, k: int) -> Tensor:
        cls.metric = metric
        return _top_k(metric, k)


@fault(
    at="tal_reference.assignment.settle_contested", also={"tal_reference.assignment.top_k": _ByMetric.top_k}
)
def contested_by_metric(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives in which a contested anchor goes to the largest metric, not the largest overlap."""
    return _settled(selected, _ByMetric.metric)


class _Unmasked:
    """Storage of the overlaps of all pairs, filled when `overlaps_of` runs, which returns zero for non-candidates."""

    overlap: Tensor

    @classmethod
    def overlaps_of(cls, truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
        cls.overlap = tal_reference.boxes.ciou(truths[:, None], boxes).clamp(min=0)
        return cls.overlap.where(candidates, 0)


@fault(
    at="tal_reference.assignment.settle_contested",
    also={"tal_reference.assignment.overlaps_of": _Unmasked.overlaps_of},
)
def contested_by_unmasked_overlap(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives in which a non-candidate can win a contested anchor, as in releases before 8.0.52."""
    return _settled(selected, _Unmasked.overlap)


enter("topk2_ignored", {"tal_reference.settings.Hyperparameters.effective_topk2": None})


def _one_more(self: Hyperparameters) -> int | None:
    return None if self.topk2 in (None, self.topk) else self.topk2 + 1


enter("one_more_than_topk2", {"tal_reference.settings.Hyperparameters.effective_topk2": property(_one_more)})


_targets_of = tal_reference.assignment.targets_of


_normalised = tal_reference.assignment.normalised


@fault(at="tal_reference.assignment.targets_of")
def widened_target_box(
    truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None
) -> Targets:
    """Return targets whose boxes are the widened ground truths instead of the annotated boxes."""
    wide = GroundTruths(truths.labels, tal_reference.assignment.widened(truths.boxes, (16, 16)))
    return _targets_of(wide, positives, weights, trace)


@fault(at="tal_reference.assignment.targets_of")
def label_of_the_first(
    truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None
) -> Targets:
    """Return targets in which every positive has the class of the first ground truth."""
    same = GroundTruths(truths.labels[:1].expand_as(truths.labels), truths.boxes)
    return _targets_of(same, positives, weights, trace)


class _Selected:
    """Storage of the selected anchors, filled when `settle_contested` runs, before contested anchors are resolved."""

    selected: Tensor
    settle = staticmethod(tal_reference.assignment.settle_contested)

    @classmethod
    def settle_contested(cls, selected: Tensor, overlap: Tensor) -> Tensor:
        cls.selected = selected
        return cls.settle(selected, overlap)


@fault(
    at="tal_reference.assignment.normalised",
    also={"tal_reference.assignment.settle_contested": _Selected.settle_contested},
)
def weights_before_conflict(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return weights normalised by the largest metric of all selected anchors, not of the positives only."""
    taken = _Selected.selected
    best_metric = (metric * taken).amax(1, keepdim=True)
    best_overlap = (overlap * taken).amax(1, keepdim=True)
    return (metric * positives * best_overlap / (best_metric + NORMALISATION_EPS)).sum(0)


@fault(at="tal_reference.assignment.normalised")
def clamped_for_added_eps(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return weights whose denominator is the largest metric clamped at eps, instead of this metric plus eps."""
    metric, overlap = metric * positives, overlap * positives
    best = metric.amax(1, keepdim=True).clamp(min=NORMALISATION_EPS)
    return (metric * overlap.amax(1, keepdim=True) / best).sum(0)


@fault(at="tal_reference.assignment.normalised")
def not_scaled_by_overlap(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return weights not multiplied by the largest overlap: the positive with the largest metric has weight 1."""
    metric = metric * positives
    return (metric / (metric.amax(1, keepdim=True) + NORMALISATION_EPS)).sum(0)


class _Losers:
    """Storage of selection and labels, filled when `targets_of` runs, to find the ground truths that lost an anchor."""

    selected: Tensor
    labels: Tensor

    @classmethod
    def targets_of(
        cls, truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None
    ) -> Targets:
        cls.selected, cls.labels = _Selected.selected, truths.labels
        targets = _targets_of(truths, positives, weights, trace)
        return _KeepsLosers(**vars(targets))


class _KeepsLosers(Targets):
    def scores(self, classes: int) -> Tensor:
        one_hot = functional.one_hot(_Losers.labels, classes).to(self.weights.dtype)  # (M, C)
        taken = (_Losers.selected.to(one_hot.dtype).T @ one_hot).clamp(max=1)  # (A, C)
        return torch.maximum(super().scores(classes), taken * self.weights[:, None])


# The target scores of an anchor are positive for the classes of all ground truths that selected it.
enter(
    "losing_truth_keeps_its_score",
    {
        "tal_reference.assignment.targets_of": _Losers.targets_of,
        "tal_reference.assignment.settle_contested": _Selected.settle_contested,
    },
)


_background = tal_reference.assignment.background


@fault(at="tal_reference.assignment.background")
def empty_image_scores(truths: GroundTruths, anchors: int) -> Targets:
    """Return targets of an image without ground truths, with a target score of 0.001 for every anchor."""
    return replace(_background(truths, anchors), weights=truths.boxes.new_full((anchors,), 1e-3))


@fault(at="tal_reference.assignment.background")
def empty_image_is_foreground(truths: GroundTruths, anchors: int) -> Targets:
    """Return targets of an image without ground truths, with every anchor a positive of weight zero."""
    return replace(_background(truths, anchors), foreground=torch.ones(anchors, dtype=torch.bool))
