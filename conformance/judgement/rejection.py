"""Batches that a dialect does not support. An implementation must raise on such a batch."""

from typing import NamedTuple

import torch

from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, has_branches
from tal_conformance.core.reference_inputs import assigner_inputs, reference_loss, truths_of
from tal_conformance.core.selection_limits import excessive_selections
from tal_conformance.core.task import StageName, stage_name
from tal_conformance.judgement.undefined import undefined_anchors
from tal_reference import Dialect, WeightBroadcast
from tal_reference.rotated import SMALLEST_SIDE


class RejectionRule(NamedTuple):
    """A rule by which an implementation must raise on a batch.

    Attributes:
        stage: the stage that cannot be computed.
        clause: the clause that demands an error.
        reason: a clause of a sentence, to follow "because".
    """

    stage: str
    clause: str
    reason: str


def unsupported_by_dialect(batch: Batch, dialect: Dialect) -> RejectionRule | None:
    """Return the rule by which the dialect rejects the batch's head or hyperparameters; None if it supports them."""
    if len(batch.head.strides) == 1 and not dialect.one_level:
        reason = f"dialect {dialect.name} does not support heads with a single level"
        return RejectionRule(StageName.CANDIDATES, "TAL-CAND-2", reason)
    numbers = dialect.effective(batch.hyperparameters, batch.anchors)
    if numbers.effective_topk2 is not None and not dialect.topk2:
        return RejectionRule(
            StageName.CONFLICT, "TAL-CONF-2", f"dialect {dialect.name} does not support topk2"
        )
    return None


ROUNDED = 1 + 8 * torch.finfo(torch.float32).eps
"""Factor above the smallest side that no rounding of quotients and products, at most eight of them, undoes."""
RELATED = {
    "edge_counts",
    "every_row_counts",
    "overlap",
    "box_overlap",
    "dropped_picks",
    "dfl_clamp",
    "topk2_ignored",
}
"""Choices that no release makes, and with which relations between batches hold."""


def supports_relations(batch: Batch, dialect: Dialect) -> bool:
    """Return True if relations between batches hold in the dialect.

    A relation compares a batch with a batch derived from it, such as one of its images. Relations do not hold if the
    dialect rejects the batch, or may reject a derived one; if the loss of the batch or of the derived batch may be
    divided by zero; if the loss of one image depends on the others; if classes have weights, which relations between
    classes do not move; if the dialect may drop a row that relations keep; or if a choice that no release makes may
    depend on the order of ground truths or on the number of images, or change the range of scores.
    """
    if not dialect.varied <= RELATED or batch.head.class_weights is not None:
        return False
    if dialect.filter_exchanged and not keeps_every_row(batch):
        return False
    finite = dialect.score_sum_floor > 0
    independent = dialect.weights_meet is WeightBroadcast.PER_POSITIVE
    supported = unsupported_by_dialect(batch, dialect) is None and rejection_for(batch, dialect) is None
    return finite and independent and supported and loss_is_finite(batch, dialect)


def keeps_every_row(batch: Batch) -> bool:
    """Return True if OBB-ANN-2 drops no row of the batch, even with width and height of the input exchanged.

    The same holds for the batch with its sides exchanged, or turned by 90 degrees: then every side is multiplied by the
    ratio of width and height, by its inverse, or by neither.
    """
    if not batch.turned:
        return True
    height, width = batch.size
    sides = batch.annotations[:, 4:6].double() * batch.annotations.new_tensor(
        (width, height)
    )  # (N, 2) pixels
    shrunk = sides * (min(height, width) / max(height, width))
    return bool((shrunk > SMALLEST_SIDE * ROUNDED).all())


@torch.no_grad()
def loss_is_finite(batch: Batch, dialect: Dialect) -> bool:
    """Return True if the loss of the batch is finite and every overlap defined, or the dialect must reject the batch.

    CIoU may divide zero by zero (IOU-1). The reference's loss does not show such a division at non-candidates, in
    dialects that compare overlaps everywhere.
    """
    if rejection_for(batch, dialect) is not None:
        return True
    if has_branches(batch):
        return all(loss_is_finite(part, dialect) for part in branch_batches(batch, dialect).values())
    loss = reference_loss(batch, dialect)
    if not bool(loss.items.isfinite().all()):
        return False
    if batch.head.reg_max > 1 or not len(batch.annotations):
        return True
    inputs = assigner_inputs(batch, truths=truths_of(batch, dialect=dialect))
    return not bool(undefined_anchors(inputs, dialect).any())


def rejection_for(batch: Batch, dialect: Dialect) -> RejectionRule | None:
    """Return the rule by which an implementation of the dialect must raise on the batch, or None if there is none.

    A batch without ground truths is never rejected: official code returns before it reads the head.
    """
    if not len(batch.annotations):
        return None
    if has_branches(batch):
        for name, part in branch_batches(batch, dialect).items():
            if (rule := rejection_for(part, dialect)) is not None:
                return rule._replace(stage=stage_name(rule.stage, name))
        return None
    if batch.turned and not any(map(len, truths_of(batch, dialect=dialect))):  # OBB-ANN-2 drops every row
        return None
    anchors = batch.anchors
    excessive = excessive_selections(batch.hyperparameters, anchors, dialect)
    for name, words, stage in (("topk", "top-k", StageName.TOP_K), ("topk2", "topk2", StageName.CONFLICT)):
        if name in excessive:
            reason = f"{words} {excessive[name]} exceeds the number of anchors, {anchors}"
            return RejectionRule(stage, "TAL-TOPK-2", reason)
    return unsupported_by_dialect(batch, dialect)
