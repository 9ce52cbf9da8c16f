"""Rounding of the loss of rotated boxes and of its gradients (OBB-*).

The bounds of the terms cls and dfl are those of detection; enclosures bound the terms box and angle and their
gradients.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.bounds import UNITS, distance_unit, precision, smallest
from tal_conformance.judgement.enclosure import Enclosure, cosine_and_sine
from tal_conformance.judgement.loss_reference import (
    ZERO,
    ReferenceLoss,
    class_factors_of,
    class_gradient_roundings,
    loss_precision,
)
from tal_conformance.judgement.loss_rounding import (
    GradientRounding,
    LossRounding,
    class_gradient_unit,
    class_unit,
    distance_gradient_units,
    divisor,
    of_labels,
    share_error,
    side_unit,
    term_ranges,
)
from tal_conformance.judgement.probiou_bounds import (
    Probiou,
    TurnedBox,
    columns,
    decoded,
    from_columns,
    on_distances,
)
from tal_reference import BatchTargets, Dialect, RotatedPredictions
from tal_reference.anchors import Anchors
from tal_reference.composed import total_factor
from tal_reference.decoding import expected_distances
from tal_reference.rotated import (
    ELONGATION_SCALE,
    LOSS_VARIANCE,
    SIDE_EPS,
    box_loss,
    decode_rotated,
    distances_in_frame,
    scaled,
)


@dataclass(frozen=True)
class RotatedGradientRounding(GradientRounding):
    """Errors of the gradients of each positive's losses on its distance logits.

    `target` and `predicted` of the base class are not used.

    Attributes:
        of_sides: enclosures (P, 4) of the box loss's gradient on the four distances.
        exact: (P, 4) this gradient in float64.
    """

    of_sides: Enclosure | None = None
    exact: Tensor | None = None

    def box_range(self) -> tuple[Tensor, Tensor]:
        """Return the box loss's gradient on the four distances, and its largest difference; (P, 4) each (OBB-BOX-1)."""
        assert self.of_sides is not None
        assert self.exact is not None
        return self.exact, self.of_sides.distance_from(self.exact)


def rotated_rounding_units(  # noqa: PLR0915 (one formula for each term and field)
    batch: Batch,
    targets: BatchTargets,
    exact: ReferenceLoss,
    dialect: Dialect,
    edges: Tensor | float = 0.0,
) -> LossRounding:
    """Return the effect of rounding on a batch's loss for given targets.

    Args:
        batch: any batch of rotated boxes, without autocast.
        targets: labels, boxes and scores that the batch's anchors learn.
        exact: the loss in float64.
        dialect: the dialect to follow.
        edges: (B, A) errors of the target boxes' centres and sides in pixels; zero by default.
    """
    given = exact.predictions
    assert isinstance(given, RotatedPredictions)
    numbers, reg_max = batch.hyperparameters, batch.head.reg_max
    coarse = torch.finfo(precision(batch.dtype)).eps
    eps = torch.finfo(loss_precision(batch)).eps
    positives = targets.positives
    at = positives.image, positives.anchor  # (P,), (P,)
    own = positives.weights.double()  # (P,)
    score_sum = divisor(own, batch.images, dialect)
    strides = given.anchors.strides[positives.anchor]  # (P, 1)
    centres = given.anchors.centres[positives.anchor]  # (P, 2)
    target = scaled(positives.boxes.double(), 1 / strides)  # (P, 5) grid units
    moved = edges[at][:, None] / strides if isinstance(edges, Tensor) else edges  # (P, 1) grid units
    target_error = eps * target[:, :4].abs() + moved  # (P, 4)
    distances, angle = given.distances[at], given.angles[at][:, 0]  # (P, 4R), (P,)
    distance_error = distance_unit(distances, reg_max, coarse)  # (P, 4)

    sides = Enclosure.around(
        expected_distances(distances, reg_max), UNITS["predicted box"] * distance_error, eps
    )  # (P, 4)
    box = Probiou(
        TurnedBox.around(target, target_error, eps, LOSS_VARIANCE),
        decoded(sides, angle, centres, LOSS_VARIANCE),
    )
    turn = AngleLoss.of(angle, target, target_error, eps)
    exact_box, exact_slope = box_loss_of(given, at, target)  # (P,), (P, 5)
    wanted = distances_in_frame(target, centres)  # (P, 4)
    wanted_error = _wanted(target, target_error, centres, eps).distance_from(wanted)  # (P, 4)
    of_input = strides / strides.new_tensor(given.size).flip(0).repeat(2)  # (P, 4) shares, for the L1 form
    side = own * side_unit(distances, wanted, wanted_error, of_input, batch, dialect)  # (P,)
    factors = class_factors_of(batch, given.logits)  # (C,), or a scalar
    cls = class_unit(given.logits, positives, eps, coarse, dialect, factors)
    gains = torch.tensor((numbers.box_gain, numbers.cls_gain, numbers.dfl_gain, numbers.angle_gain)).to(own)
    scale = gains / score_sum  # (4,)
    nothing = cls.new_zeros(())
    items = torch.stack((nothing, cls, side.sum(), nothing)) * scale + 4 * eps * exact.items.abs()  # (4,)
    of_box = (own * box.loss.distance_from(exact_box)).sum()
    of_turn = (own * turn.value.distance_from(turn.exact)).sum()
    enclosed = torch.stack((of_box, nothing, nothing, of_turn)) * scale  # (4,)
    learning = given.logits[(*at, positives.labels)] * of_labels(factors, positives.labels)  # (P,)
    ranges = term_ranges(own, given.logits, learning * own, reg_max, factors)  # (T,)
    ranges = torch.cat((ranges, ranges[:1])) * scale  # (4,): an angle loss is at most the sum of the weights
    ranges = torch.maximum(ranges, exact.items.abs()).clamp(min=4 * smallest(loss_precision(batch)))

    factor = total_factor(batch.images, dialect) / score_sum
    logit_scale = numbers.cls_gain * factor * factors * coarse  # (C,), or a scalar
    sizes = class_gradient_unit(given.logits, targets, dialect)  # (B, A, C)
    of_logits = class_gradient_roundings(batch, given.logits, sizes) * logit_scale  # (B, A, C)
    of_sides, of_angle = on_distances(box.gradient, sides, angle)  # (P, 4), (P,)
    if reg_max == 1:
        wanted_error = wanted_error + share_error(distances, of_input, precision(batch.dtype))
    slope = RotatedGradientRounding(
        target, target, distances, wanted, wanted_error, strides[:, 0], reg_max, precision(batch.dtype), dialect,
        of_sides, exact_slope[:, :4],
    )  # fmt: skip
    of_weights = (own * factor)[:, None, None]  # (P, 1, 1)
    share = of_weights * (of_input[..., None] if reg_max == 1 else 1.0) * (numbers.dfl_gain / 4)  # (P, 4, 1)
    box_rounds, box_jumps, side_rounds, side_jumps = distance_gradient_units(
        slope, None, distance_error, of_weights * numbers.box_gain, share, strides
    )  # (P, 4R) each
    of_weight = own[:, None] * factor  # (P, 1)
    box_turns = of_weight * numbers.box_gain * of_angle.distance_from(exact_slope[:, 4])[:, None]  # (P, 1)
    angle_turns = of_weight * numbers.angle_gain * turn.gradient.distance_from(turn.exact_gradient)[:, None]
    tiny = torch.full_like(box_turns, 4 * smallest(precision(batch.dtype)))  # (P, 1) underflow
    last = 4 * coarse * of_weight  # products with weight, gain and 1 / N
    box_last = last * numbers.box_gain * exact_slope[:, 4:].abs() + tiny
    angle_last = last * numbers.angle_gain * turn.exact_gradient[:, None].abs() + tiny
    rounding = (
        (box_rounds, ZERO, box_last),
        (ZERO, of_logits, ZERO),
        (side_rounds, ZERO, ZERO),
        (ZERO, ZERO, angle_last),
    )
    jumps = (
        (box_jumps, ZERO, box_turns),
        (ZERO, ZERO, ZERO),
        (side_jumps, ZERO, ZERO),
        (ZERO, ZERO, angle_turns),
    )
    return LossRounding(items, rounding, jumps, enclosed, ranges)


