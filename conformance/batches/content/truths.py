"""Ground truths of a recipe: the kind of every ground truth, and the pixel box of every kind.

All kinds but `off_lattice` lie on a lattice of 1/64 px. Divided by an input size of 2^i or 2^i + 2^j pixels (16, 24,
32, 40, 48, 64, 72, 80, 96 and 128, but not 56) and multiplied by it again, such a coordinate is the same number in
float32: "on an anchor's centre" and "on the border" are exact, to the last bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor
from random import Random
from typing import ClassVar, overload

from tal_conformance.batches.one_line_repr import OneLineRepr
from tal_conformance.core.names import unknown_name

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""
GOLDEN = (5**0.5 - 1) / 2
"""Golden ratio: its multiples, modulo 1, are spread evenly and lie on no lattice."""


@dataclass(frozen=True, repr=False)
class Truth(OneLineRepr):
    """One ground truth of a recipe: its kind of box, its class, and four digits for place and size.

    Larger digits move the box to the right or down, or enlarge it.

    Attributes:
        kind: a key of `KINDS`.
        label: class index; `identical` and `other_class` take the class from the previous ground truth instead.
        at: digits 0..15 for the place in x and y.
        size: digits 0..15 for width and height.
        turn: digit 0..15 for the angle; upright boxes ignore it.
    """

    unnamed: ClassVar[int] = 1

    kind: str = "ordinary"
    label: int = 0
    at: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    turn: int = 0


@dataclass(frozen=True, repr=False)
class ManyTruths(OneLineRepr, Sequence[Truth]):
    """Many ground truths of one image, of all kinds, described by their number and a seed instead of a long list.

    Attributes:
        number: number of ground truths; with the same seed, a larger number gives the same ground truths and more.
        seed: decides kinds, classes, places and sizes.
        classes: number of classes to choose from.
        kinds: kinds to choose from; empty: `COMMON_KINDS`.
        turned: True if ground truths have random angles.
    """

    unnamed: ClassVar[int] = 2

    number: int = 0
    seed: int = 0
    classes: int = 1
    kinds: tuple[str, ...] = ()
    turned: bool = False

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int) -> Truth: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Truth]: ...
    def __getitem__(self, index: int | slice) -> Truth | Sequence[Truth]:
        return self.truths[index]

    @cached_property
    def truths(self) -> tuple[Truth, ...]:
        """The ground truths, chosen by the seed."""
        random, kinds = Random(self.seed), self.kinds or COMMON_KINDS
        return tuple(
            Truth(
                random.choice(kinds),
                random.randrange(self.classes),
                _digits(random),
                _digits(random),
                random.randrange(16) if self.turned else 0,
            )
            for _ in range(self.number)
        )


def _digits(random: Random) -> tuple[int, int]:
    return random.randrange(16), random.randrange(16)


@dataclass(frozen=True)
class Canvas:
    """The area in which boxes are placed: the input's width and height, and the strides; all in pixels."""

    width: int
    height: int
    strides: tuple[int, ...]

    @property
    def stride(self) -> int:
        """Stride of the first level in pixels."""
        return self.strides[0]

    @property
    def floor(self) -> int:
        """Stride in pixels of the second level, the floor of TAL-CAND-2; with one level, twice its stride."""
        return self.strides[1] if len(self.strides) > 1 else 2 * self.stride


Kind = Callable[[Canvas, Truth, Box], Box]
"""Function that makes a box from the canvas, the ground truth's digits, and the image's previous box."""
KINDS: dict[str, Kind] = {}
"""Every kind of ground truth by name, described by the docstring of its function."""


def resolve(
    truths: Sequence[Truth],
    canvas: Canvas,
    classes: int,
    kinds: Mapping[str, Callable[..., tuple[float, ...]]] = KINDS,
) -> list[tuple[int, tuple[float, ...]]]:
    """Return the class and the pixel box of each of one image's ground truths; rotated boxes have an angle too.

    Args:
        truths: ground truths of the image.
        canvas: the area in which they are placed.
        classes: number of classes.
        kinds: the kinds of ground truths of the batch's task.

    Raises:
        ValueError: a kind or a label does not exist.
    """
    resolved: list[tuple[int, tuple[float, ...]]] = []
    for truth in truths:
        if truth.kind not in kinds:
            raise ValueError(
                unknown_name("kind of ground truth", str(truth.kind), kinds, "kinds of ground truths")
            )
        if truth.label not in range(classes):
            raise ValueError(f"{truth} has the label {truth.label}, expected 0 to {classes - 1}")
        before = resolved[-1] if resolved else (truth.label, ordinary(canvas, Truth(), (0.0, 0.0, 0.0, 0.0)))
        resolved.append((_label(truth, before[0], classes), kinds[truth.kind](canvas, truth, before[1])))
    return resolved


def kind(function: Kind) -> Kind:
    """Register a function as a kind of ground truth, under the function's name."""
    KINDS[function.__name__] = function
    return function


