"""Rounding of a loss and of its gradients: how much one rounding in each operation changes them.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

import math
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.rounding.bounds import (
    bce_sum_unit,
    bound,
    dfl_unit,
    gradient_range,
    precision,
    smallest,
)
from tal_conformance.judgement.rounding.classes import WeightedClasses
from tal_conformance.judgement.rounding.exact_loss import (
    ZERO,
    Gradients,
    loss_precision,
)
from tal_conformance.judgement.rounding.mixed_gradients import Branches, MixedGradients
from tal_reference import NEWEST, BatchTargets, ClassLoss, Dialect, varied_loss
from tal_reference.loss import Positives
from tal_reference.varied_classes import WEIGHTED


@dataclass(frozen=True)
class LossRounding:
    """The effect of one rounding in each operation on the loss and its gradients, in float64.

    Gradients on the distance logits are given for the P positives alone, (P, 4R): elsewhere they are exactly zero.

    Attributes:
        items: (terms,) effect on box, cls and dfl, and angle.
        of_terms: effect on the gradients of every term: on distance logits (P, 4R), on class logits (B, A, C), and on
            angles (P, 1).
        jumps: additional differences where the gradients are not continuous; not multiples of a rounding.
        enclosed: (3,) largest differences of box, cls and dfl by the roundings to 16 bits under autocast, in addition
            to `items`; not multiples of a rounding. None without autocast, or with finer feature maps.
        ranges: (T,) terms of an untrained head: boxes that do not overlap, cross-entropies without cancellation, and
            equal probabilities of all bins; never below the terms themselves.
        branches: values of the box loss's gradient on the distance logits where predicted edges may meet the target's,
            under autocast; `jumps` holds the largest difference between them. None otherwise.
    """

    items: Tensor
    of_terms: tuple[Gradients, ...]
    jumps: tuple[Gradients, ...]
    enclosed: Tensor | None = None
    ranges: Tensor | None = None
    branches: Branches | None = None

    @property
    def of_total(self) -> Gradients:
        """Effect of rounding on the gradients of the total."""
        return _sum(self.of_terms)

    @property
    def jumps_of_total(self) -> Gradients:
        """Additional differences of the total's gradients where they are not continuous."""
        return _sum(self.jumps)


def no_jumps(batch: Batch) -> tuple[Gradients, ...]:
    """Return gradients of zero of every term on every head field."""
    family = batch.family
    return tuple((ZERO,) * len(family.fields) for _ in family.terms)


def _sum(terms: tuple[Gradients, ...]) -> Gradients:
    """Return the sums of the terms' gradients on every head field."""
    return tuple(reduce(add_gradients, field) for field in zip(*terms, strict=True))


