"""Stages "candidates" to "normalisation": the Task-Aligned Assigner, for one image (TAL-*).

Feng et al., TOOD: Task-aligned One-stage Object Detection, 2021; the article's section 3. In words: an anchor whose
centre lies in a ground truth may learn it. Each ground truth takes the k anchors that already predict it best (class
and box together). An anchor that several ground truths take goes to the ground truth that it overlaps most. The better
an anchor is among the positives of its ground truth, the higher is the class score that it must learn.

The article's names: `candidates_of` is its `__get_in_gts_mask` (<1>); `overlaps_of`, `alignment_metric` and `top_k` are
its `__refine_select` and `__select_topk_candidates` (<2>); `settle_contested` is (<3>), its
`__filter_repeat_assign_candidates`, `targets_of` its `__get_train_targets` (<4>), and `normalised` what follows it.

M is the number of ground truths of the image, A of anchors, C of classes, P of pairs of a ground truth and an anchor:
the candidates, or the positives. Scores, overlaps and metrics are computed on such pairs alone. No gradient flows
through the assignment.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_reference.annotations import GroundTruths
from tal_reference.boxes import ciou
from tal_reference.dialect import NEWEST, Dialect, OverlapsCompared
from tal_reference.settings import Hyperparameters
from tal_reference.shapes import Bool, Float, Int

INSIDE = 1e-9
"""Number of pixels by which the centre of a candidate must lie inside a box (TAL-CAND-1)."""
NORMALISATION_EPS = 1e-9
"""Added to the denominator of TAL-NORM-1, so that the weights are finite where every metric is zero."""


@dataclass(frozen=True)
class AssignmentTrace:
    """The values of every stage of one image's assignment, for each pair of a ground truth g and an anchor a.

    Attributes:
        candidates: (M, A) bool: a is a candidate of g (TAL-CAND-1, TAL-CAND-2).
        score: (M, A) s, the predicted score of the class of g at a; zero for non-candidates (TAL-MET-1).
        overlap: (M, A) u, the CIoU of boxes in pixels, at least zero; zero for non-candidates (TAL-MET-1).
        metric: (M, A) t = s^alpha u^beta (TAL-MET-1). In a dialect that compares all pairs, score, overlap and metric
            are not zero for non-candidates.
        selected: (M, A) bool: a is among the k largest metrics of g (TAL-TOPK-1).
        positives: (M, A) bool: a is assigned to g; at most one g for each a (TAL-CONF-1, TAL-CONF-2).
    """

    candidates: Bool[Tensor, "M A"]
    score: Float[Tensor, "M A"]
    overlap: Float[Tensor, "M A"]
    metric: Float[Tensor, "M A"]
    selected: Bool[Tensor, "M A"]
    positives: Bool[Tensor, "M A"]


@dataclass(frozen=True)
class Targets:
    """Targets of every anchor of one image (TAL-TGT-1); zeros on background.

    Attributes:
        foreground: (A,) bool: True for positives.
        truth_index: (A,) int64 index of the ground truth to which the anchor is assigned.
        labels: (A,) int64 class of that ground truth.
        boxes: (A, 4) annotated box of that ground truth, not widened; xyxy in pixels. Rotated boxes: (A, 5).
        weights: (A,) w, the target score of that class (TAL-NORM-1).
        trace: the values of every stage, if requested; None for an image without ground truths.
    """

    foreground: Bool[Tensor, "A"]
    truth_index: Int[Tensor, "A"]
    labels: Int[Tensor, "A"]
    boxes: Float[Tensor, "A box"]
    weights: Float[Tensor, "A"]
    trace: AssignmentTrace | None = None

    def scores(self, classes: int) -> Float[Tensor, "A C"]:
        """Return target scores (A, C): an anchor's weight at its label, zero elsewhere (TAL-TGT-1)."""
        scores = self.weights.new_zeros(len(self.weights), classes)
        return scores.scatter(1, self.labels[:, None], self.weights[:, None])  # (A, C)


@torch.no_grad()
def assign(
    scores: Float[Tensor, "A C"],
    boxes: Float[Tensor, "A 4"],
    centres: Float[Tensor, "A 2"],
    truths: GroundTruths,
    strides: tuple[int, ...],
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
) -> Targets:
    """Assign the ground truths of one image to its anchors, and return the targets of the anchors (TAL-*).

    Args:
        scores: (A, C) predicted class scores, after the sigmoid.
        boxes: (A, 4) predicted boxes, xyxy in pixels.
        centres: (A, 2) anchor centres in pixels.
        truths: the image's ground truths, boxes in pixels.
        strides: the head's strides in pixels, for TAL-CAND-2.
        hyperparameters: k, alpha, beta and topk2.
        dialect: the choices to follow where releases differ.
        keep_trace: store every stage's values in `trace`.

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2), or the dialect does not support the head or topk2.
    """
    if not len(truths):
        return background(truths, len(centres))  # TAL-EMPTY-1
    reject_unsupported(strides, hyperparameters, dialect)
    candidates = candidates_of(truths, centres, dialect.floor(strides))  # (M, A)
    compared = overlap_mask(candidates, dialect)  # (M, A) the candidates; all pairs in the oldest releases
    overlap = overlaps_of(truths.boxes, boxes, compared)  # (M, A)
    return assign_candidates(scores, truths, candidates, compared, overlap, hyperparameters, keep_trace)


