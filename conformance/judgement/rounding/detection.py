"""Rounding of the detection loss for given targets: box, cls and dfl, and their gradients.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.rounding.bounds import (
    box_unit,
    distance_unit,
    overlap_unit,
    precision,
    smallest,
)
from tal_conformance.judgement.rounding.exact_loss import (
    ZERO,
    ReferenceLoss,
    class_factors_of,
    class_gradient_roundings,
    loss_precision,
)
from tal_conformance.judgement.rounding.loss_rounding import (
    GradientRounding,
    LossRounding,
    class_count,
    class_gradient_unit,
    class_unit,
    distance_gradient_units,
    divisor,
    of_labels,
    share_error,
    side_unit,
    term_ranges,
)
from tal_conformance.judgement.rounding.mixed_gradients import MixedGradients
from tal_conformance.judgement.rounding.mixed_precision import (
    FLOAT32_EPS,
    MixedTerms,
    logit_gradient_error,
)
from tal_reference import BatchTargets, Dialect, WeightBroadcast
from tal_reference.anchors import Anchors
from tal_reference.composed import total_factor
from tal_reference.decoding import decode
from tal_reference.loss import distances_to
from tal_reference.varied_boxes import MEASURES

SUM_ROUNDINGS = 4
"""Number of roundings of the total: three sums and a product with the number of images (LOSS-GAIN-1)."""


def rounding_units(
    batch: Batch,
    targets: BatchTargets,
    exact: ReferenceLoss,
    dialect: Dialect,
    edges: Tensor | float = 0.0,
) -> LossRounding:
    """Return the effect of rounding on a batch's loss for given targets.

    Args:
        batch: any batch.
        targets: labels, boxes and scores that the batch's anchors learn.
        exact: the loss in float64.
        dialect: the dialect to follow.
        edges: (B, A) errors of the target boxes' edges in pixels; zero by default.
    """
    return DetectionRounding(batch, targets, exact, dialect, edges).units()


def shared_rounding_units(
    batch: Batch, targets: BatchTargets, exact: ReferenceLoss, dialect: Dialect, edges: Tensor | float
) -> LossRounding:
    """Return the effect of rounding on box, cls and dfl of a loss with further terms; arguments of `rounding_units`."""
    shared = [batch.family.item_names.index(name) for name in ("box", "cls", "dfl")]
    return rounding_units(batch, targets, replace(exact, items=exact.items[shared]), dialect, edges)


@dataclass(frozen=True)
class PositivesRounding:
    """Predictions and targets of the positives of a batch, in grid units, with the errors of both.

    Attributes:
        batch: any batch.
        targets: labels, boxes and scores that the batch's anchors learn.
        exact: the loss in float64.
        dialect: the dialect to follow.
        edges: (B, A) errors of the target boxes' edges in pixels; zero by default.
    """

    batch: Batch
    targets: BatchTargets
    exact: ReferenceLoss
    dialect: Dialect
    edges: Tensor | float = 0.0

    @property
    def reg_max(self) -> int:
        """Number R of bins."""
        return self.batch.head.reg_max

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the predictions, and of gradients on them."""
        return precision(self.batch.dtype)

    @property
    def coarse(self) -> float:
        """Machine epsilon of the predictions, and of gradients on them."""
        return float(torch.finfo(self.dtype).eps)

    @property
    def eps(self) -> float:
        """Machine epsilon of the loss terms."""
        return float(torch.finfo(loss_precision(self.batch)).eps)

    @cached_property
    def at(self) -> tuple[Tensor, Tensor]:
        """Indices of image (P,) and anchor (P,)."""
        return self.targets.positives.image, self.targets.positives.anchor

    @cached_property
    def scores(self) -> Tensor:
        """(P,) target scores."""
        return self.targets.positives.weights.double()

    @cached_property
    def score_sum(self) -> Tensor:
        """() N, by which the loss is divided (LOSS-SUM-1)."""
        return divisor(self.scores, self.batch.images, self.dialect)

    @cached_property
    def strides(self) -> Tensor:
        """(P, 1) strides in pixels."""
        return self.exact.predictions.anchors.strides[self.at[1]]

    @cached_property
    def centres(self) -> Tensor:
        """(P, 2) centres of the anchors."""
        return self.exact.predictions.anchors.centres[self.at[1]]

    @cached_property
    def logits(self) -> Tensor:
        """(B, A, C) class logits."""
        return self.exact.predictions.logits

    @cached_property
    def distances(self) -> Tensor:
        """(P, 4R) distance logits."""
        return self.exact.predictions.distances[self.at]

    @cached_property
    def distance_error(self) -> Tensor:
        """(P, 4) errors of the predicted distances."""
        return distance_unit(self.distances, self.reg_max, self.coarse)

    @cached_property
    def moved(self) -> Tensor | float:
        """(P, 1) given errors of the target boxes' edges."""
        return self.edges[self.at][:, None] / self.strides if isinstance(self.edges, Tensor) else self.edges

    @cached_property
    def of_input(self) -> Tensor:
        """(P, 4) strides as shares of the input's sides, for the L1 form of heads with one bin."""
        size = self.strides.new_tensor(self.exact.predictions.size)  # (2,) height and width
        return self.strides / size.flip(0).repeat(2)

    @cached_property
    def factors(self) -> Tensor:
        """(C,) factor of each class, or a scalar (COR-7)."""
        return class_factors_of(self.batch, self.logits)

    @cached_property
    def learning(self) -> Tensor:
        """(P,) class logits at the labels, times the factors of the classes."""
        labels = self.targets.positives.labels  # (P,)
        return self.logits[(*self.at, labels)] * of_labels(self.factors, labels)

    @cached_property
    def share(self) -> Tensor:
        """() factor of the total before the gains: number of images, or 1, over N."""
        return total_factor(self.batch.images, self.dialect) / self.score_sum

    def ranges(self, terms: Tensor, scale: Tensor) -> Tensor:
        """Return the ranges (T,) of the terms: of an untrained head, and never below the terms themselves.

        No range ends below the rounding of the sum of all terms to float32: a term changes the total by no less, so
        that a bound below this rounding leaves nothing open that a training reads.

        Args:
            terms: (T,) terms of an untrained head, before N and gains.
            scale: (T,) gains over N.
        """
        # a term that is zero has a bound too, by underflow
        least = 4 * smallest(loss_precision(self.batch))
        of_sum = SUM_ROUNDINGS * FLOAT32_EPS * self.exact.items.abs().nan_to_num(posinf=0.0).sum()
        return torch.maximum(terms * scale, self.exact.items.abs()).clamp(min=least).maximum(of_sum)


