"""Hazards of detection, found in a batch's content.

Each detector below is one hazard: its name is the hazard's name, its docstring the hazard's meaning. Detectors read
the batch as float32 on the CPU, with the candidates of the newest dialect (TAL-CAND-2 widens sides shorter than the
second level's stride to that stride). "Box", "side" and "GT" refer to real ground truths (ANN-3), "row" to any
annotation; "the first stride" and "the second" to those of the first two levels. k is the number of anchors
that a ground truth selects, t the alignment metric, u the overlap with the predicted box (TAL-MET-1).
"""

import torch
from torch import Tensor

from tal_conformance.batches.hazards.content import Content, Shape
from tal_conformance.batches.hazards.registry import hazard
from tal_conformance.core.geometry import depth, sides_to

SATURATED = 17.0
"""Smallest logit considered here whose sigmoid is exactly 1 in float32."""
FEW_VALUES = 8
"""Largest number of different values of quantised class logits."""

# The rows


@hazard()
def no_gt_in_batch(content: Content) -> bool:
    """No image has a row (TAL-EMPTY-1)."""
    return not content.rows


@hazard()
def image_without_gt(content: Content) -> bool:
    """Some images have rows, and others have no rows."""
    return 0 in content.counts and any(content.counts)


@hazard()
def padding(content: Content) -> bool:
    """Images have unequal numbers of rows, so that a padded implementation pads (ANN-4)."""
    return len(set(content.counts)) > 1


@hazard()
def shuffled_rows(content: Content) -> bool:
    """Rows are not sorted by image."""
    return content.rows != sorted(content.rows)


@hazard()
def negative_sum(content: Content) -> bool:
    """A row is dropped, because its corner coordinates add up to zero or less (ANN-3)."""
    return len(content.boxes) < len(content.rows)


# Shapes and places of the GTs


@hazard("truth")
def tiny(content: Content) -> bool:
    """A side is below the first stride, and longer than zero (TAL-CAND-2)."""
    return any(0 < side < content.first_stride for gt in content.shapes for side in gt.sides)


@hazard("truth")
def small_8_16(content: Content) -> bool:
    """A side is from the first stride to below the second (8 to 16 px): TAL-CAND-2 differs by release."""
    return any(content.first_stride <= side < content.floor for gt in content.shapes for side in gt.sides)


@hazard("truth")
def thin(content: Content) -> bool:
    """A box is at least eight times as long as it is wide."""
    return any(max(gt.sides) >= 8 * min(gt.sides) > 0 for gt in content.shapes)


@hazard("truth")
def huge(content: Content) -> bool:
    """A box has at least 4/5 of the input's area."""
    height, width = content.size
    return any(gt.width * gt.height >= 0.8 * height * width for gt in content.shapes)


@hazard("truth")
def zero_area(content: Content) -> bool:
    """A side is zero."""
    return any(min(gt.sides) == 0 for gt in content.shapes)


@hazard("truth")
def edge_on_centre(content: Content) -> bool:
    """A centre lies exactly on the border of a box, widened or not (TAL-CAND-1).

    The centre is that of an anchor; the box is that of a GT.
    """
    if bool((content.depth == 0).any()):
        return True
    small = [index for index, gt in enumerate(content.shapes) if min(gt.sides) < content.floor]
    return bool(small) and bool((depth(content.centres, content.boxes[small]) == 0).any())


@hazard("truth")
def on_border(content: Content) -> bool:
    """An edge lies exactly on the input's border."""
    height, width = content.size
    return any(
        0 in (gt.left, gt.top, gt.right, gt.bottom)
        or width in (gt.left, gt.right)
        or height in (gt.top, gt.bottom)
        for gt in content.shapes
    )


@hazard("truth")
def partly_outside(content: Content) -> bool:
    """A box reaches beyond the input's border, and into the input."""
    return any(_reaches_in(gt, content) and _reaches_out(gt, content) for gt in content.shapes)


@hazard("truth")
def wholly_outside(content: Content) -> bool:
    """A box has no point inside the input."""
    return any(not _reaches_in(gt, content) for gt in content.shapes)


# Two GTs of one image


@hazard("pair")
def nested(content: Content) -> Tensor:
    """A box lies within a larger box."""
    first, second = content.pair_boxes
    return (_within(first, second) | _within(second, first)).any()


@hazard("pair")
def identical_boxes(content: Content) -> Tensor:
    """Two GTs have the same box and the same class (ambiguity T2)."""
    first, second = content.pairs
    return (_same_box(content) & (content.labels[first] == content.labels[second])).any()


@hazard("pair")
def same_box_other_class(content: Content) -> Tensor:
    """Two GTs have the same box and different classes (ambiguity T2)."""
    first, second = content.pairs
    return (_same_box(content) & (content.labels[first] != content.labels[second])).any()