def assign_candidates(
    scores: Float[Tensor, "A C"],
    truths: GroundTruths,
    candidates: Bool[Tensor, "M A"],
    compared: Bool[Tensor, "M A"],
    overlap: Float[Tensor, "M A"],
    hyperparameters: Hyperparameters,
    keep_trace: bool = False,
) -> Targets:
    """Return the targets of one image, given its candidates and overlaps.

    Axis-aligned and rotated boxes differ only in candidates and overlaps; all later stages are shared (COR-4).

    Args:
        scores: (A, C) predicted class scores, after the sigmoid.
        truths: the image's ground truths, at least one.
        candidates: (M, A) bool: True where the anchor is a candidate of the ground truth.
        compared: (M, A) bool: True for pairs of which u is computed: candidates, or all in the oldest releases.
        overlap: (M, A) overlaps u, at least zero; zero for pairs that are not compared.
        hyperparameters: k, alpha, beta and topk2.
        keep_trace: store every stage's values in `trace`.

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2).
    """
    truth, anchor = pairs = compared.nonzero(as_tuple=True)  # (P,), (P,): few of all pairs; s, u and t of others are 0
    score = scores[anchor, truths.labels[truth]]  # (P,)
    metric = scatter_pairs(alignment_metric(score, overlap[pairs], hyperparameters), pairs, candidates)  # (M, A)
    rivals = metric if compared is candidates else metric * candidates  # (M, A)
    selected = top_k(rivals, hyperparameters.topk) & candidates  # (M, A)
    positives = settle_contested(selected, overlap)  # (M, A)
    if hyperparameters.effective_topk2 is not None:
        positives = positives & top_k(metric * positives, hyperparameters.effective_topk2)  # (M, A)   TAL-CONF-2, COR-3
    weights = normalised(metric, overlap, positives)  # (A,) the article computes weights after its targets
    if not keep_trace:
        return targets_of(truths, positives, weights)
    trace = AssignmentTrace(candidates, scatter_pairs(score, pairs, candidates), overlap, metric, selected, positives)
    return targets_of(truths, positives, weights, trace)


def reject_unsupported(strides: tuple[int, ...], hyperparameters: Hyperparameters, dialect: Dialect) -> None:
    """Raise ValueError if the dialect does not support the head or the hyperparameters.

    Raises:
        ValueError: the head has one level (TAL-CAND-2), or topk2 is set (TAL-CONF-2), and the dialect supports neither.
    """
    if len(strides) == 1 and not dialect.one_level:
        raise ValueError(f"dialect {dialect.name} does not support heads with a single level (TAL-CAND-2)")
    if hyperparameters.effective_topk2 is not None and not dialect.topk2:
        raise ValueError(f"dialect {dialect.name} does not support topk2 (TAL-CONF-2)")


def candidates_of(
    truths: GroundTruths, centres: Float[Tensor, "A 2"], floor: tuple[int, int]
) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: True if the anchor's centre lies inside all four sides of the real ground truth (TAL-CAND-1).

    Args:
        truths: ground truths, boxes in pixels.
        centres: (A, 2) anchor centres in pixels.
        floor: sides below the first number are widened to the second, both in pixels (TAL-CAND-2).
    """
    return (distance_inside(truths.boxes, centres, floor) > INSIDE) & truths.real[:, None]


def distance_inside(
    boxes: Float[Tensor, "M 4"], centres: Float[Tensor, "A 2"], floor: tuple[int, int]
) -> Float[Tensor, "M A"]:
    """Return (M, A) the smallest distance in pixels from a centre to a side of a widened box; negative outside."""
    x, y = centres.unbind(1)  # (A,), (A,)
    left, top, right, bottom = widened(boxes, floor)[..., None].unbind(1)  # (M, 1) each
    across, down = torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y)  # (M, A), (M, A)
    return torch.minimum(across, down)  # (M, A)


def widened(boxes: Float[Tensor, "M 4"], floor: tuple[int, int]) -> Float[Tensor, "M 4"]:
    """Return boxes (M, 4) whose sides below `floor[0]` pixels are widened to `floor[1]` (TAL-CAND-2)."""
    below, to = floor
    left_top, right_bottom = boxes.chunk(2, dim=1)  # (M, 2), (M, 2)
    centre, sides = (left_top + right_bottom) / 2, right_bottom - left_top  # (M, 2), (M, 2)
    grown = torch.cat((centre - to / 2, centre + to / 2), dim=1)  # (M, 4)
    return torch.where((sides < below).repeat(1, 2), grown, boxes)


def overlap_mask(candidates: Bool[Tensor, "M A"], dialect: Dialect) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: True for pairs whose overlap u is computed: candidates; before 8.0.52, all (TAL-CONF-1)."""
    everywhere = dialect.overlaps_compared is OverlapsCompared.EVERYWHERE
    return torch.ones_like(candidates) if everywhere else candidates


