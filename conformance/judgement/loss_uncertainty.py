"""The effect of an uncertain assignment, which a loss hides, on the loss and its gradients.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import DETECT, OBB, POSE, SEGMENT, StageName
from tal_conformance.judgement.bounds import smallest
from tal_conformance.judgement.keypoint_rounding import keypoint_rounding_units
from tal_conformance.judgement.loss_reference import ZERO, ReferenceLoss, class_factors_of, compute_loss
from tal_conformance.judgement.loss_rounding import (
    LossRounding,
    class_count,
    divisor,
    no_jumps,
    rounding_units,
)
from tal_conformance.judgement.mask_rounding import mask_rounding_units
from tal_conformance.judgement.mixed_precision import Interval, is_coarse
from tal_conformance.judgement.rotated_rounding import rotated_rounding_units
from tal_reference import BatchTargets, Dialect
from tal_reference.composed import total_factor

ROUNDING_UNITS_BY_TASK = {
    DETECT.name: rounding_units,
    OBB.name: rotated_rounding_units,
    POSE.name: keypoint_rounding_units,
    SEGMENT.name: mask_rounding_units,
}
"""The function that derives the rounding units of a loss, for every task."""


@dataclass(frozen=True)
class AssignmentUncertainty:
    """Possible differences between the assignment that a loss hides and the assignment that it is judged with.

    Attributes:
        weights: (B, A) largest difference of the target scores.
        edges: (B, A) largest difference of the target boxes' edges, in pixels.
        score_sum: () interval of N; None: N of the assumed weights, plus or minus the sum of `weights`.
    """

    weights: Tensor
    edges: Tensor
    score_sum: Interval | None = None


def uncertainty_units(
    batch: Batch,
    targets: BatchTargets,
    exact: ReferenceLoss,
    narrow: LossRounding,
    unsure: AssignmentUncertainty,
    dialect: Dialect,
) -> LossRounding:
    """Return the effect of an uncertain assignment on the loss and its gradients, in addition to `narrow`.

    Before division by N, terms and gradients are linear in the weights, so their change is the loss for the changes of
    the weights; N changes by the sum of these changes.

    Args:
        batch: any batch.
        targets: the targets that the loss is assumed to have used.
        exact: the loss in float64.
        narrow: the effect of rounding for a known assignment.
        unsure: possible differences of the hidden assignment.
        dialect: the dialect to follow.
    """
    scores = targets.scores.double()
    at = targets.foreground.nonzero(as_tuple=True)  # (P,), (P,)
    score_sum = divisor(scores[at].sum(1), batch.images, dialect)
    label = scores.argmax(2, keepdim=True)  # (B, A, 1)
    movements = torch.zeros_like(scores).scatter(2, label, unsure.weights[..., None].double())
    movements = movements * targets.foreground[..., None]
    share = movements.sum() / score_sum  # largest relative change of N
    if unsure.score_sum is not None:
        # N may be far from that of the replayed weights, and divides their differences
        share = torch.maximum(score_sum / unsure.score_sum.low - 1, 1 - score_sum / unsure.score_sum.high)
        movements = movements * (score_sum / unsure.score_sum.low)
    moved = replace(targets, scores=movements)
    loss = compute_loss(batch, moved, torch.float64, dialect, exact.predictions, each_term=True)
    scale = divisor(movements[at].sum(1), batch.images, dialect) / score_sum
    count, factors = class_count(scores, dialect), class_factors_of(batch, scores)
    stored = movements
    if batch.autocast and is_coarse(
        batch.dtype
    ):  # of unknown scores, the rounding is unknown too (LOSS-CLS-1)
        half = torch.finfo(batch.dtype).eps / 2
        stored = movements + half * (scores + movements) * (movements > 0)  # (B, A, C)
    cls = (
        batch.hyperparameters.cls_gain
        * (exact.predictions.logits * stored * factors).abs().sum()
        / score_sum
        / count
    )
    terms = batch.family.terms
    weighted = exact.items.new_tensor([term.weighted for term in terms])  # (terms,) COR-2
    moves = [cls if term.name == StageName.CLS else loss.items[at] * scale for at, term in enumerate(terms)]
    items = (torch.stack(moves) + exact.items.abs() * share) * weighted
    wider = (
        ROUNDING_UNITS_BY_TASK[batch.task](batch, targets, exact, dialect, unsure.edges)
        if unsure.edges.any()
        else narrow
    )
    factor = total_factor(batch.images, dialect) / count
    slope = batch.hyperparameters.cls_gain * factor / score_sum * movements * factors  # (B, A, C)
    # the total's is more than a term's: on the safe side
    own = exact.of_terms or (exact.of_total,) * len(terms)

    def of_field(term: int, field: int) -> Tensor:
        place = batch.family.fields[field].place
        if place == "anchors":
            return slope + own[term][field].abs() * share  # (B, A, C)
        more = (
            wider.of_terms[term][field] - narrow.of_terms[term][field]
            + wider.jumps[term][field] - narrow.jumps[term][field]
        )  # fmt: skip
        if not terms[term].weighted:
            return more
        assert place == "positives"
        return (
            more + loss.of_terms[term][field][at].abs() * scale + own[term][field][at].abs() * share
        )  # (P, width)

    gradients = [
        tuple(
            of_field(number, place) if field.name in term.reads else ZERO
            for place, field in enumerate(batch.family.fields)
        )
        for number, term in enumerate(terms)
    ]
    items = items + wider.items - narrow.items
    if wider.enclosed is not None and narrow.enclosed is not None:
        items = items + wider.enclosed - narrow.enclosed
    branches = None
    if wider.branches is not None:
        relative = movements[at].sum(1) / scores[at].sum(1).clamp(min=smallest(torch.float32)) + share  # (P,)
        moved_branches = wider.branches.moves.abs() * relative[:, None, None]  # (K, P, 4, R)
        branches = replace(wider.branches, errors=wider.branches.errors + moved_branches)
    return LossRounding(items, tuple(gradients), no_jumps(batch), branches=branches)