@hazard("pair")
def touching(content: Content) -> Tensor:
    """Two boxes share a piece of an edge and nothing else."""
    first, second = content.pair_boxes
    gap = torch.maximum(first[:, :2], second[:, :2]) - torch.minimum(
        first[:, 2:], second[:, 2:]
    )  # (P, 2) x, y
    return ((gap.amax(1) == 0) & (gap.amin(1) < 0)).any()


@hazard("pair")
def contested(content: Content) -> Tensor:
    """Two GTs share a candidate anchor."""
    return (content.rivals > 1).any()


@hazard("contested")
def contested_selection(content: Content) -> bool:
    """Two GTs select the same anchor (TAL-CONF-1)."""
    return content.has("contested")


@hazard("contested")
def third_owner(content: Content) -> Tensor:
    """A contested anchor's largest u is that of a GT which did not select it (TAL-CONF-1).

    u is the overlap of a GT with an anchor's predicted box.
    """
    overlap, selected = content.claims
    return (overlap.where(selected, -1.0).amax(0) < overlap.amax(0)).any()


@hazard("contested")
def contested_at_zero(content: Content) -> Tensor:
    """An anchor is contested where every u is zero (TAL-CONF-1).

    u is the overlap of a GT with an anchor's predicted box.
    """
    overlap, _ = content.claims
    return (overlap <= 0).all(0).any()


@hazard("contested")
def equal_owners(content: Content) -> Tensor:
    """A contested anchor has the same largest u > 0 for two GTs (ambiguity T2).

    u is the overlap of a GT with an anchor's predicted box.
    """
    overlap, _ = content.claims
    first, second = overlap.topk(2, dim=0).values  # (Q,), (Q,)
    return ((first == second) & (first > 0)).any()


@hazard("contested")
def symmetric_owners(content: Content) -> Tensor:
    """A contested anchor has the same largest u > 0 for two GTs whose boxes differ (ambiguity T2).

    u is the overlap of a GT with an anchor's predicted box.
    """
    overlap, _ = content.claims
    values, truths = overlap.topk(2, dim=0)  # (2, Q), (2, Q)
    first, second = content.boxes[truths]  # (Q, 4), (Q, 4)
    return ((values[0] == values[1]) & (values[0] > 0) & (first != second).any(1)).any()


# Candidates and their ranks


@hazard("truth")
def no_candidates(content: Content) -> Tensor:
    """A GT has no candidate."""
    return (~content.candidates.any(1)).any()


@hazard("truth")
def few_candidates(content: Content) -> Tensor:
    """A GT has candidates, but fewer than k (TAL-TOPK-1)."""
    count = content.candidates.sum(1)  # (n,)
    return ((count > 0) & (count < content.k)).any()


@hazard("truth")
def many_candidates(content: Content) -> Tensor:
    """A GT has more candidates than k with t > 0, so that k decides (TAL-TOPK-1).

    t is the alignment metric of a GT and an anchor.
    """
    return ((content.metric > 0).sum(1) > content.k).any()


@hazard("truth")
def tie_at_k(content: Content) -> Tensor:
    """Two equal t > 0 at the k-th place and the next (ambiguity T1).

    t is the alignment metric by which a GT ranks its candidates; it selects the first k.
    """
    values, _ = content.ranked
    last, following = (
        values[:, content.k - 1 : content.k],
        values[:, content.k : content.k + 1],
    )  # (n, 1), (n, 0 or 1)
    return ((last == following) & (last > 0)).any()


@hazard("truth")
def zero_at_k(content: Content) -> Tensor:
    """A candidate with t = 0 competes with the other zeros of its row for the last places (ambiguity T1).

    The row is that of a GT in the matrix of alignment metrics t; fewer than k of its anchors have t > 0.
    """
    positive = (content.metric > 0).sum(1)  # (n,)
    competes = (positive < content.k) & (content.candidates.sum(1) > positive)  # (n,)
    return competes.any() & (content.metric.shape[1] > content.k)


@hazard("truth")
def no_overlap(content: Content) -> Tensor:
    """A GT has candidates, and u = 0 for every candidate.

    u is the overlap of a GT with an anchor's predicted box.
    """
    return (content.candidates.any(1) & ~(content.overlap > 0).any(1)).any()


# The predictions


@hazard()
def constant_predictions(content: Content) -> bool:
    """Every anchor of every image predicts the same logits."""
    first = content.distances[:1, :1], content.logits[:1, :1]
    return bool((content.distances == first[0]).all() and (content.logits == first[1]).all())


