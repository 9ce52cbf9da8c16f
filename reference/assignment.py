"""Stages "candidates" to "normalisation": the Task-Aligned Assigner, for one image (TAL-*).

Feng et al., TOOD: Task-aligned One-stage Object Detection, 2021; the article's section 3. In words: an anchor whose
centre lies in a ground truth may learn it. Each ground truth takes the k anchors that already predict it best (class
and box together); an anchor taken twice goes to the ground truth that it overlaps most; and the better an anchor is
among those of its ground truth, the higher the class score that it must learn.

The article's names: `candidates_of` is its `__get_in_gts_mask` (<1>); `overlaps_of`, `alignment_metric` and `top_k` are
its `__refine_select` and `__select_topk_candidates` (<2>); `settle_contested` is (<3>), its
`__filter_repeat_assign_candidates`, `targets_of` its `__get_train_targets` (<4>), and `normalised` what follows it.

M is the number of ground truths of the image, A of anchors, C of classes, P of whatever pairs of the two are at hand:
the candidates, or the positives. Only what is needed on pairs is computed there. No gradient flows through any of it.
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
"""Pixels by which a centre must lie inside a box (TAL-CAND-1)."""
NORMALISATION_EPS = 1e-9
"""Keeps the quotient of TAL-NORM-1 finite where every metric is zero; weights of metrics near it come out smaller."""


@dataclass(frozen=True)
class AssignmentTrace:
    """What every stage of one image's assignment computed; g runs over ground truths, a over anchors.

    Attributes:
        candidates: (M, A) a may learn g (TAL-CAND-1, TAL-CAND-2).
        score: (M, A) s, predicted score of g's class at a; zero off candidates (TAL-MET-1).
        overlap: (M, A) u, CIoU clamped at zero, in pixels; zero off candidates (TAL-MET-1).
        metric: (M, A) t = s^alpha u^beta (TAL-MET-1). In a dialect that compares overlaps everywhere, these three are
            not zero off candidates.
        selected: (M, A) g takes a (TAL-TOPK-1).
        positives: (M, A) g owns a, at most one g an anchor (TAL-CONF-1, TAL-CONF-2).
    """

    candidates: Bool[Tensor, "M A"]
    score: Float[Tensor, "M A"]
    overlap: Float[Tensor, "M A"]
    metric: Float[Tensor, "M A"]
    selected: Bool[Tensor, "M A"]
    positives: Bool[Tensor, "M A"]


@dataclass(frozen=True)
class Targets:
    """What each anchor of one image must learn (TAL-TGT-1). Background anchors hold zeros.

    Attributes:
        foreground: (A,) the anchor is a positive.
        truth_index: (A,) int64 which ground truth it learns.
        labels: (A,) int64 class of that ground truth.
        boxes: (A, 4) box of that ground truth, not the widened one; xyxy in pixels.
        weights: (A,) target score of its class, w (TAL-NORM-1).
        trace: the stages behind it, if they were asked for; None for an image without ground truths.
    """

    foreground: Bool[Tensor, "A"]
    truth_index: Int[Tensor, "A"]
    labels: Int[Tensor, "A"]
    boxes: Float[Tensor, "A 4"]
    weights: Float[Tensor, "A"]
    trace: AssignmentTrace | None = None

    def scores(self, classes: int) -> Float[Tensor, "A C"]:
        """Target scores: the weight at the label's place, zero elsewhere (TAL-TGT-1)."""
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
    """What each anchor of one image must learn.

    Args:
        scores: (A, C) predicted class scores, after the sigmoid.
        boxes: (A, 4) predicted boxes, xyxy in pixels.
        centres: (A, 2) anchor centres in pixels.
        truths: the image's ground truths, boxes in pixels.
        strides: the head's strides in pixels, for TAL-CAND-2.
        hyperparameters: k, alpha, beta and topk2.
        dialect: whose choices to follow where releases differ.
        keep_trace: keep every stage's values.

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2), or the dialect knows no such head or topk2.
    """
    if not len(truths):
        return background(truths, len(centres))  # TAL-EMPTY-1
    refuse_unknown(strides, hyperparameters, dialect)
    candidates = candidates_of(truths, centres, dialect.floor(strides))  # (M, A)
    compared = overlap_mask(candidates, dialect)  # (M, A) the candidates, but in the oldest releases
    truth, anchor = pairs = compared.nonzero(as_tuple=True)  # (P,), (P,): few of all pairs; elsewhere s, u, t are 0
    score = scores[anchor, truths.labels[truth]]  # (P,)
    overlap = overlaps_of(truths.boxes, boxes, compared)  # (M, A)
    metric = scatter_pairs(alignment_metric(score, overlap[pairs], hyperparameters), pairs, candidates)  # (M, A)
    rivals = metric if compared is candidates else metric * candidates  # (M, A)
    selected = top_k(rivals, hyperparameters.topk) & candidates  # (M, A)
    positives = settle_contested(selected, overlap)  # (M, A)
    if hyperparameters.effective_topk2 is not None:
        positives = positives & top_k(metric * positives, hyperparameters.effective_topk2)  # (M, A)   TAL-CONF-2
    weights = normalised(metric, overlap, positives)  # (A,) the article weighs its targets after it has set them
    if not keep_trace:
        return targets_of(truths, positives, weights)
    trace = AssignmentTrace(candidates, scatter_pairs(score, pairs, candidates), overlap, metric, selected, positives)
    return targets_of(truths, positives, weights, trace)