def overlaps_of(
    truths: Float[Tensor, "M 4"], boxes: Float[Tensor, "A 4"], candidates: Bool[Tensor, "M A"]
) -> Float[Tensor, "M A"]:
    """Return (M, A) the overlap u: CIoU of ground truth and predicted box, at least 0; 0 off candidates (TAL-MET-1)."""
    truth, anchor = pairs = candidates.nonzero(as_tuple=True)  # (P,), (P,)
    return scatter_pairs(ciou(truths[truth], boxes[anchor]).clamp(min=0), pairs, candidates)  # (M, A)


def scatter_pairs(
    values: Float[Tensor, "P"], pairs: tuple[Int[Tensor, "P"], ...], candidates: Bool[Tensor, "M A"]
) -> Float[Tensor, "M A"]:
    """Return a matrix (M, A) with the P values at the indices `pairs`, and zeros elsewhere (TAL-MET-1)."""
    return values.new_zeros(candidates.shape).index_put_(pairs, values)  # (M, A)


def alignment_metric(
    score: Float[Tensor, "*pairs"], overlap: Float[Tensor, "*pairs"], hyperparameters: Hyperparameters
) -> Float[Tensor, "*pairs"]:
    """Return the alignment metric t = s^alpha u^beta of score s and overlap u, high if both are (TAL-MET-1)."""
    return score**hyperparameters.alpha * overlap**hyperparameters.beta


def top_k(metric: Float[Tensor, "M A"], k: int) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: True at the k largest metrics t of each row, over ALL anchors, also at t = 0 (TAL-TOPK-1).

    The choice among equal values at the k-th place is not defined (ambiguity T1).

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2).
    """
    if k > metric.shape[1]:
        raise ValueError(f"cannot select k = {k} of {metric.shape[1]} anchors: k exceeds their number (TAL-TOPK-2)")
    best = metric.topk(k, dim=1).indices  # (M, k)
    return torch.zeros_like(metric, dtype=torch.bool).scatter(1, best, True)  # (M, A)


def settle_contested(selected: Bool[Tensor, "M A"], overlap: Float[Tensor, "M A"]) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: the positives; of ALL ground truths the largest overlap wins a contested anchor (TAL-CONF-1).

    So a ground truth can win an anchor that it did not select. Equal largest overlaps leave a choice (T2). If all
    overlaps are zero, `argmax` returns the image's first ground truth at any distance: a positive with weight zero.
    """
    contested = (selected.sum(0) > 1).nonzero().flatten()  # (Q,)
    winners = overlap[:, contested].argmax(0)  # (Q,)
    settled = selected.index_fill(1, contested, False)  # (M, A)
    settled[winners, contested] = True
    return settled


def normalised(
    metric: Float[Tensor, "M A"], overlap: Float[Tensor, "M A"], positives: Bool[Tensor, "M A"]
) -> Float[Tensor, "A"]:
    """Return (A,) weights w = t u* / t* of the positives; zero on background (TAL-NORM-1).

    t is the metric of the positive; t* and u* are the largest metric and overlap among the positives of its ground
    truth. So the weight of a ground truth's best positive is the ground truth's best overlap.
    """
    owner, anchor = pairs = positives.nonzero(as_tuple=True)  # (P,), (P,)
    best_metric, best_overlap = (
        values.new_zeros(len(values)).scatter_reduce(0, owner, values[pairs], "amax") for values in (metric, overlap)
    )  # (M,), (M,)
    weight = metric[pairs] * best_overlap[owner] / (best_metric[owner] + NORMALISATION_EPS)  # (P,)
    return weight.new_zeros(metric.shape[1]).index_add(0, anchor, weight)  # (A,)


def targets_of(
    truths: GroundTruths,
    positives: Bool[Tensor, "M A"],
    weights: Float[Tensor, "A"],
    trace: AssignmentTrace | None = None,
) -> Targets:
    """Return the targets: label and box of the ground truth to which each anchor is assigned (TAL-TGT-1)."""
    foreground, index = positives.max(0)  # (A,), (A,) True if any g owns a, and that g (0 if none)
    labels = truths.labels[index].where(foreground, 0)  # (A,)
    boxes = truths.boxes[index].where(foreground[:, None], 0)  # (A, 4), or (A, 5)
    return Targets(foreground, index, labels, boxes, weights, trace)


def background(truths: GroundTruths, anchors: int) -> Targets:
    """Return the targets of an image without ground truths: all anchors are background (TAL-EMPTY-1)."""
    index = truths.labels.new_zeros(anchors)  # (A,)
    boxes = truths.boxes.new_zeros(anchors, truths.boxes.shape[1])  # (A, 4), or (A, 5)
    return Targets(index.bool(), index, index, boxes, boxes[:, 0])
