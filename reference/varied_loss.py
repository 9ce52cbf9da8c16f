"""The loss of a dialect with choices that no release makes, term by term as in `loss`.

Steps in which no dialect differs are the functions of `loss` themselves. With all defaults the result is bitwise
that of `loss.loss_items`. P is the number of positives of the batch, R of bins.
"""

import torch
from torch import Tensor

from tal_reference.anchors import Anchors
from tal_reference.decoding import decode
from tal_reference.dialect import Dialect, WeightBroadcast
from tal_reference.loss import (
    LAST_BIN_MARGIN,
    BatchTargets,
    Positives,
    Predictions,
    class_factors,
    cls_loss,
    dfl_loss,
    distances_to,
)
from tal_reference.loss import has_no_distance_loss as official_has_no_distance_loss
from tal_reference.loss import side_loss as official_side_loss
from tal_reference.settings import Head, Hyperparameters
from tal_reference.shapes import Bool, Float
from tal_reference.variations import ClassLoss, DflClamp, DistanceLoss, ScoreSum
from tal_reference.varied_boxes import MEASURES
from tal_reference.varied_classes import dense_targets, weighted_cross_entropies


def loss_items(
    predictions: Predictions,
    targets: Positives | BatchTargets,
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect,
) -> Float[Tensor, "3"]:
    """Return (3,) the losses box, cls and dfl times their gains, differentiable (LOSS-SUM-1, LOSS-GAIN-1).

    Arguments are the same as for `loss.loss_items`.
    """
    positives = targets.positives if isinstance(targets, BatchTargets) else targets
    numbers = dialect.effective(hyperparameters, predictions.logits.shape[1])
    anchors, distances = predictions.at(positives)  # of the positives; (P, 4R)
    boxes = positives.boxes / anchors.strides  # (P, 4) in grid units

    box = 1 - MEASURES[dialect.box_overlap](boxes, decode(distances, anchors, head.reg_max))  # (P,)
    side = side_loss(distances, distances_to(boxes, anchors.centres), anchors, predictions.size, dialect)  # (P,)
    weights = positives.weights  # (P,)
    score_sum = divisor(weights, len(predictions.logits), dialect)  # N
    if dialect.weights_meet is WeightBroadcast.ALL_PAIRS:
        weights = weights.sum().expand_as(weights)  # (P,)
    box_sum, side_sum = ((weights * loss).sum() / (score_sum if len(weights) else 1) for loss in (box, side))
    factors = class_factors(head, predictions.logits)  # (C,)
    cls = class_sum(predictions.logits, positives, dialect, factors) / score_sum
    gains = numbers.box_gain, numbers.cls_gain, numbers.dfl_gain
    return torch.stack([gain * term for gain, term in zip(gains, (box_sum, cls, side_sum), strict=True)])  # (3,)


def divisor(weights: Float[Tensor, "P"], images: int, dialect: Dialect) -> Float[Tensor, ""]:
    """Return N, the number by which the losses are divided, from the weights of the positives (LOSS-SUM-1)."""
    match dialect.score_sum:
        case ScoreSum.BATCH:
            score_sum = weights.sum()
        case ScoreSum.PER_IMAGE:
            score_sum = weights.sum() / images
        case ScoreSum.POSITIVES:
            score_sum = weights.new_tensor(len(weights))
    return score_sum.clamp(min=dialect.score_sum_floor)


def class_sum(
    logits: Float[Tensor, "B A C"],
    positives: Positives,
    dialect: Dialect,
    class_weights: Float[Tensor, "C"] | None = None,
) -> Float[Tensor, ""]:
    """Return the class loss of the whole batch, not yet divided by the score sum N (LOSS-CLS-1)."""
    weighting = () if class_weights is None else (class_weights,)
    at = positives.image, positives.anchor, positives.labels
    match dialect.class_loss:
        case ClassLoss.SUM:
            return cls_loss(logits, at, positives.weights, *weighting)
        case ClassLoss.MEAN:
            return cls_loss(logits, at, positives.weights, *weighting) / logits.numel()
        case ClassLoss.POSITIVES:
            place = torch.arange(len(positives.labels), device=logits.device)  # (P,)
            learning = logits.mT[positives.image, :, positives.anchor][None]  # (1, P, C)
            at = torch.zeros_like(place), place, positives.labels
            return cls_loss(learning, at, positives.weights, *weighting)
        case ClassLoss.VARIFOCAL | ClassLoss.FOCAL | ClassLoss.QUALITY:
            logits = logits.to(torch.promote_types(logits.dtype, positives.weights.dtype))  # (B, A, C)
            losses = weighted_cross_entropies(logits, *dense_targets(logits, positives), dialect.class_loss)
            return (losses if class_weights is None else losses * class_weights).sum()