@dataclass(frozen=True)
class DetectionRounding(PositivesRounding):
    """The effect of rounding on the detection loss and its gradients, step by step."""

    def units(self) -> LossRounding:
        """Return the effect on the loss terms and on the gradients of each term."""
        (box_rounds, side_rounds), (box_jumps, side_jumps) = self.on_distances()  # (P, 4R) each
        on_logits, stored = self.on_logits()  # (B, A, C) each
        rounding = (box_rounds, ZERO), (ZERO, on_logits), (side_rounds, ZERO)
        jumps = (box_jumps, ZERO), (ZERO, stored), (side_jumps, ZERO)
        scale, mixed = self.gains / self.score_sum, self.mixed  # (T,)
        enclosed = None if mixed is None else mixed.term_errors(self.learning, self.scores) * scale  # (T,)
        untrained = term_ranges(
            self.weights, self.logits, self.learning * self.scores, self.reg_max, self.factors
        )
        branches = None
        if self.mixed_gradients is not None:
            branches = self.mixed_gradients.box_branches(
                self.of_weights * self.batch.hyperparameters.box_gain
            )
        return LossRounding(self.items(), rounding, jumps, enclosed, self.ranges(untrained, scale), branches)

    @cached_property
    def gains(self) -> Tensor:
        """(3,) gains of box, cls and dfl."""
        numbers = self.batch.hyperparameters
        return torch.tensor((numbers.box_gain, numbers.cls_gain, numbers.dfl_gain)).to(self.scores)

    @cached_property
    def weights(self) -> Tensor:
        """(P,) weights of the box and DFL losses: the target scores, or the sum of all of them."""
        if self.dialect.weights_meet is WeightBroadcast.ALL_PAIRS:
            return self.scores.sum().expand_as(self.scores)
        return self.scores

    @cached_property
    def of_weights(self) -> Tensor:
        """(P, 1, 1) weights times the factor of the total."""
        return (self.weights * self.share)[:, None, None]

    @cached_property
    def target(self) -> Tensor:
        """(P, 4) target boxes."""
        return self.targets.positives.boxes.double() / self.strides

    @cached_property
    def predicted(self) -> Tensor:
        """(P, 4) predicted boxes."""
        return decode(self.distances, Anchors(self.centres, self.strides), self.reg_max)

    @cached_property
    def mixed(self) -> MixedTerms | None:
        """Errors of the terms under autocast; None without it."""
        return MixedTerms.of(
            self.batch, self.dialect, self.distances, self.centres, self.target, self.weights
        )

    @cached_property
    def mixed_gradients(self) -> MixedGradients | None:
        """Errors of the gradients under autocast; None without it."""
        return None if self.mixed is None else MixedGradients(self.mixed, self.of_target)

    @cached_property
    def of_target(self) -> Tensor:
        """(P,) given errors of the target boxes' edges."""
        return self.moved[:, 0] if isinstance(self.moved, Tensor) else torch.zeros_like(self.scores)

    @cached_property
    def edge(self) -> Tensor:
        """(P,) errors of the edges of both boxes, and of the division by the stride."""
        if self.mixed is None:
            of_box = box_unit(self.predicted, self.centres, self.distance_error, self.coarse).amax(1)
        else:
            of_box = self.mixed.edge_errors()
        return of_box + self.of_target + self.eps * self.target.abs().amax(1)

    @cached_property
    def wanted(self) -> Tensor:
        """(P, 4) target distances."""
        return distances_to(self.target, self.centres)

    @cached_property
    def wanted_error(self) -> Tensor:
        """(P, 4) errors of the target distances."""
        sizes = self.centres.repeat(1, 2) + self.target.abs() + self.wanted.abs()  # (P, 4)
        error = self.eps * sizes + self.moved
        return error + (0.0 if self.mixed is None else self.mixed.centre_errors().repeat(1, 2))

    def items(self) -> Tensor:
        """Return the effect on the loss terms (3,)."""
        measure, edge = self.dialect.box_overlap, self.edge if self.mixed is None else self.of_target  # (P,)
        apart = 2 * self.eps * (1 - MEASURES[measure](self.target, self.predicted))  # (P,)
        box = self.weights * (overlap_unit(measure, self.target, self.predicted, edge, self.eps) + apart)
        coarse = self.coarse if self.mixed is None else 0.0
        cls = class_unit(self.logits, self.targets.positives, self.eps, coarse, self.dialect, self.factors)
        side = self.weights * side_unit(
            self.distances, self.wanted, self.wanted_error, self.of_input, self.batch, self.dialect
        )  # (P,)
        terms = torch.stack((box.sum(), cls, side.sum())) * self.gains / self.score_sum  # (3,)
        return terms + 3 * self.eps * self.exact.items.abs()  # sum, gain and quotient

    def on_logits(self) -> tuple[Tensor, Tensor]:
        """Return the effect on the gradients of cls, and of storing them in 16 bits, (B, A, C) each."""
        count, gain = class_count(self.logits, self.dialect), self.batch.hyperparameters.cls_gain
        scale = gain * self.share / count * self.factors  # (C,), or a scalar
        sizes = class_gradient_unit(self.logits, self.targets, self.dialect)  # (B, A, C)
        roundings = class_gradient_roundings(self.batch, self.logits, sizes)  # (B, A, C)
        if self.mixed is None:
            return roundings * (self.coarse * scale), ZERO
        return roundings * (self.eps * scale), logit_gradient_error(sizes, ZERO, scale, self.batch.dtype)

    def on_distances(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return roundings of box and dfl on the distance logits, and jumps of both, (P, 4R) each."""
        wanted_error, numbers = self.wanted_error, self.batch.hyperparameters
        if self.reg_max == 1:
            wanted_error = wanted_error + share_error(self.distances, self.of_input, self.dtype)
        slope = GradientRounding(
            self.target, self.predicted, self.distances, self.wanted, wanted_error, self.edge, self.reg_max,
            self.dtype, self.dialect,
        )  # fmt: skip
        shares = self.of_input[..., None] if self.reg_max == 1 else 1.0  # (P, 4, 1)
        box_rounds, box_jumps, side_rounds, side_jumps = distance_gradient_units(
            slope,
            self.mixed_gradients,
            self.distance_error,
            self.of_weights * numbers.box_gain,
            self.of_weights * shares * (numbers.dfl_gain / 4),
            self.strides,
        )
        return (box_rounds, side_rounds), (box_jumps, side_jumps)