def box_loss_of(given: RotatedPredictions, at: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the box loss (P,) of positives, and its gradient (P, 5) on the four distances and the angle, in float64.

    Args:
        given: predictions in float64.
        at: indices (P,) of image and anchor.
        target: (P, 5) target boxes in grid units.
    """
    sides = expected_distances(given.distances[at], given.distances.shape[-1] // 4)  # (P, 4)
    sides, angle = sides.detach().requires_grad_(), given.angles[at].detach().requires_grad_()
    anchors = Anchors(given.anchors.centres[at[1]], given.anchors.strides[at[1]])
    with torch.enable_grad():
        loss = box_loss(decode_rotated(sides, angle, anchors), target)  # (P,); four numbers are R = 1
        of_sides, of_angle = torch.autograd.grad(loss.sum(), (sides, angle))
    return loss.detach(), torch.cat((of_sides, of_angle), dim=1)


def _wanted(target: Tensor, target_error: Tensor, centres: Tensor, eps: float) -> Enclosure:
    """Return enclosures (P, 4) of the target distances, measured along the target box's own axes (OBB-DFL-1)."""
    box = TurnedBox.around(target, target_error, eps)
    x, y = columns(Enclosure.around(centres, 0.0, eps))
    (cos, sin), dx, dy = box.turn, box.x - x, box.y - y
    across, down = dx * cos + dy * sin, dy * cos - dx * sin
    parts = (box.w * 0.5 - across, box.h * 0.5 - down, box.w * 0.5 + across, box.h * 0.5 + down)
    return from_columns(parts)


@dataclass(frozen=True)
class AngleLoss:
    """Enclosures of the angle loss of each positive and of its gradient on the angle, (P,) each (OBB-ANG-1).

    Attributes:
        value, gradient: enclosures.
        exact, exact_gradient: the same numbers in float64.
    """

    value: Enclosure
    gradient: Enclosure
    exact: Tensor
    exact_gradient: Tensor

    @classmethod
    def of(cls, angle: Tensor, target: Tensor, target_error: Tensor, eps: float) -> "AngleLoss":
        """Return the angle loss of angles (P,) and targets (P, 5) in grid units, with errors (P, 4).

        The difference of the angles may be wrapped by pi, which rounds it once more.
        """
        box = TurnedBox.around(target, target_error, eps)
        logarithm = ((box.w + SIDE_EPS) / (box.h + SIDE_EPS)).log()
        weight = (-(logarithm / float(ELONGATION_SCALE)).square()).exp()
        off = angle - target[:, 4]  # (P,)
        off_error = (
            2 * eps * (angle.abs() + target[:, 4].abs() + off.abs() + torch.pi)
        )  # (P,) of twice the difference
        cos, sin = cosine_and_sine(2 * off, off_error, eps)
        elongation = ((target[:, 2] + SIDE_EPS) / (target[:, 3] + SIDE_EPS)).log() / ELONGATION_SCALE
        exact = (-elongation.square()).exp()
        return cls(
            weight * sin.square(),
            weight * sin * cos * 4.0,
            exact * (2 * off).sin().square(),
            exact * 2 * (4 * off).sin(),
        )