@kind
def ordinary(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box off the border, with sides of 1/4 to 15/16 of the input, longer than the first stride."""
    width = _side(canvas.width, canvas.stride, truth.size[0])
    height = _side(canvas.height, canvas.stride, truth.size[1])
    return _placed(canvas, truth, width, height)


@kind
def off_lattice(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box as `ordinary` does, but with edges that are not multiples of 1/64 px.

    As in real data, the division of such edges by the input's size rounds.
    """
    x, y, w, h = ((digit + 1) * GOLDEN % 1 for digit in (*truth.at, *truth.size))
    width, height = canvas.width * (0.2 + 0.7 * w), canvas.height * (0.2 + 0.7 * h)
    left, top = (canvas.width - width) * x, (canvas.height - height) * y
    return left, top, left + width, top + height


@kind
def aligned(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box whose edges lie on cell borders of the first level.

    The distances of its edges to the anchors of that level are multiples of half a stride.
    """
    left, right = _cells(canvas.width // canvas.stride, truth.at[0], truth.size[0])
    top, bottom = _cells(canvas.height // canvas.stride, truth.at[1], truth.size[1])
    return left * canvas.stride, top * canvas.stride, right * canvas.stride, bottom * canvas.stride


@kind
def tiny(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box with both sides below the first stride: TAL-CAND-2 widens it."""
    width, height = (max(0.25, _down(canvas.stride * (digit + 1) / 17)) for digit in truth.size)
    return _placed(canvas, truth, width, height)


@kind
def small(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box with sides from the first stride (8 px) to the second (16 px), both included.

    Releases differ in whether they widen such sides (TAL-CAND-2).
    """
    width, height = (_between(canvas.stride, canvas.floor, digit) for digit in truth.size)
    return _placed(canvas, truth, width, height)


@kind
def thin(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box with one side of 1 to 4 px, and the other of half to all of the input.

    The box is upright if the first digit of `size` is odd, and else lies flat.
    """
    short, share = 1 + truth.size[0] // 4, truth.size[1]
    if truth.size[0] % 2:
        return _placed(canvas, truth, short, _between(canvas.height / 2, canvas.height, share))
    return _placed(canvas, truth, _between(canvas.width / 2, canvas.width, share), short)


@kind
def huge(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box with sides from 15/16 to 18/16 of the input, so that it may reach beyond every border."""
    width, height = (
        canvas.width * (15 + truth.size[0] % 4) / 16,
        canvas.height * (15 + truth.size[1] % 4) / 16,
    )
    return _placed(canvas, truth, width, height)


@kind
def nested(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box inside the previous ground truth's box."""
    left, top, right, bottom = previous
    width, height = (right - left) * (truth.size[0] + 2) / 18, (bottom - top) * (truth.size[1] + 2) / 18
    x1 = left + (right - left - width) * (truth.at[0] + 1) / 17
    y1 = top + (bottom - top - height) * (truth.at[1] + 1) / 17
    return _lattice((x1, y1, x1 + width, y1 + height))


@kind
def overlapping(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return the previous ground truth's box, moved right and down by 1/32 to 16/32 of its sides."""
    left, top, right, bottom = previous
    x, y = (right - left) * (truth.at[0] + 1) / 32, (bottom - top) * (truth.at[1] + 1) / 32
    return _lattice((left + x, top + y, right + x, bottom + y))


@kind
def mirrored(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return the previous ground truth's box, mirrored at a column of anchors inside this box.

    A prediction that is symmetric about the column overlaps both boxes equally.
    """
    left, top, right, bottom = previous
    at = left + (right - left) * (truth.at[0] + 1) / 17
    column = (floor(at / canvas.stride) + 0.5) * canvas.stride
    return 2 * column - right, top, 2 * column - left, bottom


@kind
def identical(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return the box of the previous ground truth, for a ground truth of the same class."""
    return previous


@kind
def other_class(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return the box of the previous ground truth, for a ground truth of another class if there is any other class."""
    return previous


@kind
def touching(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box of ordinary size that touches the previous ground truth's box from the right or from below.

    It lies below if the first digit of `at` is odd.
    """
    left, top, right, bottom = ordinary(canvas, truth, previous)
    if truth.at[0] % 2:
        return previous[0], previous[3], previous[0] + right - left, previous[3] + bottom - top
    return previous[2], previous[1], previous[2] + right - left, previous[1] + bottom - top


@kind
def edge_on_centre(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return an ordinary box with one to four edges moved onto the nearest anchor centre of some level."""
    stride = canvas.strides[sum(truth.at) % len(canvas.strides)]
    chosen = sum(truth.size) % 15 + 1  # bits: left, top, right, bottom
    box = ordinary(canvas, truth, previous)
    left, top, right, bottom = (
        (floor(edge / stride) + 0.5) * stride if chosen >> bit & 1 else edge for bit, edge in enumerate(box)
    )
    return left, top, right + stride * (right <= left), bottom + stride * (bottom <= top)


@kind
def on_border(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return an ordinary box with one to four edges moved to the input's border."""
    chosen = truth.at[0] % 15 + 1  # bits: left, top, right, bottom
    border = (0.0, 0.0, float(canvas.width), float(canvas.height))
    box = ordinary(canvas, truth, previous)
    left, top, right, bottom = (border[bit] if chosen >> bit & 1 else box[bit] for bit in range(4))
    return left, top, right, bottom


@kind
def partly_outside(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return an ordinary box of which 1/17 to 16/17 lies beyond a border, which the first digit of `at` chooses."""
    left, top, right, bottom = ordinary(canvas, truth, previous)
    width, height, share = right - left, bottom - top, (truth.at[1] + 1) / 17
    match truth.at[0] % 4:
        case 0:
            left = -width * share
        case 1:
            top = -height * share
        case 2:
            left = canvas.width - width * (1 - share)
        case _:
            top = canvas.height - height * (1 - share)
    return _lattice((left, top, left + width, top + height))


@kind
def beyond_bottom_right(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box outside of the input, to the right and below; it touches the corner if both digits of `at` are 0."""
    left, top, right, bottom = ordinary(canvas, truth, previous)
    x, y = canvas.width + canvas.stride * truth.at[0] / 8, canvas.height + canvas.stride * truth.at[1] / 8
    return x, y, x + right - left, y + bottom - top


@kind
def beyond_top_left(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box centred on the top left corner (coordinates add up to 0) or further out: ANN-3 drops it."""
    left, top, right, bottom = ordinary(canvas, truth, previous)
    width, height = right - left, bottom - top
    x, y = width * (truth.at[0] + 8) / 16, height * (truth.at[1] + 8) / 16
    return _lattice((-x, -y, width - x, height - y))


@kind
def zero_area(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box with a side of 0: each side whose digit of `size` is below 8, or the width if none is below 8."""
    left, top, right, bottom = ordinary(canvas, truth, previous)
    no_width, no_height = truth.size[0] < 8 or truth.size[1] >= 8, truth.size[1] < 8
    return left, top, left if no_width else right, top if no_height else bottom


COMMON_KINDS = tuple(KINDS)
"""Kinds that any batch may have; those registered below are for batches that name them."""


@kind
def few_cells(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box with sides of 2 to 17 cells of the first level, inside the input if it fits.

    The digits 0 and 15 of `at` place it in a corner of the input.
    """
    width, height = (
        min(float((digit + 2) * canvas.stride), extent)
        for digit, extent in zip(truth.size, (canvas.width, canvas.height), strict=True)
    )
    left, top = (
        _down((extent - side) * digit / 15)
        for extent, side, digit in zip((canvas.width, canvas.height), (width, height), truth.at, strict=True)
    )
    return left, top, left + width, top + height


@kind
def edge_near_centre(canvas: Canvas, truth: Truth, previous: Box) -> Box:
    """Return a box as `edge_on_centre` does, with every edge that lies on an anchor centre moved by 2^-9 to 2^-12 px.

    The edges move outwards if the first digit of `at` is even, so that the centres lie just inside, and inwards
    otherwise. The distance is far above the rounding of a coordinate, and far below a pixel.
    """
    stride = canvas.strides[sum(truth.at) % len(canvas.strides)]
    apart = 2.0 ** -(9 + truth.at[1] % 4) * (-1 if truth.at[0] % 2 else 1)
    box = edge_on_centre(canvas, truth, previous)
    left, top, right, bottom = (edge % stride == stride / 2 for edge in box)
    return box[0] - apart * left, box[1] - apart * top, box[2] + apart * right, box[3] + apart * bottom


def _label(truth: Truth, before: int, classes: int) -> int:
    if truth.kind == "identical":
        return before
    return (before + 1) % classes if truth.kind == "other_class" else truth.label


def _placed(canvas: Canvas, truth: Truth, width: float, height: float) -> Box:
    """Return a box of the given width and height, at the place that the digits `truth.at` give.

    It lies inside the input and off its border if possible.
    """
    left = _down((canvas.width - width) * (truth.at[0] + 1) / 17)
    top = _down((canvas.height - height) * (truth.at[1] + 1) / 17)
    return left, top, left + width, top + height


def _side(extent: int, stride: int, digit: int) -> float:
    largest = extent * 15 / 16
    return _between(min(max(extent / 4, 1.25 * stride), largest), largest, digit)


def _between(low: float, high: float, digit: int) -> float:
    return _down(low + (high - low) * digit / 15)


def _cells(count: int, at: int, size: int) -> tuple[int, int]:
    """Return the first cell, and the cell after the last, of a run of cells among `count` cells.

    The digits `at` and `size` (0 to 15) determine where the run begins and how long it is.
    """
    length = 1 + count * size // 16
    first = (count - length + 1) * at // 16
    return first, first + length


def _down(value: float) -> float:
    """Return the value, rounded down to quarters of a pixel."""
    return floor(value * 4) / 4


def _lattice(box: Box) -> Box:
    """Return the box with edges rounded down to 1/64 px."""
    left, top, right, bottom = (floor(edge * 64) / 64 for edge in box)
    return left, top, right, bottom
