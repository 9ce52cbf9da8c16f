"""What a dialect does not know: there an implementation must refuse, and not return something else."""

from typing import NamedTuple

import torch

from tal_conformance.core.batch import Batch
from tal_reference import Dialect, WeightBroadcast, detection_loss


class RejectionRule(NamedTuple):
    """Why an implementation must raise on a batch.

    Attributes:
        stage: where the error is.
        clause: that says so.
        reason: in words.
    """

    stage: str
    clause: str
    reason: str


def unsupported_by_dialect(batch: Batch, dialect: Dialect) -> RejectionRule | None:
    """Why the dialect does not know such a head or such numbers; None if it does."""
    if len(batch.head.strides) == 1 and not dialect.one_level:
        return RejectionRule("candidates", "TAL-CAND-2", f"{dialect.name} knows no head with one level")
    if batch.hyperparameters.effective_topk2 is not None and not dialect.topk2:
        return RejectionRule("conflict", "TAL-CONF-2", f"{dialect.name} knows no topk2")
    return None


def supports_relations(batch: Batch, dialect: Dialect) -> bool:
    """Whether relations between batches hold in the dialect.

    They do not where it may refuse a batch, where it may divide by zero (a batch that the given one is changed into,
    with an image or a part of it), or where one image's loss depends on the others'.
    """
    finite = dialect.score_sum_floor > 0
    apart = dialect.weights_meet is WeightBroadcast.PER_POSITIVE
    return (
        finite and apart and unsupported_by_dialect(batch, dialect) is None and loss_is_finite(batch, dialect)
    )


@torch.no_grad()
def loss_is_finite(batch: Batch, dialect: Dialect) -> bool:
    """Whether the loss of a batch is a number, or the batch one to refuse: IOU-1 may divide zero by zero."""
    if rejection_for(batch, dialect) is not None:
        return True
    loss = detection_loss(batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters, dialect)
    return bool(loss.items.isfinite().all())


def rejection_for(batch: Batch, dialect: Dialect) -> RejectionRule | None:
    """Why an implementation of the dialect must raise on the batch; None if it must not.

    A batch without ground truths is none of these: official code returns before it looks at the head.
    """
    if not len(batch.annotations):
        return None
    numbers, anchors = batch.hyperparameters, batch.anchors
    if numbers.topk > anchors:
        return RejectionRule(
            "top-k", "TAL-TOPK-2", f"the best {numbers.topk} of {anchors} anchors are asked for"
        )
    if dialect.topk2 and (numbers.effective_topk2 or 0) > anchors:
        return RejectionRule(
            "conflict", "TAL-TOPK-2", f"the best {numbers.effective_topk2} of {anchors} anchors are asked for"
        )
    return unsupported_by_dialect(batch, dialect)
