"""Rounding of the loss of rotated boxes and of its gradients (OBB-*).

The bounds of the terms cls and dfl are those of detection; enclosures bound the terms box and angle and their
gradients.

B images, A anchors, C classes, R bins, P positives of the whole batch.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.rounding.bounds import UNITS, smallest
from tal_conformance.judgement.rounding.detection import PositivesRounding
from tal_conformance.judgement.rounding.enclosure import Enclosure, cosine_and_sine
from tal_conformance.judgement.rounding.exact_loss import ZERO, ReferenceLoss, class_gradient_roundings
from tal_conformance.judgement.rounding.loss_rounding import (
    GradientRounding,
    LossRounding,
    class_gradient_unit,
    class_unit,
    distance_gradient_units,
    share_error,
    side_unit,
    term_ranges,
)
from tal_conformance.judgement.rounding.probiou import (
    Probiou,
    TurnedBox,
    columns,
    decoded,
    from_columns,
    on_distances,
)
from tal_reference import BatchTargets, Dialect, RotatedPredictions
from tal_reference.anchors import Anchors
from tal_reference.decoding import expected_distances
from tal_reference.rotated import (
    ELONGATION_SCALE,
    SIDE_EPS,
    box_loss,
    decode_rotated,
    distances_in_frame,
    scaled,
    upright,
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


def rotated_rounding_units(
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
    return RotatedRounding(batch, targets, exact, dialect, edges).units()


@dataclass(frozen=True)
class RotatedRounding(PositivesRounding):
    """The effect of rounding on the loss of rotated boxes and on its gradients, step by step."""

    def units(self) -> LossRounding:
        """Return the effect on the loss terms and on the gradients of each term."""
        (box_rounds, side_rounds), (box_jumps, side_jumps) = self.on_distances()  # (P, 4R) each
        (box_turns, angle_turns), (box_last, angle_last) = self.on_angles()  # (P, 1) each
        rounding = (
            (box_rounds, ZERO, box_last),
            (ZERO, self.on_logits(), ZERO),
            (side_rounds, ZERO, ZERO),
            (ZERO, ZERO, angle_last),
        )
        jumps = (
            (box_jumps, ZERO, box_turns),
            (ZERO, ZERO, ZERO),
            (side_jumps, ZERO, ZERO),
            (ZERO, ZERO, angle_turns),
        )
        scale = self.gains / self.score_sum  # (4,)
        learnt = self.learning * self.scores  # (P,)
        untrained = term_ranges(self.scores, self.logits, learnt, self.reg_max, self.factors)  # (3,)
        # an angle loss is at most the sum of the weights
        ranges = self.ranges(torch.cat((untrained, untrained[:1])), scale)  # (4,)
        return LossRounding(self.items(), rounding, jumps, self.enclosed(), ranges)

    @cached_property
    def gains(self) -> Tensor:
        """(4,) gains of box, cls, dfl and angle."""
        numbers = self.batch.hyperparameters
        angle_gain = numbers.angle_gain if self.dialect.angle_term else 0.0
        gains = numbers.box_gain, numbers.cls_gain, numbers.dfl_gain, angle_gain
        return torch.tensor(gains).to(self.scores)

    @cached_property
    def target(self) -> Tensor:
        """(P, 5) target boxes."""
        return scaled(self.targets.positives.boxes.double(), 1 / self.strides)

    @cached_property
    def target_error(self) -> Tensor:
        """(P, 4) errors of the target boxes' centres and sides."""
        return self.eps * self.target[:, :4].abs() + self.moved

    @cached_property
    def angle(self) -> Tensor:
        """(P,) predicted angles."""
        given = self.exact.predictions
        assert isinstance(given, RotatedPredictions)
        return given.angles[self.at][:, 0]

    @cached_property
    def sides(self) -> Enclosure:
        """Enclosures (P, 4) of the predicted distances."""
        expected = expected_distances(self.distances, self.reg_max)  # (P, 4)
        return Enclosure.around(expected, UNITS["predicted box"] * self.distance_error, self.eps)

    @cached_property
    def box(self) -> Probiou:
        """Enclosures of the box loss and of its gradient."""
        return Probiou(
            TurnedBox.around(self.target, self.target_error, self.eps, self.dialect.box_variance),
            decoded(self.sides, self.angle, self.centres, self.dialect.box_variance),
        )

    @cached_property
    def exact_box(self) -> tuple[Tensor, Tensor]:
        """The box loss (P,) and its gradient (P, 5) in float64."""
        given = self.exact.predictions
        assert isinstance(given, RotatedPredictions)
        return box_loss_of(given, self.at, self.target, self.dialect.box_variance)

    @cached_property
    def turn(self) -> "AngleLoss":
        """Enclosures of the angle loss and of its gradient."""
        return AngleLoss.of(self.angle, self.target, self.target_error, self.eps)

    @cached_property
    def framed(self) -> Tensor:
        """(P, 5) target boxes in whose frame distances are measured: upright ones before 8.4.0 (OBB-DFL-1)."""
        return self.target if self.dialect.turned_distances else upright(self.target)

    @cached_property
    def wanted(self) -> Tensor:
        """(P, 4) target distances in the frame of the target box."""
        return distances_in_frame(self.framed, self.centres)

    @cached_property
    def wanted_error(self) -> Tensor:
        """(P, 4) errors of the target distances."""
        enclosed = _wanted(self.framed, self.target_error, self.centres, self.eps)
        return enclosed.distance_from(self.wanted)

    def items(self) -> Tensor:
        """Return the effect of roundings on cls and dfl, and on the last steps of all terms (4,)."""
        cls = class_unit(
            self.logits, self.targets.positives, self.eps, self.coarse, self.dialect, self.factors
        )
        of_side = side_unit(
            self.distances, self.wanted, self.wanted_error, self.of_input, self.batch, self.dialect
        )  # (P,)
        nothing = cls.new_zeros(())
        terms = torch.stack((nothing, cls, (self.scores * of_side).sum(), nothing))  # (4,)
        return terms * self.gains / self.score_sum + 4 * self.eps * self.exact.items.abs()

    def enclosed(self) -> Tensor:
        """Return the largest differences of box and angle, which enclosures bound; zero for cls and dfl (4,)."""
        of_box = (self.scores * self.box.loss.distance_from(self.exact_box[0])).sum()
        of_turn = (self.scores * self.turn.value.distance_from(self.turn.exact)).sum()
        nothing = torch.zeros_like(of_box)
        return torch.stack((of_box, nothing, nothing, of_turn)) * self.gains / self.score_sum

    def on_logits(self) -> Tensor:
        """Return the effect on the gradients of cls (B, A, C)."""
        scale = self.batch.hyperparameters.cls_gain * self.share * self.factors * self.coarse
        sizes = class_gradient_unit(self.logits, self.targets, self.dialect)  # (B, A, C)
        return class_gradient_roundings(self.batch, self.logits, sizes) * scale

    @cached_property
    def slopes(self) -> tuple[Enclosure, Enclosure]:
        """Enclosures of the box loss's gradient on the four distances (P, 4) and on the angle (P,)."""
        return on_distances(self.box.gradient, self.sides, self.angle)

    def on_distances(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return roundings of box and dfl on the distance logits, and jumps of both, (P, 4R) each."""
        wanted_error, numbers = self.wanted_error, self.batch.hyperparameters
        if self.reg_max == 1:
            wanted_error = wanted_error + share_error(self.distances, self.of_input, self.dtype)
        slope = RotatedGradientRounding(
            self.target, self.target, self.distances, self.wanted, wanted_error, self.strides[:, 0], self.reg_max,
            self.dtype, self.dialect, self.slopes[0], self.exact_box[1][:, :4],
        )  # fmt: skip
        of_weights = (self.scores * self.share)[:, None, None]  # (P, 1, 1)
        shares = self.of_input[..., None] if self.reg_max == 1 else 1.0  # (P, 4, 1)
        of_sides = of_weights * shares * (numbers.dfl_gain / 4)
        box_rounds, box_jumps, side_rounds, side_jumps = distance_gradient_units(
            slope, None, self.distance_error, of_weights * numbers.box_gain, of_sides, self.strides
        )  # (P, 4R) each
        box_rounds, box_jumps = map(unbounded_if_undefined, (box_rounds, box_jumps))
        return (box_rounds, side_rounds), (box_jumps, side_jumps)

    def on_angles(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return differences of box and angle on the angle that enclosures bound, and last roundings, (P, 1) each."""
        slope, turn, gains = self.exact_box[1][:, 4:], self.turn, self.gains  # (P, 1), -, (4,)
        of_weight = (self.scores * self.share)[:, None]  # (P, 1)
        box_turns = of_weight * gains[0] * self.slopes[1].distance_from(slope[:, 0])[:, None]
        moved = turn.gradient.distance_from(turn.exact_gradient)[:, None]  # (P, 1)
        tiny = 4 * smallest(self.dtype)  # underflow
        last = 4 * self.coarse * of_weight  # products with weight, gain and 1 / N
        box_last = last * gains[0] * slope.abs() + tiny
        angle_last = last * gains[3] * turn.exact_gradient[:, None].abs() + tiny
        return (unbounded_if_undefined(box_turns), of_weight * gains[3] * moved), (box_last, angle_last)


def unbounded_if_undefined(bounds: Tensor) -> Tensor:
    """Return bounds, infinite where they are 0 times infinity.

    Without the variance of OBB-BOX-1 (before 8.4.84), the gradient of a predicted box without area has no bound:
    rounding decides if its determinant is positive, where the root's slope is steepest, or clamped, where it is 0.
    """
    return bounds.nan_to_num(nan=torch.inf, posinf=torch.inf)


def box_loss_of(
    given: RotatedPredictions, at: tuple[Tensor, ...], target: Tensor, variance: float
) -> tuple[Tensor, Tensor]:
    """Return the box loss (P,) of positives, and its gradient (P, 5) on the four distances and the angle, in float64.

    Args:
        given: predictions in float64.
        at: indices (P,) of image and anchor.
        target: (P, 5) target boxes in grid units.
        variance: variance that the loss adds to both boxes.
    """
    sides = expected_distances(given.distances[at], given.distances.shape[-1] // 4)  # (P, 4)
    sides, angle = sides.detach().requires_grad_(), given.angles[at].detach().requires_grad_()
    anchors = Anchors(given.anchors.centres[at[1]], given.anchors.strides[at[1]])
    with torch.enable_grad():
        predicted = decode_rotated(sides, angle, anchors)  # (P, 5); four numbers are R = 1
        loss = box_loss(predicted, target, variance)  # (P,)
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
