"""Judging a loss: its terms, their sum and the gradient, given the assignment that the loss itself used.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.batches import Batch
from conformance.implementations import Assignment, LossOutcome
from conformance.judgement.bounds import (
    bce_sum_unit,
    bound,
    box_unit,
    ciou_unit,
    dfl_unit,
    distance_unit,
    gradient_range,
    precision,
)
from conformance.judgement.comparators import within
from conformance.judgement.verdicts import STAGES, Agreement, Judgement, Mismatch
from reference import NEWEST, BatchTargets, Dialect, Predictions, WeightsMeet
from reference.anchors import flatten
from reference.boxes import ciou
from reference.loss import distances_to, loss_items, read_predictions

TERMS = ("box", "cls", "dfl")


@dataclass(frozen=True)
class Computed:
    """The reference's loss of a batch in one dtype, for given targets.

    Attributes:
        predictions: the feature maps as the loss reads them.
        items: (3,) box, cls, dfl, with gains, without the batch size.
        distance_gradient: (B, A, 4R) of the total.
        logit_gradient: (B, A, C) of the total.
    """

    predictions: Predictions
    items: Tensor
    distance_gradient: Tensor
    logit_gradient: Tensor


def compute(batch: Batch, targets: BatchTargets, dtype: torch.dtype, dialect: Dialect = NEWEST) -> Computed:
    """The reference's loss and gradient in `dtype` for given targets."""
    maps = [level.detach().to(dtype).requires_grad_() for level in batch.feature_maps]
    predictions = read_predictions(maps, batch.head)
    finest = torch.promote_types(
        dtype, torch.float32
    )  # targets follow the annotations, which are never coarser
    given = BatchTargets(targets.foreground, targets.boxes.to(finest), targets.scores.to(finest))
    with torch.autocast(batch.device.type, dtype=dtype, enabled=batch.autocast and dtype != torch.float64):
        items = loss_items(predictions, given, batch.head, batch.hyperparameters, dialect)
    gradients = torch.autograd.grad(items.sum() * batch.images, maps)
    distances, logits = flatten(gradients, batch.head)
    detached = Predictions(
        predictions.distances.detach(), predictions.logits.detach(), predictions.boxes.detach(),
        predictions.anchors, predictions.size,
    )  # fmt: skip
    return Computed(detached, items.detach(), distances, logits)


@dataclass(frozen=True)
class LossUnits:
    """What one rounding in each operation does to the loss: float64, in the shapes of `Computed`.

    Attributes:
        items: (3,).
        distance_gradient: (B, A, 4R).
        logit_gradient: (B, A, C).
    """

    items: Tensor
    distance_gradient: Tensor
    logit_gradient: Tensor


def units(batch: Batch, targets: BatchTargets, exact: Computed, dialect: Dialect = NEWEST) -> LossUnits:
    """The units of a batch's loss for given targets; `exact` is what float64 computes."""
    numbers, reg_max = batch.hyperparameters, batch.head.reg_max
    eps = torch.finfo(precision(batch.dtype)).eps
    given = exact.predictions
    positive, scores = targets.foreground, targets.scores.double()  # (B, A), (B, A, C)
    score_sum = scores.sum().clamp(min=dialect.score_sum_floor)
    score_sum = score_sum.where(score_sum > 0, 1)  # by zero nothing can be divided, and no error is known
    weights = scores.sum(-1)[positive]  # (P,)
    if dialect.weights_meet is WeightsMeet.ALL:
        weights = weights.sum().expand_as(weights)  # (P,)
    strides = given.anchors.strides.expand(*positive.shape, 1)[positive]  # (P, 1)
    centres = given.anchors.centres.expand(*positive.shape, 2)[positive]  # (P, 2)
    target = targets.boxes.double()[positive] / strides  # (P, 4) grid units
    predicted, distances = given.boxes[positive], given.distances[positive]  # (P, 4), (P, 4R)
    edge = box_unit(given, reg_max, eps)[positive].amax(1)  # (P,) of the prediction
    edge = edge + eps * target.abs().amax(1)  # ... and of the target's division by the stride

    box = weights * (
        ciou_unit(target, predicted, edge, eps) + 2 * eps * (1 - ciou(target, predicted))
    )  # (P,)
    cls = bce_sum_unit(given.logits, scores, eps)
    wanted = distances_to(target, centres)  # (P, 4)
    wanted_error = eps * (centres.repeat(1, 2) + target.abs() + wanted.abs())  # (P, 4)
    if reg_max > 1:
        log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)  # (P, 4, R)
        side = weights * dfl_unit(log_probability, wanted, wanted_error, reg_max, eps)  # (P,)
    else:
        side = weights * (wanted_error + eps * (distances - wanted).abs()).mean(
            1
        )  # (P,) in grid units: at most
    gains = torch.tensor((numbers.box_gain, numbers.cls_gain, numbers.dfl_gain)).to(scores)
    terms = torch.stack((box.sum(), cls, side.sum())) * gains / score_sum
    items = terms + 3 * eps * exact.items.abs()  # (3,): sum, gain and quotient

    share = batch.images / score_sum
    logit_gradient = eps * 3 * numbers.cls_gain * share * (given.logits.sigmoid() + scores)
    distance_gradient = torch.zeros_like(given.distances)
    slope = Slope(target, predicted, distances, wanted, wanted_error, edge, reg_max, eps)
    box_slope = numbers.box_gain * slope.box(distance_unit(distances, reg_max, eps))  # (P, 4, R)
    side_slope = numbers.dfl_gain / 4 * slope.side()  # (P, 4, R)
    distance_gradient[positive] = ((box_slope + side_slope) * weights[:, None, None]).flatten(1) * share
    return LossUnits(items, distance_gradient + 4 * eps * exact.distance_gradient.abs(), logit_gradient)


