"""The parts of a picture, ready for a template to write. All coordinates are pixels of the input image."""

from dataclasses import dataclass
from typing import NamedTuple

Box = tuple[float, float, float, float]
"""A box as x1, y1, x2, y2; in drawn shapes as x, y, width, height."""

PALETTE = 8
"""Number of colours of ground truths; the ninth ground truth has the first colour again."""
FRAME, MARK, RING, TRUTH = 3000, 340, 160, 340
"""Approximate numbers of characters of HTML: around a drawing, of a positive, of a ring and of a ground truth."""
SPOT = 250
"""Approximate number of characters of HTML around the text about an anchor."""
MAX_MARKS, MAX_TRUTHS = 500, 300
"""Maximum numbers of positives and of ground truths in a drawing."""
MIN_MARKS, MIN_TRUTHS = 6, 4
"""Numbers of positives and of ground truths that are drawn even if the size limit is smaller."""
UNLIMITED = 500_000
"""Number of characters of HTML from which on only `MAX_MARKS` and `MAX_TRUTHS` leave anything out."""

KINDS = {
    "missing": ("−", "{sides.first_alone}"),
    "extra": ("+", "{sides.second_alone}"),
    "owner": ("≠", "with another ground truth"),
    "weight": ("w", "with another weight"),
    "same": ("", "the same in both"),
}
"""Glyph and meaning of each kind of difference, for anchors that are positive on either side; the gravest first."""


class Sides(NamedTuple):
    """Names of the two compared assignments of a picture, its sides.

    Attributes:
        first, second: names of the two sides, in one word each.
        first_alone, second_alone: descriptions of an anchor that is positive only on the first (second) side.
        who: name of the second side at the beginning of a sentence; "" if only the first side is drawn.
    """

    first: str = "reference"
    second: str = "implementation"
    first_alone: str = "only in the reference"
    second_alone: str = "only in the implementation"
    who: str = "The implementation"


SIDES = Sides()
"""Names of the sides in the pictures of a report."""


@dataclass(frozen=True)
class SizeBudget:
    """Size limits of one picture, so that a page with hundreds of large pictures stays small.

    Attributes:
        marks, truths: maximum numbers of positives and ground truths to draw, the most important first.
        text: maximum number of characters of HTML for explanations of anchors.
    """

    marks: int
    truths: int
    text: int

    @classmethod
    def of(cls, characters: int) -> "SizeBudget":
        """Return the limits for a picture of about this many characters of HTML."""
        characters = max(characters - FRAME, 0)
        marks, truths = characters // 3 // MARK, characters // 6 // TRUTH
        return cls(
            min(max(marks, MIN_MARKS), MAX_MARKS),
            min(max(truths, MIN_TRUTHS), MAX_TRUTHS),
            characters // 2,
        )


@dataclass(frozen=True)
class Dots:
    """All anchors of one level: a dot in the middle of every cell of a grid with the given width and height."""

    stride: float
    width: float
    height: float
    radius: float


def rotation(box: Box, turn: float) -> str:
    """Return the value of an SVG attribute `transform` that turns a box (x, y, width, height) about its centre."""
    x, y, width, height = box
    return f"rotate({turn:.6g} {x + width / 2:.6g} {y + height / 2:.6g})" if turn else ""


@dataclass(frozen=True)
class Outline:
    """A ground truth as it is drawn.

    Attributes:
        box: box of the ground truth: x, y, width and height.
        name: label; "" for a less important ground truth, which is drawn behind the others.
        tag: rectangle of the label: x, y, width and height.
        colour: index into the palette.
        real: False if the ground truth is dropped (ANN-3).
        title: text on hover.
        turn: angle in degrees by which the box is drawn turned about its centre, clockwise.
    """

    box: Box
    name: str
    tag: Box
    colour: int
    real: bool
    title: str
    turn: float = 0.0

    @property
    def transform(self) -> str:
        """The SVG attribute that turns the box; "" for an upright box."""
        return rotation(self.box, self.turn)


@dataclass(frozen=True)
class Mark:
    """An anchor that is positive in either of the two assignments: a disc, coloured and labelled by every view.

    Attributes:
        x, y, radius: position and size.
        kind: one of `KINDS`; "" if the implementation's assignment is not visible.
        glyph: label in the difference view.
        reference, implementation: index of the anchor's ground truth on each side; None for background.
        title: text on hover.
        number: index of the anchor.
    """

    x: float
    y: float
    radius: float
    kind: str
    glyph: str
    reference: int | None
    implementation: int | None
    title: str
    number: int


@dataclass(frozen=True)
class Spot:
    """An anchor whose values appear when the mouse points at it.

    Attributes:
        number: index of the anchor.
        x, y, radius: position and size.
        box: the predicted box: x, y, width and height; None if it cannot be drawn.
        title: the values of the anchor in a few words.
        lines: sentences with the reasons for the assignment of the anchor.
        turn: angle in degrees by which the predicted box is drawn turned about its centre, clockwise.
    """

    number: int
    x: float
    y: float
    radius: float
    box: Box | None
    title: str
    lines: list[str]
    turn: float = 0.0

    @property
    def transform(self) -> str:
        """The SVG attribute that turns the predicted box; "" for an upright box."""
        return "" if self.box is None else rotation(self.box, self.turn)

    @property
    def characters(self) -> int:
        """Approximate number of characters of the HTML that draws this object."""
        return SPOT + len(self.title) + sum(len(line) + 7 for line in self.lines)


@dataclass(frozen=True)
class View:
    """One of the views of a picture (reference, implementation, difference), with its caption."""

    key: str
    name: str
    caption: str


@dataclass(frozen=True)
class Drawing:
    """A picture in the form that the template needs.

    Attributes:
        box: x, y, width and height of the visible part.
        size: width and height of the whole image.
        display_size: width and height on the page, in CSS pixels.
        unit: pixels of the image per CSS pixel.
        levels, truths, marks, rings, spots: the shapes, in the order in which they are drawn.
        views: ways to colour and label the marks; the page initially shows the first view.
        legend: key, glyph, meaning and count of each kind of difference that occurs.
        title: a sentence that describes the picture.
        notes: sentences about parts that are not drawn.
    """

    box: Box
    size: tuple[float, float]
    display_size: tuple[int, int]
    unit: float
    levels: list[Dots]
    truths: list[Outline]
    marks: list[Mark]
    rings: list[Mark]
    spots: list[Spot]
    views: list[View]
    legend: list[tuple[str, str, str, int]]
    title: str
    notes: list[str]

    @property
    def characters(self) -> int:
        """Approximate number of characters of the HTML that draws this object."""
        shapes = MARK * len(self.marks) + RING * len(self.rings) + TRUTH * len(self.truths)
        return FRAME + shapes + sum(spot.characters for spot in self.spots)
