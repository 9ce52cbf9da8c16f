"""End-to-end heads: two branches on one input, each with its own loss (E2E-*).

In the branch "one2many" a ground truth selects ten anchors, as in the detection loss. In the branch "one2one", which
is used for prediction after the training, a ground truth keeps one anchor. Over the epochs, the weight of the first
loss decreases and that of the second loss increases. The heads of YOLOv10, YOLO26 and YOLOE-26 have both branches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from tal_reference.composed import detection_loss
from tal_reference.dialect import NEWEST, Dialect
from tal_reference.loss import DetectionLoss
from tal_reference.settings import Head, Hyperparameters
from tal_reference.shapes import Float

FIRST_WEIGHT, LAST_WEIGHT = 0.8, 0.1
"""Weight of one2many in the first and in the last epoch (E2E-4)."""
BRANCHES = ("one2many", "one2one")
"""The branches' names, in the order of the weights."""


@dataclass(frozen=True)
class EndToEndLoss:
    """The loss of a batch in both branches (E2E-3).

    Attributes:
        one2many: loss of the branch with ten anchors per ground truth.
        one2one: loss of the branch with one anchor per ground truth.
        weights: weights a and 1 - a of one2many and one2one (E2E-4); 1 and 1 in a dialect without weights.
        items_of_both: True if the logged items are the sums of both branches' items, as before 8.4.0.
    """

    one2many: DetectionLoss
    one2one: DetectionLoss
    weights: tuple[float, float]
    items_of_both: bool = False

    @property
    def terms(self) -> Float[Tensor, "terms"]:
        """The loss terms: weighted sums of both branches' terms; their total is differentiated (E2E-3, E2E-6)."""
        many, one = self.weights
        return many * self.one2many.terms + one * self.one2one.terms

    @property
    def items(self) -> Float[Tensor, "terms"]:
        """The loss items for logging: those of the branch one2one, not multiplied by its weight (E2E-3)."""
        return self.one2many.items + self.one2one.items if self.items_of_both else self.one2one.items

    @property
    def total(self) -> Float[Tensor, ""]:
        """() the total loss, on which to call `backward`."""
        return self.terms.sum()


def end_to_end_loss(
    one2many: Sequence[Float[Tensor, "B _ _ _"]],
    one2one: Sequence[Float[Tensor, "B _ _ _"]],
    annotations: Float[Tensor, "N columns"],
    head: Head,
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
    *,
    branch_loss: Callable[..., DetectionLoss] = detection_loss,
) -> EndToEndLoss:
    """Return the loss of both branches on the same annotations (E2E-2).

    Nothing is detached here: a branch's gradients are those of its loss times its weight (E2E-6). The head itself
    detaches the features of one2one.

    Args:
        one2many: feature maps of the branch one2many.
        one2one: feature maps of the branch one2one.
        annotations: rows of the data loader, for both branches.
        head: strides, classes, bins and class weights, of both branches.
        hyperparameters: hyperparameters of both branches, whose topk and topk2 are replaced (E2E-2), and the state of
            the branch weights: `updates` and `epochs`.
        dialect: the choices to follow where releases differ.
        keep_trace: store every stage of both assignments.
        branch_loss: function for the loss of a branch: `detection_loss` or `tal_reference.rotated.rotated_loss`.

    Raises:
        ValueError: there are fewer than ten anchors, or the dialect does not support topk2.
    """
    numbers = branch_hyperparameters(hyperparameters, dialect)
    many, one = (
        branch_loss(maps, annotations, head, numbers[name], dialect, keep_trace)
        for name, maps in zip(BRANCHES, (one2many, one2one), strict=True)
    )
    return EndToEndLoss(many, one, weights_of(hyperparameters, dialect), not dialect.weighted_branches)


def branch_hyperparameters(
    hyperparameters: Hyperparameters, dialect: Dialect = NEWEST
) -> dict[str, Hyperparameters]:
    """Return the hyperparameters of each branch: those given, with the branch's own topk and topk2 (E2E-2).

    In the branch one2many a ground truth selects 10 anchors. In one2one it selects 7 and keeps 1; in a dialect without
    branch weights (before 8.4.0) it selects 1.
    """
    kept = {"topk": 7, "topk2": 1} if dialect.weighted_branches else {"topk": 1, "topk2": None}
    unused = {"updates": Hyperparameters.updates, "epochs": Hyperparameters.epochs}
    return {
        "one2many": replace(hyperparameters, topk=10, topk2=None, **unused),
        "one2one": replace(hyperparameters, **kept, **unused),
    }


def weights_of(hyperparameters: Hyperparameters, dialect: Dialect = NEWEST) -> tuple[float, float]:
    """Return the weights of one2many and one2one (E2E-4); 1 and 1 in a dialect without branch weights."""
    if not dialect.weighted_branches:
        return 1.0, 1.0
    return branch_weights(hyperparameters.updates, hyperparameters.epochs)


def branch_weights(updates: int, epochs: int) -> tuple[float, float]:
    """Return the loss weights a of one2many and 1 - a of one2one after a number of updates (E2E-4).

    The weights are updated after each epoch, so that epoch e, counted from 0, trains with a(e). a decreases linearly
    from 0.8 to 0.1 in the last epoch, and remains 0.1 (E2E-5). In a training of one epoch, a is 0.8.
    """
    left = max(0.0, 1 - updates / max(epochs - 1, 1))  # share of the decrease that is still to come
    many = FIRST_WEIGHT * left + LAST_WEIGHT * (1 - left)
    return many, max(1 - many, 0.0)