def side_loss(
    distances: Float[Tensor, "P bins"],
    target: Float[Tensor, "P 4"],
    anchors: Anchors,
    size: tuple[int, int],
    dialect: Dialect,
) -> Float[Tensor, "P"]:
    """Return (P,) the loss of the four distances of each positive (LOSS-DFL-1)."""
    reg_max = distances.shape[1] // 4
    if has_no_distance_loss(reg_max, dialect):
        return torch.zeros_like(target[:, 0])  # (P,)
    if reg_max == 1:
        return official_side_loss(distances, target, anchors, size, dialect)
    if dialect.dfl_clamp is DflClamp.BELOW_LAST_BIN and not dialect.dfl_shares_exchanged:
        return dfl_loss(distances, target, reg_max)
    _, at, upper_share = bins_around(target, reg_max, dialect)  # (P, 4) each
    log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)  # (P, 4, R)
    below, above = (
        log_probability.gather(-1, (at + step).clamp(0, reg_max - 1)[..., None]).squeeze(-1) for step in (0, 1)
    )  # (P, 4) twice
    return -((1 - upper_share) * below + upper_share * above).mean(1)  # (P,)


def has_no_distance_loss(reg_max: int, dialect: Dialect) -> bool:
    """Return True if a dialect has no loss of the distances for a head with R bins (LOSS-DFL-1)."""
    if reg_max > 1:
        return dialect.distance_loss is DistanceLoss.NOTHING
    return official_has_no_distance_loss(reg_max, dialect)


def bins_around(
    target: Float[Tensor, "P 4"], reg_max: int, dialect: Dialect
) -> tuple[Float[Tensor, "P 4"], Tensor, Float[Tensor, "P 4"]]:
    """Return clamped target distances, bins below (int64) and shares of the bins above, all (P, 4) (LOSS-DFL-1).

    The bin below is the distance rounded towards zero, so that the share is negative if the distance is.
    """
    least, most = clamp_range(reg_max, dialect)
    clamped = target.clamp(least, most)  # (P, 4)
    lower = clamped.long()  # (P, 4)
    upper_share = clamped - lower  # (P, 4)
    return clamped, lower, 1 - upper_share if dialect.dfl_shares_exchanged else upper_share


def whole_distances(
    target: Float[Tensor, "P 4"], error: Float[Tensor, "P 4"], reg_max: int, dialect: Dialect
) -> Bool[Tensor, "P 4"]:
    """Return (P, 4) bool: True where the loss jumps, because a target distance is a whole number up to `error`.

    The loss is continuous there unless shares are exchanged, and where distances are clamped.
    """
    if not dialect.dfl_shares_exchanged:
        return torch.zeros_like(target, dtype=torch.bool)
    nearest = target.round()  # (P, 4)
    least, most = clamp_range(reg_max, dialect)
    return ((target - nearest).abs() <= error) & (nearest != 0) & (nearest >= least) & (nearest <= most)


def clamp_range(reg_max: int, dialect: Dialect) -> tuple[float, float]:
    """Return the smallest and the largest target distance, in grid units (LOSS-DFL-1)."""
    last = reg_max - 1 - LAST_BIN_MARGIN
    match dialect.dfl_clamp:
        case DflClamp.BELOW_LAST_BIN:
            return 0, last
        case DflClamp.BIN_LATER:
            return 0, last + 1
        case DflClamp.NONE_BELOW:
            return -torch.inf, last
        case DflClamp.NONE:
            return -torch.inf, torch.inf