@hazard()
def quantised(content: Content) -> bool:
    """The class logits have at most eight different values, and not all anchors predict the same logits."""
    few = min(FEW_VALUES, content.logits.numel() // 2)
    return len(content.logits.flatten()[:1024].unique()) <= few and not constant_predictions(content)


@hazard()
def saturated(content: Content) -> Tensor:
    """A class logit so large that its score is exactly 1 in float32."""
    return (content.logits >= SATURATED).any()


@hazard("candidate")
def exact_hit(content: Content) -> Tensor:
    """A candidate anchor predicts exactly its GT's box."""
    truth, _ = content.candidate_pairs
    return (content.predicted == content.boxes[truth]).all(1).any()


@hazard("candidate")
def dfl_clamp(content: Content) -> Tensor:
    """A candidate lies farther than R - 1 - 0.01 grid units from a side of its GT (LOSS-DFL-1).

    R is the number of bins; a grid unit is the stride of the anchor.
    """
    truth, anchor = content.candidate_pairs
    sides = sides_to(content.boxes[truth], content.centres[anchor], content.strides[anchor])  # (P, 4)
    return (sides > content.head.reg_max - 1 - 0.01).any() & (content.head.reg_max > 1)


# The head


@hazard()
def one_level(content: Content) -> bool:
    """The head has one level: there is no second stride (TAL-CAND-2)."""
    return len(content.head.strides) == 1


@hazard()
def many_levels(content: Content) -> bool:
    """The head has four levels or more."""
    return len(content.head.strides) >= 4


@hazard()
def other_strides(content: Content) -> bool:
    """The strides are not the first numbers of the list 8, 16, 32."""
    return content.head.strides != (8, 16, 32)[: len(content.head.strides)]


@hazard()
def non_square(content: Content) -> bool:
    """The input is not square."""
    return content.size[0] != content.size[1]


@hazard()
def uneven_levels(content: Content) -> bool:
    """The input's size is not a multiple of every stride: the last row or column of cells reaches beyond the input."""
    return any(side % stride for side in content.size for stride in content.head.strides)


@hazard()
def many_classes(content: Content) -> bool:
    """There are 20 classes or more."""
    return content.head.classes >= 20


@hazard()
def few_bins(content: Content) -> bool:
    """There are 2 to 4 bins, so that no box can be larger than 6 cells."""
    return 1 < content.head.reg_max <= 4


@hazard()
def one_bin(content: Content) -> bool:
    """The head has a single bin: the raw value is the distance, and an L1 loss replaces DFL (DEC-1, LOSS-DFL-1)."""
    return content.head.reg_max == 1


@hazard()
def not_finite(content: Content) -> bool:
    """A prediction is NaN or infinite (NONFINITE-1)."""
    return not bool(content.logits.isfinite().all() and content.distances.isfinite().all())


@hazard()
def fewer_anchors_than_k(content: Content) -> bool:
    """A ground truth cannot select k anchors, because there are fewer (TAL-TOPK-2)."""
    return content.logits.shape[1] < content.k


@hazard("candidate")
def keeps_fewer(content: Content) -> bool:
    """A GT has selected more anchors than it keeps, because of topk2 (TAL-CONF-2)."""
    topk2 = content.hyperparameters.effective_topk2
    return topk2 is not None and bool((content.selected.sum(1) > topk2).any())


@hazard("candidate")
def tie_at_topk2(content: Content) -> bool:
    """The last anchor that a GT keeps and the next of its selected anchors have the same t (T3).

    t is the alignment metric of a GT and an anchor.
    """
    topk2 = content.hyperparameters.effective_topk2
    if topk2 is None or topk2 >= content.metric.shape[1]:
        return False
    ranked = (content.metric * content.selected).sort(1, descending=True).values  # (n, A)
    return bool(((ranked[:, topk2 - 1] == ranked[:, topk2]) & (content.selected.sum(1) > topk2)).any())


def _reaches_in(gt: Shape, content: Content) -> bool:
    height, width = content.size
    return gt.left < width and gt.top < height and gt.right > 0 and gt.bottom > 0


def _reaches_out(gt: Shape, content: Content) -> bool:
    height, width = content.size
    return gt.left < 0 or gt.top < 0 or gt.right > width or gt.bottom > height


def _within(inner: Tensor, outer: Tensor) -> Tensor:
    """Return a mask (P,) bool: True if the box `inner` (P, 4) lies in `outer` (P, 4) and differs from it."""
    outward = inner.new_tensor((1, 1, -1, -1))
    inward = (inner - outer) * outward  # (P, 4)
    return (inward.amin(1) >= 0) & (inward.amax(1) > 0)


def _same_box(content: Content) -> Tensor:
    first, second = content.pair_boxes
    return (first == second).all(1)  # (P,)
