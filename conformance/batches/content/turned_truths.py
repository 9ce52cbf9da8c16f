"""Ground truths of rotated boxes: every kind of upright box, turned, and kinds that only turned boxes have (OBB-*).

A turned box is the upright box that its kind makes, turned about its centre by the angle that `Truth.turn` chooses.
"""

from collections.abc import Callable
from math import ceil, pi

from tal_conformance.batches.content.truths import KINDS, Box, Canvas, Kind, Truth, ordinary

TurnedBox = tuple[float, float, float, float, float]
"""Edges x1, y1, x2, y2 in pixels of the box before it is turned about its centre, and the angle in radians."""
TurnedKind = Callable[[Canvas, Truth, tuple[float, ...]], TurnedBox]
"""Function that makes a turned box from the canvas, the ground truth's digits, and the image's previous box."""

ANGLES = (
    *(0.0, 0.3, pi / 4, pi / 2, 1.1, 2.2, -0.7, -pi / 4),
    *(3 * pi / 4, 1e-3, pi / 2 + 1e-3, -pi / 2, pi, 7.0, -2.5, 20 * pi + 0.7),
)
"""Angles of ground truths, in radians, by the digit `Truth.turn`: special angles, angles beside them, ordinary ones,
and some outside [-pi/4, 3 pi/4), to which the data loader maps angles."""
ALIKE = ("identical", "other_class", "overlapping", "nested", "mirrored")
"""Kinds that have the angle of the previous box, whatever the digit."""


def turned(kind: Kind) -> TurnedKind:
    """Return a function that makes the upright box of a given kind, and turns it by the ground truth's angle."""

    def make(canvas: Canvas, truth: Truth, previous: tuple[float, ...]) -> TurnedBox:
        left, top, right, bottom, *turn = previous
        before: Box = (left, top, right, bottom)
        alike = truth.kind in ALIKE and bool(turn)
        return (*kind(canvas, truth, before), turn[0] if alike else ANGLES[truth.turn])

    make.__doc__ = kind.__doc__
    return make


TURNED_KINDS: dict[str, TurnedKind] = {name: turned(kind) for name, kind in KINDS.items()}
"""Every kind of turned ground truth by name."""


def turned_kind(function: TurnedKind) -> TurnedKind:
    """Register a function as a kind of turned ground truth, under the function's name."""
    TURNED_KINDS[function.__name__] = function
    return function


def _centre(box: tuple[float, ...]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _around(centre: tuple[float, float], width: float, height: float, angle: float) -> TurnedBox:
    x, y = centre
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2, angle


@turned_kind
def two_pixels(canvas: Canvas, truth: Truth, previous: tuple[float, ...]) -> TurnedBox:
    """Return a box with one or both sides of 1.984, 2 or 2.016 px: OBB-ANN-2 drops sides below 2 px."""
    width, height = ((2 - 1 / 64, 2.0, 2 + 1 / 64, 12.0)[digit % 4] for digit in truth.size)
    return _around(_centre(ordinary(canvas, truth, (0.0, 0.0, 0.0, 0.0))), width, height, ANGLES[truth.turn])


@turned_kind
def elongated(canvas: Canvas, truth: Truth, previous: tuple[float, ...]) -> TurnedBox:
    """Return a box that is 10 to 50 times as long as it is wide; it is upright if the first digit of `size` is odd."""
    short = 2 + truth.size[1] / 8
    long = short * (10 + truth.size[0] * 40 / 15)
    width, height = (short, long) if truth.size[0] % 2 else (long, short)
    return _around(_centre(ordinary(canvas, truth, (0.0, 0.0, 0.0, 0.0))), width, height, ANGLES[truth.turn])


@turned_kind
def square(canvas: Canvas, truth: Truth, previous: tuple[float, ...]) -> TurnedBox:
    """Return a square of an ordinary box's width: its angle is ambiguous, but has full weight (OBB-ANG-1)."""
    box = ordinary(canvas, truth, (0.0, 0.0, 0.0, 0.0))
    return _around(_centre(box), box[2] - box[0], box[2] - box[0], ANGLES[truth.turn])


@turned_kind
def other_form(canvas: Canvas, truth: Truth, previous: tuple[float, ...]) -> TurnedBox:
    """Return the previous ground truth's box turned by 180 degrees, or by 90 degrees with its sides exchanged."""
    width, height, angle = previous[2] - previous[0], previous[3] - previous[1], (*previous, 0.0)[4]
    if truth.size[0] % 2:
        return _around(_centre(previous), width, height, angle + pi)
    return _around(_centre(previous), height, width, angle + pi / 2)


@turned_kind
def crossing(canvas: Canvas, truth: Truth, previous: tuple[float, ...]) -> TurnedBox:
    """Return the previous ground truth's box turned by 90 degrees: both boxes contest the anchors where they cross."""
    width, height, angle = previous[2] - previous[0], previous[3] - previous[1], (*previous, 0.0)[4]
    return _around(_centre(previous), width, height, angle + pi / 2)


@turned_kind
def turned_below_zero(canvas: Canvas, truth: Truth, previous: tuple[float, ...]) -> TurnedBox:
    """Return an ordinary box, turned back by half turns until its numbers add up to zero or less: OBB-ANN-3 drops it.

    With an odd first digit of `at`, the box is turned by one half turn less, and OBB-ANN-3 does not drop it.
    """
    box = ordinary(canvas, truth, (0.0, 0.0, 0.0, 0.0))
    width, height, angle = box[2] - box[0], box[3] - box[1], ANGLES[truth.turn]
    half_turns = ceil((sum(_centre(box)) + width + height + angle) / pi + 0.25) - truth.at[0] % 2
    return _around(_centre(box), width, height, angle - half_turns * pi)