def refuse_unknown(strides: tuple[int, ...], hyperparameters: Hyperparameters, dialect: Dialect) -> None:
    """Raise where the dialect's releases raise, or have no such thing.

    Raises:
        ValueError: a head with one level (TAL-CAND-2), or topk2 (TAL-CONF-2), that the dialect does not know.
    """
    if len(strides) == 1 and not dialect.one_level:
        raise ValueError(f"{dialect.name} knows no head with one level (TAL-CAND-2)")
    if hyperparameters.effective_topk2 is not None and not dialect.topk2:
        raise ValueError(f"{dialect.name} knows no topk2 (TAL-CONF-2)")


def candidates_of(
    truths: GroundTruths, centres: Float[Tensor, "A 2"], floor: tuple[int, int]
) -> Bool[Tensor, "M A"]:
    """TAL-CAND-1: the anchors whose centre lies inside a real ground truth on all four sides.

    Args:
        truths: ground truths, boxes in pixels.
        centres: (A, 2) anchor centres in pixels.
        floor: sides below the first number are widened to the second, both in pixels (TAL-CAND-2).
    """
    return (distance_inside(truths.boxes, centres, floor) > INSIDE) & truths.real[:, None]


def distance_inside(
    boxes: Float[Tensor, "M 4"], centres: Float[Tensor, "A 2"], floor: tuple[int, int]
) -> Float[Tensor, "M A"]:
    """How far, in pixels, each centre lies inside each (widened) box: negative outside (TAL-CAND-1, TAL-CAND-2)."""
    x, y = centres.unbind(1)  # (A,), (A,)
    left, top, right, bottom = widened(boxes, floor)[..., None].unbind(1)  # (M, 1) each
    across, down = torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y)  # (M, A), (M, A)
    return torch.minimum(across, down)  # (M, A)


def widened(boxes: Float[Tensor, "M 4"], floor: tuple[int, int]) -> Float[Tensor, "M 4"]:
    """TAL-CAND-2: sides shorter than `floor[0]` pixels grow to `floor[1]` about their centre; (0, 0) widens nothing."""
    below, to = floor
    left_top, right_bottom = boxes.chunk(2, dim=1)  # (M, 2), (M, 2)
    centre, sides = (left_top + right_bottom) / 2, right_bottom - left_top  # (M, 2), (M, 2)
    grown = torch.cat((centre - to / 2, centre + to / 2), dim=1)  # (M, 4)
    return torch.where((sides < below).repeat(1, 2), grown, boxes)


def overlap_mask(candidates: Bool[Tensor, "M A"], dialect: Dialect) -> Bool[Tensor, "M A"]:
    """TAL-CONF-1: on which pairs u and t are computed; the candidates, or all pairs in releases before 8.0.52."""
    everywhere = dialect.overlaps_compared is OverlapsCompared.EVERYWHERE
    return torch.ones_like(candidates) if everywhere else candidates