def add_gradients(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of two gradient tensors, either of which may be the scalar `ZERO`."""
    return a if b is ZERO else b if a is ZERO else a + b


def divisor(scores: Tensor, images: int, dialect: Dialect) -> Tensor:
    """Return N, by which the loss of `images` images is divided (LOSS-SUM-1), or 1 if N is zero.

    Args:
        scores: (P,) target scores of the positives, float64.
        images: number of images.
        dialect: the dialect to follow.
    """
    score_sum = varied_loss.divisor(scores, images, dialect)
    return score_sum.where(score_sum > 0, 1)


def class_count(logits: Tensor, dialect: Dialect) -> int:
    """Return the number by which the sum of the cross-entropies of logits (B, A, C) is divided (LOSS-CLS-1)."""
    return logits.numel() if dialect.class_loss is ClassLoss.MEAN else 1


def class_unit(
    logits: Tensor, positives: Positives, eps: float, coarse: float, dialect: Dialect, factors: Tensor
) -> Tensor:
    """Return the error of the class loss before division by N (LOSS-CLS-1).

    Args:
        logits: (B, A, C) class logits, float64.
        positives: the positives of the batch.
        eps: machine epsilon of the loss terms' dtype.
        coarse: machine epsilon of the predictions' dtype.
        dialect: the dialect to follow.
        factors: (C,) factor of each class, or a scalar (COR-7).
    """
    if dialect.class_loss in WEIGHTED:
        return WeightedClasses(logits, positives, dialect.class_loss, max(eps, coarse)).unit(factors)
    at = positives.image, positives.anchor
    learnt = logits[(*at, positives.labels)]  # (P,)
    summed = logits[at] if dialect.class_loss is ClassLoss.POSITIVES else logits  # (P, C) or (B, A, C)
    weighted = positives.weights.double() * of_labels(factors, positives.labels)  # (P,)
    unit = bce_sum_unit(summed, learnt, weighted, eps, coarse, factors if factors.ndim else None)
    return unit / class_count(logits, dialect)


def of_labels(factors: Tensor, labels: Tensor) -> Tensor:
    """Return the factors (P,) of the classes `labels` (P,); a scalar, if all classes have the same factor."""
    return factors[labels] if factors.ndim else factors


def class_gradient_unit(logits: Tensor, targets: BatchTargets, dialect: Dialect) -> Tensor:
    """Return class score plus target score of every class logit (B, A, C), whose gradient rounds their difference."""
    positives = targets.positives
    if dialect.class_loss in WEIGHTED:
        eps = torch.finfo(targets.scores.dtype).eps
        return WeightedClasses(logits, positives, dialect.class_loss, eps).gradient_unit()
    unit = logits.sigmoid()  # (B, A, C)
    unit[positives.image, positives.anchor, positives.labels] += positives.weights.double()
    return unit * targets.foreground[..., None] if dialect.class_loss is ClassLoss.POSITIVES else unit


def side_unit(
    distances: Tensor, wanted: Tensor, wanted_error: Tensor, of_input: Tensor, batch: Batch, dialect: Dialect
) -> Tensor:
    """Return the error of the loss of each positive's distances (P,), before its weight (LOSS-DFL-1).

    Args:
        distances: (P, 4R) distance logits.
        wanted: (P, 4) target distances in grid units.
        wanted_error: (P, 4) largest errors of the target distances.
        of_input: (P, 4) strides divided by the input's size, for heads of one bin (L1 loss).
        batch: the batch.
        dialect: the dialect to follow.
    """
    reg_max, eps, dtype = batch.head.reg_max, torch.finfo(loss_precision(batch)).eps, precision(batch.dtype)
    if reg_max > 1 and varied_loss.has_no_distance_loss(reg_max, dialect):
        return torch.zeros_like(wanted[:, 0])  # (P,)
    if reg_max > 1:
        log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)  # (P, 4, R)
        _, lower, _ = varied_loss.bins_around(wanted, reg_max, dialect)  # (P, 4)
        unit = dfl_unit(log_probability, wanted, wanted_error, reg_max, eps, lower)  # (P,)
        jumps = varied_loss.whole_distances(wanted, wanted_error, reg_max, dialect)  # (P, 4)
        beside = (wanted.round()[..., None] + wanted.new_tensor([-1, 1])).clamp(0, reg_max - 1)  # (P, 4, 2)
        height = log_probability.gather(-1, beside.long()).diff(dim=-1).abs().squeeze(-1)  # (P, 4)
        return unit + (jumps * height).mean(1)
    scaled = share_error(distances, of_input, dtype) * of_input  # (P, 4) of shares, as read
    return ((wanted_error + eps * (distances - wanted).abs()) * of_input + scaled).mean(1)


def share_error(distances: Tensor, of_input: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the error in grid units of distances (P, 4) of one bin, which the L1 loss turns into shares of the input.

    Args:
        distances: (P, 4) distances in grid units, stored in `dtype`.
        of_input: (P, 4) strides divided by the input's size.
        dtype: dtype of the shares.
    """
    return torch.finfo(dtype).eps * distances.abs() + smallest(dtype) / of_input


def distance_gradient_units(
    slope: "GradientRounding",
    mixed: MixedGradients | None,
    distance_error: Tensor,
    of_box: Tensor,
    of_sides: Tensor,
    strides: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rounding errors and jumps of the gradients of box and dfl on the distance logits, (P, 4R) each.

    Args:
        slope: errors of the gradients of each positive's losses, before multiplication by weight and gain and division
            by N.
        mixed: the errors under autocast, which are not multiples of a rounding; None without autocast.
        distance_error: (P, 4) errors of the predicted distances.
        of_box: (P, 1, 1) factor of the box loss: weight times gain over N.
        of_sides: (P, 4, 1) or (P, 1, 1) factor of the distances' losses (DFL or L1): weight times gain over N.
        strides: (P, 1) strides in pixels.
    """
    side_rounds, side_jumps = ((part * of_sides).flatten(1) for part in slope.side())  # (P, 4R) twice
    if slope.reg_max == 1:
        # as a share of the input's size it may be too small for the dtype before the stride multiplies it
        side_rounds = side_rounds + smallest(slope.dtype) * strides  # (P, 4)
    else:  # the gradients of the two bins' cross-entropies on a logit may underflow, and are added
        side_rounds = side_rounds + 2 * smallest(slope.dtype)  # (P, 4R)
    if mixed is not None:
        box_jumps = mixed.box(of_box).flatten(1)
        if slope.reg_max > 1:
            side_jumps = mixed.dfl(of_sides, slope.wanted_error).flatten(1)
            side_rounds = torch.zeros_like(side_jumps)
        return torch.zeros_like(box_jumps), box_jumps, side_rounds, side_jumps
    box_rounds, box_jumps = (
        (part * of_box).flatten(1) for part in slope.box(distance_error)
    )  # (P, 4R) twice
    return box_rounds + slope.underflow().flatten(1), box_jumps, side_rounds, side_jumps


def term_ranges(weights: Tensor, logits: Tensor, learnt: Tensor, reg_max: int, factors: Tensor) -> Tensor:
    """Return (3,) box, cls and dfl of an untrained head, before division by N and multiplication by gains.

    Args:
        weights: (P,) target scores.
        logits: (B, A, C) class logits.
        learnt: (P,) target scores times their logits and the factors of their classes.
        reg_max: number R of bins.
        factors: (C,) factor of each class, or a scalar (COR-7).
    """
    total = weights.sum()
    crossed = (functional.softplus(logits.abs()) * factors).sum() + learnt.abs().sum()
    return torch.stack((total, crossed, total * (math.log(reg_max) if reg_max > 1 else 1.0)))


def on_all_anchors(of_positives: Gradients, foreground: Tensor) -> Gradients:
    """Return gradients with the parts of positives scattered to all anchors (B, A, width), zero elsewhere.

    Of positives (P, width) are the parts on distance logits and angles, not that on class logits.
    """

    def scattered(values: Tensor) -> Tensor:
        everywhere = values.new_zeros(*foreground.shape, values.shape[1])
        everywhere[foreground] = values
        return everywhere

    distances, logits, *others = of_positives
    return scattered(distances), logits, *map(scattered, others)


@dataclass(frozen=True)
class GradientRounding:
    """Errors of the gradients of each positive's box and DFL loss on its distance logits, (P, 4, R).

    Attributes:
        target, predicted: (P, 4) boxes in grid units.
        distances: (P, 4R) logits.
        wanted: (P, 4) target distances in grid units.
        wanted_error: (P, 4) errors of the target distances in grid units; with one bin, of the predicted distances too.
        edge: (P,) error of the boxes' edges.
        reg_max: number R of bins.
        dtype: dtype of the predictions and of gradients on them.
        dialect: the dialect to follow.
    """

    target: Tensor
    predicted: Tensor
    distances: Tensor
    wanted: Tensor
    wanted_error: Tensor
    edge: Tensor
    reg_max: int
    dtype: torch.dtype
    dialect: Dialect = NEWEST

    @property
    def eps(self) -> float:
        """Machine epsilon of the dtype."""
        return float(torch.finfo(self.dtype).eps)

    def box(self, distance_error: Tensor) -> tuple[Tensor, Tensor]:
        """Return the errors of the box loss's gradient on the distance logits (LOSS-BOX-1).

        The derivative of a side's distance d in the logit of bin k with probability p is p (k - d). Subnormal
        probabilities may be flushed to zero, as XLA and many devices do: p of the bin, and each in the sum d.

        Returns:
            Rounding errors, and jumps where an edge may lie on either side of another one, (P, 4, R) each.
        """
        gradient, jump = self.box_range()  # (P, 4) twice
        largest = (gradient.abs() + jump).amax(1, keepdim=True)  # (P, 1)
        if self.reg_max == 1:
            return (4 * self.eps * largest).expand_as(jump)[..., None], jump[..., None]  # (P, 4, 1) twice
        rounded = self.eps * (self.bins + self.expected) * (3 + self.below)  # (P, 4, R)
        lost = (self.bins - self.expected).abs() + self.share * self.bins.sum()  # (P, 4, R)
        flushed = smallest(self.dtype) * lost
        lever_error = self.share * (rounded + distance_error[..., None]) + flushed
        rounding = gradient.abs()[..., None] * lever_error + 4 * self.eps * largest[..., None] * self.lever
        return rounding, jump[..., None] * self.lever

    def box_range(self) -> tuple[Tensor, Tensor]:
        """Return the box loss's gradient on the four distances, and its largest change by edge errors; (P, 4) each."""
        edge, measure = self.edge[:, None], self.dialect.box_overlap
        return gradient_range(self.target, self.predicted, edge, measure)

    def underflow(self) -> Tensor:
        """Return the error of the box loss's gradient by underflow in its dtype, (P, 4, R).

        Underflow errs by half the smallest number in the gradients on the edge of the box, on the distance and on each
        bin, and by as much in the reference. If products of bins and exponentials are summed before the division by the
        sum of exponentials, their underflow is multiplied by the number and the exponential of the bin.
        """
        least = smallest(self.dtype)
        if self.reg_max == 1:
            return torch.full_like(self.distances, 2 * least)[..., None]  # (P, 4, 1)
        power = (-self.below).exp()  # (P, 4, R) exponentials of the logits below the largest
        return least * (2 * self.lever + power * self.bins + self.share)

    @cached_property
    def below(self) -> Tensor:
        """(P, 4, R) difference between the largest logit of a side and each logit."""
        sides = self.distances.unflatten(1, (4, self.reg_max))  # (P, 4, R)
        return sides.amax(-1, keepdim=True) - sides

    @cached_property
    def share(self) -> Tensor:
        """(P, 4, R) probabilities p of the bins (DEC-1)."""
        return (-self.below).softmax(-1)

    @cached_property
    def bins(self) -> Tensor:
        """(R,) the bins' distances k."""
        return torch.arange(self.reg_max).to(self.distances)

    @cached_property
    def expected(self) -> Tensor:
        """(P, 4, 1) distances d of the sides (DEC-1)."""
        return (self.share @ self.bins)[..., None]

    @cached_property
    def lever(self) -> Tensor:
        """(P, 4, R) absolute derivative p |k - d| of a side's distance d in the logit of bin k."""
        return self.share * (self.bins - self.expected).abs()

    def side(self) -> tuple[Tensor, Tensor]:
        """Return the errors of the DFL loss's gradient: probabilities minus the two bins' target shares (LOSS-DFL-1).

        A subnormal probability may be flushed to zero.

        Returns:
            Rounding errors, and jumps where R = 1 and the sign is not certain, or where exchanged shares of two bins
            change at a whole distance; (P, 4, R) each.
        """
        if self.reg_max == 1:
            near = (
                self.distances - self.wanted
            ).abs() <= self.wanted_error  # (P, 4): the sign is not certain
            jump = 2 * near.double()[..., None]  # (P, 4, 1)
            return torch.full_like(jump, 4 * self.eps), jump
        if varied_loss.has_no_distance_loss(self.reg_max, self.dialect):
            return torch.zeros_like(self.share), torch.zeros_like(self.share)
        clamped = varied_loss.bins_around(self.wanted, self.reg_max, self.dialect)[0]
        clamped = clamped.clamp(0, self.reg_max - 1)[
            ..., None
        ]  # (P, 4, 1): the end bins stand for those beyond
        near = (self.bins - clamped).abs() <= 1 + self.wanted_error[..., None]  # (P, 4, R) bins with a share
        probability_error = self.eps * self.share * (3 + self.below) + smallest(self.dtype)
        rounding = probability_error + near * (self.wanted_error[..., None] + 2 * self.eps)
        jumps = varied_loss.whole_distances(
            self.wanted, self.wanted_error, self.reg_max, self.dialect
        )  # (P, 4)
        beside = (self.bins - self.wanted.round()[..., None]).abs() <= 1  # (P, 4, R)
        return rounding, (jumps[..., None] & beside).to(rounding)


def gradient_bound(
    batch: Batch, name: str, exact: Tensor, same_dtype: Tensor, unit: Tensor, enclosed: bool = False
) -> Tensor:
    """Return the largest admissible error of the gradient on the head field `name`, in addition to its jumps.

    The error is 0 where the reference's gradient and its rounding unit are 0. If `enclosed`, the jumps of the gradient
    on the distance logits hold all roundings to 16 bits, so that the naive computation's error is a part of them.
    """
    dtype = precision(batch.dtype)
    if (
        name == "distance logits" and enclosed and batch.autocast
    ):  # rotated boxes enclose terms without autocast too
        same_dtype = exact
    elif name == "distance logits":
        unit = unit + 4 * torch.finfo(dtype).eps * exact.abs()
    allowed = bound(same_dtype, exact, unit, dtype, f"gradient on {name}")
    zero = exact == 0
    return allowed.where(~(zero & (unit == 0)), 0) if zero.any() else allowed
