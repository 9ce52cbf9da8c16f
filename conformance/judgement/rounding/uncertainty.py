"""The effect of an uncertain assignment, which a loss hides, on the loss and its gradients.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import DETECT, OBB, POSE, POSE26, SEGMENT, SEGMENT26, StageName
from tal_conformance.judgement.rounding.bounds import smallest
from tal_conformance.judgement.rounding.classes import WeightedClasses
from tal_conformance.judgement.rounding.detection import rounding_units
from tal_conformance.judgement.rounding.exact_loss import ZERO, ReferenceLoss, class_factors_of, compute_loss
from tal_conformance.judgement.rounding.keypoints import keypoint_rounding_units
from tal_conformance.judgement.rounding.loss_rounding import (
    LossRounding,
    class_count,
    divisor,
    no_jumps,
)
from tal_conformance.judgement.rounding.masks import mask_rounding_units
from tal_conformance.judgement.rounding.mixed_gradients import Branches
from tal_conformance.judgement.rounding.mixed_precision import Interval, is_coarse
from tal_conformance.judgement.rounding.rotated import rotated_rounding_units
from tal_reference import BatchTargets, Dialect
from tal_reference.composed import total_factor
from tal_reference.varied_classes import WEIGHTED

ROUNDING_UNITS_BY_TASK = {
    DETECT.name: rounding_units,
    OBB.name: rotated_rounding_units,
    POSE.name: keypoint_rounding_units,
    SEGMENT.name: mask_rounding_units,
    POSE26.name: keypoint_rounding_units,
    SEGMENT26.name: mask_rounding_units,
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
    return UncertaintyUnits(batch, targets, exact, narrow, unsure, dialect).units()


@dataclass(frozen=True)
class UncertaintyUnits:
    """The effect of an uncertain assignment, step by step; the attributes are the arguments of `uncertainty_units`."""

    batch: Batch
    targets: BatchTargets
    exact: ReferenceLoss
    narrow: LossRounding
    unsure: AssignmentUncertainty
    dialect: Dialect

    def units(self) -> LossRounding:
        """Return the effect on the loss terms and on the gradients of each term."""
        family, wider, narrow = self.batch.family, self.wider, self.narrow
        gradients = tuple(
            tuple(
                self.of_field(number, place) if field.name in term.reads else ZERO
                for place, field in enumerate(family.fields)
            )
            for number, term in enumerate(family.terms)
        )
        items = self.items() + wider.items - narrow.items
        if wider.enclosed is not None and narrow.enclosed is not None:
            items = items + wider.enclosed - narrow.enclosed
        return LossRounding(items, gradients, no_jumps(self.batch), branches=self.branches())

    @cached_property
    def scores(self) -> Tensor:
        """(B, A, C) assumed target scores."""
        return self.targets.scores.double()

    @cached_property
    def at(self) -> tuple[Tensor, ...]:
        """Indices of image (P,) and anchor (P,) of the positives."""
        return self.targets.foreground.nonzero(as_tuple=True)

    @cached_property
    def score_sum(self) -> Tensor:
        """() N of the assumed weights."""
        return divisor(self.scores[self.at].sum(1), self.batch.images, self.dialect)

    @cached_property
    def unscaled(self) -> Tensor:
        """(B, A, C) largest differences of the target scores."""
        label = self.scores.argmax(2, keepdim=True)  # (B, A, 1)
        moves = torch.zeros_like(self.scores).scatter(2, label, self.unsure.weights[..., None].double())
        return moves * self.targets.foreground[..., None]

    @cached_property
    def share(self) -> Tensor:
        """() largest relative change of N."""
        n = self.unsure.score_sum
        if n is None:
            return self.unscaled.sum() / self.score_sum
        return torch.maximum(self.score_sum / n.low - 1, 1 - self.score_sum / n.high)

    @cached_property
    def class_slopes(self) -> tuple[Tensor, Tensor]:
        """Absolute slopes of the class loss and of its gradients in the target score of each logit, (B, A, C) each."""
        logits = self.exact.predictions.logits
        if self.dialect.class_loss not in WEIGHTED:
            return logits.abs(), torch.ones_like(logits)
        return WeightedClasses(logits, self.targets.positives, self.dialect.class_loss, 0.0).sensitivity()

    @cached_property
    def movements(self) -> Tensor:
        """(B, A, C) largest differences of the target scores, as if they were divided by the assumed N."""
        if self.unsure.score_sum is None:
            return self.unscaled
        # N may be far from that of the replayed weights, and divides their differences
        return self.unscaled * (self.score_sum / self.unsure.score_sum.low)

    @cached_property
    def loss(self) -> ReferenceLoss:
        """The loss for the changes of the weights instead of the weights; divided by an N of its own."""
        moved = replace(self.targets, scores=self.movements)
        return compute_loss(
            self.batch, moved, torch.float64, self.dialect, self.exact.predictions, each_term=True
        )

    @cached_property
    def scale(self) -> Tensor:
        """() N of `loss` over N of the assumed weights."""
        own = divisor(self.movements[self.at].sum(1), self.batch.images, self.dialect)
        return own / self.score_sum

    @cached_property
    def factors(self) -> Tensor:
        """(C,) factor of each class, or a scalar (COR-7)."""
        return class_factors_of(self.batch, self.scores)

    @cached_property
    def wider(self) -> LossRounding:
        """The effect of rounding if the edges of the target boxes are uncertain."""
        edges = self.unsure.edges
        if not edges.any():
            return self.narrow
        rounding_units_of_task = ROUNDING_UNITS_BY_TASK[self.batch.task]
        return rounding_units_of_task(self.batch, self.targets, self.exact, self.dialect, edges)

    def items(self) -> Tensor:
        """Return the effect of the weights on the loss terms (T,)."""
        terms, exact = self.batch.family.terms, self.exact.items
        weighted = exact.new_tensor([term.weighted for term in terms])  # (T,) COR-2
        moves = [
            self.of_classes() if term.name == StageName.CLS else self.loss.items[place] * self.scale
            for place, term in enumerate(terms)
        ]
        return (torch.stack(moves) + exact.abs() * self.share) * weighted

    def of_classes(self) -> Tensor:
        """Return the effect of the weights on the class loss ()."""
        stored = self.movements  # (B, A, C)
        if self.batch.autocast and is_coarse(self.batch.dtype):
            # of unknown scores, the rounding is unknown too (LOSS-CLS-1)
            half = torch.finfo(self.batch.dtype).eps / 2
            stored = stored + half * (self.scores + stored) * (stored > 0)
        learnt = (self.class_slopes[0] * stored * self.factors).abs().sum()
        count = class_count(self.scores, self.dialect)
        return self.batch.hyperparameters.cls_gain * learnt / self.score_sum / count

    def of_field(self, number: int, place: int) -> Tensor:
        """Return the effect on the gradients of one term on one head field: (B, A, C), or (P, width)."""
        term, at = self.batch.family.terms[number], self.at
        # the total's is more than a term's: on the safe side
        own = (self.exact.of_terms or (self.exact.of_total,) * len(self.batch.family.terms))[number][place]
        if self.batch.family.fields[place].place == "anchors":
            return self.on_logits + own.abs() * self.share  # (B, A, C)
        wider, narrow = self.wider, self.narrow
        more = (
            wider.of_terms[number][place] - narrow.of_terms[number][place]
            + wider.jumps[number][place] - narrow.jumps[number][place]
        )  # fmt: skip
        if not term.weighted:
            return more
        assert self.batch.family.fields[place].place == "positives"
        moves = self.loss.of_terms[number][place][at].abs() * self.scale  # (P, width)
        return more + moves + own[at].abs() * self.share

    @cached_property
    def on_logits(self) -> Tensor:
        """(B, A, C) effect of the weights on the gradient of the class loss."""
        factor = total_factor(self.batch.images, self.dialect) / class_count(self.scores, self.dialect)
        gain = self.batch.hyperparameters.cls_gain
        return gain * factor / self.score_sum * self.movements * self.class_slopes[1] * self.factors

    def branches(self) -> Branches | None:
        """Return the values where predicted edges may meet the target's, with the effect of the weights on them."""
        branches = self.wider.branches
        if branches is None:
            return None
        least = smallest(torch.float32)
        relative = self.movements[self.at].sum(1) / self.scores[self.at].sum(1).clamp(min=least) + self.share
        moved = branches.moves.abs() * relative[:, None, None]  # (K, P, 4, R)
        return replace(branches, errors=branches.errors + moved)