def overlaps_of(
    truths: Float[Tensor, "M 4"], boxes: Float[Tensor, "A 4"], candidates: Bool[Tensor, "M A"]
) -> Float[Tensor, "M A"]:
    """TAL-MET-1: u, the CIoU of ground truth and predicted box in pixels; never below zero, zero off candidates."""
    truth, anchor = pairs = candidates.nonzero(as_tuple=True)  # (P,), (P,)
    return scatter_pairs(ciou(truths[truth], boxes[anchor]).clamp(min=0), pairs, candidates)  # (M, A)


def scatter_pairs(
    values: Float[Tensor, "P"], pairs: tuple[Int[Tensor, "P"], ...], candidates: Bool[Tensor, "M A"]
) -> Float[Tensor, "M A"]:
    """The values of candidate pairs at their places, zero off candidates (TAL-MET-1)."""
    return values.new_zeros(candidates.shape).index_put_(pairs, values)  # (M, A)


def alignment_metric(
    score: Float[Tensor, "*pairs"], overlap: Float[Tensor, "*pairs"], hyperparameters: Hyperparameters
) -> Float[Tensor, "*pairs"]:
    """TAL-MET-1: t = s^alpha u^beta, high where class and box are both good."""
    return score**hyperparameters.alpha * overlap**hyperparameters.beta


def top_k(metric: Float[Tensor, "M A"], k: int) -> Bool[Tensor, "M A"]:
    """TAL-TOPK-1: the k largest of each row, over ALL anchors: zeros of non-candidates compete too.

    Which of several equal values at the k-th place are taken is not defined (ambiguity T1).

    Raises:
        ValueError: k is more than there are anchors (TAL-TOPK-2).
    """
    if k > metric.shape[1]:
        raise ValueError(f"top-k needs k <= A, but k = {k} and A = {metric.shape[1]} (TAL-TOPK-2)")
    best = metric.topk(k, dim=1).indices  # (M, k)
    return torch.zeros_like(metric, dtype=torch.bool).scatter(1, best, True)  # (M, A)


def settle_contested(selected: Bool[Tensor, "M A"], overlap: Float[Tensor, "M A"]) -> Bool[Tensor, "M A"]:
    """TAL-CONF-1: an anchor that several ground truths take goes to the one with the largest overlap of ALL.

    So a ground truth can win an anchor that it did not take. Equal largest overlaps leave a choice (T2); where
    all are zero, `argmax` takes the image's first ground truth, however far away: a positive with weight zero.
    """
    contested = (selected.sum(0) > 1).nonzero().flatten()  # (Q,)
    winners = overlap[:, contested].argmax(0)  # (Q,)
    settled = selected.index_fill(1, contested, False)  # (M, A)
    settled[winners, contested] = True
    return settled


def normalised(
    metric: Float[Tensor, "M A"], overlap: Float[Tensor, "M A"], positives: Bool[Tensor, "M A"]
) -> Float[Tensor, "A"]:
    """TAL-NORM-1: w = t u* / t*, where t* and u* are the best of the ground truth's own positives.

    So the best positive of a ground truth must learn a score as high as the ground truth's best overlap.
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
    """TAL-TGT-1: label and box of the ground truth that owns each anchor."""
    foreground, index = positives.max(0)  # (A,), (A,) is there a True, and where (0 if not)
    labels = truths.labels[index].where(foreground, 0)  # (A,)
    boxes = truths.boxes[index].where(foreground[:, None], 0)  # (A, 4)
    return Targets(foreground, index, labels, boxes, weights, trace)


def background(truths: GroundTruths, anchors: int) -> Targets:
    """Targets of an image without ground truths: nothing to learn but "nothing here" (TAL-EMPTY-1)."""
    index, boxes = truths.labels.new_zeros(anchors), truths.boxes.new_zeros(anchors, 4)  # (A,), (A, 4)
    return Targets(index.bool(), index, index, boxes, boxes[:, 0])
