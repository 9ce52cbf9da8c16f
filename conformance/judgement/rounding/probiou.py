"""Enclosures of probIoU, of its gradient, and of decoded rotated boxes (OBB-*).

Near equality 1 - probIoU = sqrt(1 - exp(-B) + e): an absolute error of 1e-7 in B becomes 1e-4. The determinants of
elongated boxes cancel: that of a 50:1 box at 45 degrees is 1/600 of its two products. Enclosures cover both effects.

P pairs of boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.judgement.rounding.enclosure import Enclosure, cosine_and_sine
from tal_reference.rotated import EPS, FARTHEST


@dataclass(frozen=True)
class TurnedBox:
    """Enclosures of P rotated boxes; their angles are exact, since no operation computes them (OBB-DEC-1).

    Attributes:
        x, y, w, h: (P,) centre and sides.
        angle: (P,) angle in radians, float64.
        variance: variance added along both axes (OBB-IOU-1).
    """

    x: Enclosure
    y: Enclosure
    w: Enclosure
    h: Enclosure
    angle: Tensor
    variance: float = 0.0

    @classmethod
    def around(cls, boxes: Tensor, error: Tensor | float, eps: float, variance: float = 0.0) -> "TurnedBox":
        """Return the enclosures of boxes (P, 5), float64, whose centres and sides err by up to `error` (P, 4)."""
        x, y, w, h = columns(Enclosure.around(boxes[:, :4], error, eps))
        return cls(x, y, w, h, boxes[:, 4], variance)

    @property
    def eps(self) -> float:
        """Machine epsilon by which operations round."""
        return self.x.eps

    @cached_property
    def turn(self) -> tuple[Enclosure, Enclosure]:
        """Enclosures of cosine and sine of the box's angle."""
        return cosine_and_sine(self.angle, 0.0, self.eps)

    @cached_property
    def turn_squares(self) -> tuple[Enclosure, Enclosure]:
        """Enclosures of the squares of cosine and sine."""
        cos, sin = self.turn
        return cos.square(), sin.square()

    @cached_property
    def axes(self) -> tuple[Enclosure, Enclosure]:
        """Enclosures of the Gaussian's variances along the box's own two axes."""
        return self.w.square() / 12.0 + self.variance, self.h.square() / 12.0 + self.variance

    @cached_property
    def covariance(self) -> tuple[Enclosure, Enclosure, Enclosure]:
        """Entries xx, yy, xy of the covariance matrix of the box's Gaussian."""
        (along, across), (cos, sin) = self.axes, self.turn
        of_cos, of_sin = self.turn_squares
        xx = along * of_cos + across * of_sin
        yy = along * of_sin + across * of_cos
        return xx, yy, (along - across) * cos * sin

    @cached_property
    def determinant(self) -> Enclosure:
        """Determinant of the covariance matrix, computed from its entries; rounding may make it negative."""
        xx, yy, xy = self.covariance
        return xx * yy - xy.square()