@dataclass(frozen=True)
class Slope:
    """Errors of the gradients of one positive's box and DFL loss in its distance logits, (P, 4, R).

    Attributes:
        target, predicted: (P, 4) boxes in grid units.
        distances: (P, 4R) logits.
        wanted, wanted_error: (P, 4) target distances in grid units.
        edge: (P,) error of the boxes' edges.
        reg_max: R.
        eps: of the dtype.
    """

    target: Tensor
    predicted: Tensor
    distances: Tensor
    wanted: Tensor
    wanted_error: Tensor
    edge: Tensor
    reg_max: int
    eps: float

    def box(self, distance_error: Tensor) -> Tensor:
        """LOSS-BOX-1: a logit moves its side by p (k - d), the side moves CIoU by its gradient."""
        gradient, jump = gradient_range(self.target, self.predicted, self.edge[:, None])  # (P, 4) twice
        jump = jump + self.eps * gradient.abs().amax(1, keepdim=True)
        if self.reg_max == 1:
            return jump[..., None]  # (P, 4, 1)
        sides = self.distances.unflatten(1, (4, self.reg_max))  # (P, 4, R)
        share, below = sides.softmax(-1), sides.amax(-1, keepdim=True) - sides  # (P, 4, R) twice
        bins = torch.arange(self.reg_max).to(sides)  # (R,)
        expected = (share * bins).sum(-1, keepdim=True)  # (P, 4, 1)
        lever = share * (bins - expected).abs()  # (P, 4, R)
        lever_error = share * (self.eps * (bins + expected) * (3 + below) + distance_error[..., None])
        return jump[..., None] * lever + gradient.abs()[..., None] * lever_error

    def side(self) -> Tensor:
        """LOSS-DFL-1: p minus the two bins' shares, which move as the target distance does."""
        if self.reg_max == 1:
            near = (
                self.distances - self.wanted
            ).abs() <= self.wanted_error  # (P, 4): the sign is not certain
            return (2 * near.double() + 4 * self.eps)[..., None]
        sides = self.distances.unflatten(1, (4, self.reg_max))  # (P, 4, R)
        share, below = sides.softmax(-1), sides.amax(-1, keepdim=True) - sides
        bins = torch.arange(self.reg_max).to(sides)  # (R,)
        clamped = self.wanted.clamp(0, self.reg_max - 1 - 0.01)[..., None]  # (P, 4, 1)
        near = (bins - clamped).abs() <= 1 + self.wanted_error[..., None]  # (P, 4, R) bins with a share
        return self.eps * share * (3 + below) + near * (self.wanted_error[..., None] + 2 * self.eps)


def judge_loss(
    judgement: Judgement,
    batch: Batch,
    assignment: Assignment,
    loss: LossOutcome,
    dialect: Dialect = NEWEST,
) -> None:
    """Judge the stages "cls" to "gradients", into `judgement`.

    Args:
        judgement: takes the result.
        batch: what was computed on.
        assignment: what the loss used; its numbers are taken as they are.
        loss: what came out.
        dialect: what it is held to.
    """
    targets = BatchTargets(assignment.foreground, assignment.boxes.double(), assignment.scores)
    exact = compute(batch, targets, torch.float64, dialect)
    naive = compute(batch, targets, batch.dtype, dialect)
    unit = units(batch, targets, exact, dialect)
    dtype = precision(batch.dtype)
    for place, stage in ((1, "cls"), (0, "box"), (2, "dfl")):
        _note(
            judgement, stage, f"{stage} loss", STAGES[stage], loss.items[place], exact.items[place],
            bound(naive.items[place], exact.items[place], unit.items[place], dtype, f"{stage} loss"),
            naive.items[place], (),
        )  # fmt: skip
    items = loss.items.double().nan_to_num()
    total = items.sum() * batch.images  # LOSS-GAIN-1, of the implementation's own items
    naive_total = loss.items.sum() * batch.images
    rounding = 4 * torch.finfo(dtype).eps * items.abs().sum() * batch.images
    error = bound(naive_total, total, rounding, dtype, "total")
    _note(judgement, "total", "total", STAGES["total"], loss.total, total, error, naive_total, ())
    judge_gradients(judgement, batch, loss, exact, naive, unit)


def judge_gradients(
    judgement: Judgement, batch: Batch, loss: LossOutcome, exact: Computed, naive: Computed, unit: LossUnits
) -> None:
    """LOSS-GRAD-1: the gradients on class logits and on distance logits."""
    distances, logits = flatten(loss.gradients, batch.head)  # (B, A, 4R), (B, A, C)
    for name, observed, expected, approximate, error in (
        ("class logits", logits, exact.logit_gradient, naive.logit_gradient, unit.logit_gradient),
        (
            "distance logits",
            distances,
            exact.distance_gradient,
            naive.distance_gradient,
            unit.distance_gradient,
        ),
    ):
        allowed = bound(approximate, expected, error, precision(batch.dtype), f"gradient on {name}")
        background = expected == 0  # exact zeros stay exact zeros
        allowed = torch.where(background & (error == 0), 0, allowed)
        _note(
            judgement, "gradients", f"gradient on {name}", STAGES["gradients"], observed, expected, allowed,
            approximate, ("image", "anchor", "channel"),
        )  # fmt: skip


def _note(
    judgement: Judgement, stage: str, quantity: str, clause: str, observed: Tensor, expected: Tensor, allowed: Tensor,
    naive: Tensor, names: tuple[str, ...],
) -> None:  # fmt: skip
    try:
        agreement: Agreement = within(quantity, clause, observed, expected, allowed, naive, names)
        judgement.stages[stage].add(agreement)
    except Mismatch as mismatch:
        judgement.stages[stage].fail(mismatch)
