"""Hazards of end-to-end heads, which concern both branches of a batch (specification section 20).

Other hazards of such a batch are those of detection that one of its branches has. "GT" refers to real ground truths
(ANN-3), t to the alignment metric, a to the weight of the branch one2many (E2E-4).
"""

from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.hazards.registry import hazard
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, branch_weights
from tal_conformance.core.task import E2E

END_TO_END = (E2E.name,)


class BranchContent:
    """The properties of a batch for an end-to-end head that the detectors need.

    n is the number of GTs, A of anchors.
    """

    def __init__(self, batch: Batch) -> None:
        parts = branch_batches(batch)
        self.batch = batch
        self.many, self.one = (Content(parts[name]) for name in ("one2many", "one2one"))
        self.updates, self.epochs = batch.hyperparameters.updates, batch.hyperparameters.epochs
        self.weight = branch_weights(batch)["one2many"]

    def has(self, what: str) -> bool:
        """Return True if the batch contains what a detector needs; the names are those of `Content.has`."""
        return self.one.has(what)

    @cached_property
    def kept(self) -> Tensor:
        """Mask (n, A) bool: the positives of the branch one2one (TAL-CONF-1, TAL-CONF-2), without ties."""
        return _kept(self.one, 1)

    @cached_property
    def kept_by_many(self) -> Tensor:
        """Mask (n, A) bool: the positives of the branch one2many (TAL-CONF-1), without ties."""
        return _kept(self.many, None)

    @cached_property
    def best(self) -> Tensor:
        """Anchor (n,) with the largest t of every GT in the branch one2one."""
        return self.one.ranked[1][:, 0]


def _kept(content: Content, topk2: int | None) -> Tensor:
    """Return the positives (n, A) of one branch: contested anchors go to the GT with the largest overlap."""
    kept = content.selected.clone()
    image, anchor = content.contested
    overlap, _ = content.claims
    if len(anchor):
        winner = overlap.argmax(0)  # (Q,)
        for place, owner in enumerate(winner.tolist()):
            rivals = content.image == image[place]
            kept[rivals, anchor[place]] = False
            kept[owner, anchor[place]] = True
    if topk2 is None:
        return kept
    best = (content.metric * kept).topk(min(topk2, kept.shape[1]), dim=1).indices
    return kept & torch.zeros_like(kept).scatter(1, best, value=True)


@hazard("candidate", END_TO_END)
def loses_every_anchor(content: BranchContent) -> Tensor:
    """A GT selects anchors in one2one and keeps none, because other GTs win them (TAL-CONF-1)."""
    return (content.one.selected.any(1) & ~content.kept.any(1)).any()


@hazard("candidate", END_TO_END)
def keeps_one_of_zeros(content: BranchContent) -> Tensor:
    """Every t of a GT with candidates is zero in one2one, which keeps the anchor with the largest t (COR-3)."""
    candidates = content.one.candidates.any(1)
    return (candidates & (content.one.metric == 0).all(1)).any()


@hazard("truth", END_TO_END)
def gt_without_candidates(content: BranchContent) -> Tensor:
    """A GT has no candidate, so that one2one cannot keep an anchor."""
    return (~content.one.candidates.any(1)).any()


@hazard("pair", END_TO_END)
def one_best_anchor(content: BranchContent) -> Tensor:
    """Two GTs of an image have their largest t in one2one at the same anchor."""
    first, second = content.one.pairs
    positive = content.one.metric.amax(1) > 0
    return ((content.best[first] == content.best[second]) & positive[first] & positive[second]).any()


@hazard("pair", END_TO_END)
def duplicates_keep_one(content: BranchContent) -> Tensor:
    """Two GTs of an image have the same box and the same class, so that one2one keeps an anchor for one of them."""
    first, second = content.one.pairs
    boxes, labels = content.one.boxes, content.one.labels
    return ((boxes[first] == boxes[second]).all(1) & (labels[first] == labels[second])).any()


@hazard("candidate", END_TO_END)
def branches_choose_apart(content: BranchContent) -> Tensor:
    """The anchor that a ground truth keeps in one2one is not an anchor that it keeps in one2many."""
    return (content.kept & ~content.kept_by_many).any()


@hazard("truth", END_TO_END)
def one_branch_learns_alone(content: BranchContent) -> bool:
    """One branch has positives with t above zero, and the other has none."""
    learns = [
        bool(((own.metric > 0) & kept).any())
        for own, kept in ((content.many, content.kept_by_many), (content.one, content.kept))
    ]
    return learns[0] != learns[1]


@hazard("", END_TO_END)
def equal_branches(content: BranchContent) -> bool:
    """Both branches predict the same values, so that a loss that confuses them computes the same losses."""
    levels = len(content.batch.head.strides)
    maps = content.batch.feature_maps
    return all(torch.equal(many, one) for many, one in zip(maps[:levels], maps[levels:], strict=True))


@hazard("", END_TO_END)
def weights_updated(content: BranchContent) -> bool:
    """The weights have been updated, and a is between its first and its last value (E2E-4)."""
    return 0.1 < content.weight < 0.8


@hazard("", END_TO_END)
def last_weight(content: BranchContent) -> bool:
    """The weight a has its last value, 0.1 (E2E-4)."""
    return content.weight == 0.1


@hazard("", END_TO_END)
def updates_beyond_the_epochs(content: BranchContent) -> bool:
    """There have been as many updates as epochs, or more: a stays 0.1 (E2E-4)."""
    return content.updates >= content.epochs > 0


@hazard("", END_TO_END)
def single_epoch(content: BranchContent) -> bool:
    """The training has one epoch: E - 1 is zero (E2E-4)."""
    return content.epochs <= 1


@hazard("", END_TO_END)
def class_weights_of_both(content: BranchContent) -> bool:
    """Classes have weights, which both branches use (COR-7)."""
    return content.batch.head.class_weights is not None