@dataclass(frozen=True)
class Probiou:
    """Enclosures of the probIoU of P pairs of boxes, and of its gradient on the boxes `second`.

    Attributes:
        first, second: the boxes of every pair.
    """

    first: TurnedBox
    second: TurnedBox

    @cached_property
    def together(self) -> tuple[Enclosure, Enclosure, Enclosure]:
        """Entries xx, yy and xy of S, the sum of both boxes' covariance matrices."""
        a, b, c = (
            one + other for one, other in zip(self.first.covariance, self.second.covariance, strict=True)
        )
        return a, b, c

    @cached_property
    def apart(self) -> tuple[Enclosure, Enclosure]:
        """Differences of the centres in x and y: second minus first."""
        return self.second.x - self.first.x, self.second.y - self.first.y

    @cached_property
    def determinant(self) -> Enclosure:
        """D, the determinant of S, the sum of both boxes' covariance matrices."""
        a, b, c = self.together
        return a * b - c.square()

    @cached_property
    def denominator(self) -> Enclosure:
        """Denominator 4 (D + e) of the first term of the Bhattacharyya distance B (OBB-IOU-1)."""
        return (self.determinant + EPS) * 4.0

    @cached_property
    def centres(self) -> Enclosure:
        """First term of the Bhattacharyya distance B, which depends on the distance of the centres."""
        (a, b, c), (dx, dy) = self.together, self.apart
        return (b * dx.square() + a * dy.square() - c * dx * dy * 2.0) / self.denominator

    @cached_property
    def own(self) -> tuple[Enclosure, Enclosure]:
        """Determinants of the covariance matrices of both boxes' Gaussians, at least zero."""
        return self.first.determinant.clamp(low=0.0), self.second.determinant.clamp(low=0.0)

    @cached_property
    def root(self) -> Enclosure:
        """Square root of the product of the determinants of both boxes' covariance matrices."""
        one, other = self.own
        return (one * other).sqrt()

    @cached_property
    def ratio(self) -> Enclosure:
        """D / (4 root + e), whose logarithm is twice the second term of B; D is the determinant of S (OBB-IOU-1)."""
        return self.determinant / (self.root * 4.0 + EPS)

    @cached_property
    def distance(self) -> Enclosure:
        """Bhattacharyya distance B of the two boxes, before it is clamped (OBB-IOU-1)."""
        return self.centres + (self.ratio + EPS).log() * 0.5

    @cached_property
    def loss(self) -> Enclosure:
        """1 - probIoU."""
        exponent = -self.distance.clamp(EPS, FARTHEST)
        return ((-exponent.exp() + 1.0).clamp(low=0.0) + EPS).sqrt()

    @property
    def value(self) -> Enclosure:
        """probIoU."""
        return -self.loss + 1.0

    @cached_property
    def slope(self) -> Enclosure:
        """Derivative of 1 - probIoU by B: exp(-B) / (2 (1 - probIoU)); zero where B is clamped (OBB-IOU-2)."""
        exponent = -self.distance.clamp(EPS, FARTHEST)
        raw = exponent.exp() / (self.loss * 2.0)
        low, high = self.distance.low.nan_to_num(nan=-torch.inf), self.distance.high.nan_to_num(nan=torch.inf)
        never = (high < EPS) | (low > FARTHEST)
        return raw.with_zero((low <= EPS) | (high >= FARTHEST)).zeroed(never)

    @cached_property
    def of_covariance(self) -> tuple[Enclosure, Enclosure, Enclosure]:
        """Derivatives of the Bhattacharyya distance B by the entries xx, yy, xy of the second box's covariance."""
        (a, b, c), (dx, dy), first = self.together, self.apart, self.centres
        of_distance = (
            (dy.square() - first * b * 4.0) / self.denominator,
            (dx.square() - first * a * 4.0) / self.denominator,
            (first * c * 8.0 - dx * dy * 2.0) / self.denominator,
        )
        below = self.root * 4.0 + EPS
        outer = (self.ratio + EPS) * 2.0  # of the logarithm's derivative, which is 1 / (2 (ratio + e))
        clamped = self.second.determinant.low <= 0
        of_own = (-(self.ratio * 4.0) / below * self.own[0] / (self.root * 2.0)).with_zero(clamped)
        xx, yy, xy = self.second.covariance
        of_ratio = (
            b / below + of_own * yy,
            a / below + of_own * xx,
            -(c * 2.0) / below - of_own * xy * 2.0,
        )
        xx, yy, xy = (one + other / outer for one, other in zip(of_distance, of_ratio, strict=True))
        return xx, yy, xy

    @cached_property
    def gradient(self) -> tuple[Enclosure, ...]:
        """Gradient of 1 - probIoU on x, y, w, h and angle of the second boxes."""
        (a, b, c), (dx, dy) = self.together, self.apart
        of_xx, of_yy, of_xy = self.of_covariance
        (along, across), (cos, sin) = self.second.axes, self.second.turn
        of_cos, of_sin = self.second.turn_squares
        mixed = of_xy * cos * sin
        of_along = of_xx * of_cos + of_yy * of_sin + mixed
        of_across = of_xx * of_sin + of_yy * of_cos - mixed
        both = cos * sin * 2.0
        of_angle = (
            of_xx * (across * both - along * both)
            + of_yy * (along * both - across * both)
            + of_xy * (along - across) * (of_cos - of_sin)
        )
        of_distance = (
            (b * dx - c * dy) * 2.0 / self.denominator,
            (a * dy - c * dx) * 2.0 / self.denominator,
            of_along * self.second.w / 6.0,
            of_across * self.second.h / 6.0,
            of_angle,
        )
        clamped = self.slope.size == 0  # no gradient at all, whatever the distance's derivative
        return tuple((self.slope * part).zeroed(clamped) for part in of_distance)


def decoded(distances: Enclosure, angle: Tensor, centres: Tensor, variance: float = 0.0) -> TurnedBox:
    """Return enclosures of decoded boxes in grid units (OBB-DEC-2).

    Args:
        distances: (P, 4) enclosures of left, top, right, bottom.
        angle: (P,) angles.
        centres: (P, 2) anchor centres.
        variance: variance added along both axes.
    """
    left, top, right, bottom = columns(distances)
    across, down = (right - left) * 0.5, (bottom - top) * 0.5
    cos, sin = cosine_and_sine(angle, 0.0, distances.eps)
    x, y = (Enclosure.around(centres[:, at], 0.0, distances.eps) for at in range(2))
    return TurnedBox(
        across * cos - down * sin + x,
        across * sin + down * cos + y,
        left + right,
        top + bottom,
        angle,
        variance,
    )


def columns(values: Enclosure) -> list[Enclosure]:
    """Return the columns (P,) of enclosures (P, n)."""
    return [values[:, at] for at in range(values.low.shape[1])]


def from_columns(parts: Sequence[Enclosure]) -> Enclosure:
    """Return enclosures (P, n) of n columns (P,)."""
    return Enclosure(torch.stack([part.ends for part in parts], -1), parts[0].eps)


def on_distances(
    gradient: tuple[Enclosure, ...], distances: Enclosure, angle: Tensor
) -> tuple[Enclosure, Enclosure]:
    """Return the gradients on distances (P, 4) and angle (P,) that follow from that on decoded boxes (OBB-DEC-2).

    Args:
        gradient: enclosures (P,) of the gradient on x, y, w, h and angle.
        distances: (P, 4) enclosures of left, top, right, bottom.
        angle: (P,) angles.
    """
    of_x, of_y, of_w, of_h, of_angle = gradient
    left, top, right, bottom = columns(distances)
    across, down = (right - left) * 0.5, (bottom - top) * 0.5
    cos, sin = cosine_and_sine(angle, 0.0, distances.eps)
    of_across, of_down = (of_x * cos + of_y * sin) * 0.5, (of_y * cos - of_x * sin) * 0.5
    sides = of_w - of_across, of_h - of_down, of_w + of_across, of_h + of_down
    stacked = from_columns(sides)  # (P, 4)
    of_turn = of_y * (across * cos - down * sin) - of_x * (across * sin + down * cos)
    return stacked, of_angle + of_turn
