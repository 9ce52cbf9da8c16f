"""The picture of an image's assignment: from a log's `Picture` to shapes, for a template to write.

Three views over the same ground truths and anchors: what the reference assigns, what the implementation does,
and what differs. All coordinates are pixels of the input image.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tal_reports.html.explanations import Anchor, anchor_lines, place, short_line
from tal_reports.text import capital, counted, listed, real, short

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
Assigned = Sequence[Any] | None
"""Ground truth and weight; None: background."""

PALETTE = 8
"""Colours that ground truths are told apart by; the ninth has the first one's again."""
MOST_MARKS, MOST_TRUTHS = 500, 300
"""Positives and ground truths that are drawn."""
LEAST_MARKS, LEAST_TRUTHS = 6, 4
"""So many of them are drawn however little room there is."""
FRAME, MARK, RING, TRUTH = 3000, 340, 160, 340
"""Characters of markup around a drawing, of a positive, of a ring and of a ground truth."""
PLENTY = 500_000
"""Characters of markup that leave out nothing that these numbers do not."""
CROP = 4.0
"""An image too large to show every cell well, and this many times what matters, is cropped to that."""
SMALLEST, LARGEST = 220, 540
"""Width of a picture on the page, in CSS pixels, where the page has room for it."""
CELL = 36
"""CSS pixels for one cell of the finest level, between those two."""
DISC, LEAST_DISC, DOT = 15, 5, 3.2
"""Largest radius of a positive, least one of a difference, diameter of the finest anchors: CSS pixels."""
MARKUP = 250
"""Characters of markup around what is written about an anchor."""
FARTHEST = 1e6
"""Pixels beyond which a predicted box is not drawn."""
MOST_NAMES = 12
"""Where there are more ground truths, only those are named that own or hold an anchor that matters."""

KINDS = {
    "missing": ("−", "{sides.first_alone}"),
    "extra": ("+", "{sides.second_alone}"),
    "owner": ("≠", "with another ground truth"),
    "weight": ("w", "with another weight"),
    "same": ("", "the same in both"),
}
"""What the difference view says of an anchor that is positive on either side; the gravest first."""


class Sides(NamedTuple):
    """How the two sides of a picture are called.

    Attributes:
        first, second: in a word.
        first_alone, second_alone: where an anchor is positive on that side only.
        who: the second one, as a sentence begins; "" where there is none, and the first alone is drawn.
    """

    first: str = "reference"
    second: str = "implementation"
    first_alone: str = "in the reference alone"
    second_alone: str = "in the implementation alone"
    who: str = "The implementation"


SIDES = Sides()
"""What pictures of the report compare."""


@dataclass(frozen=True)
class SizeBudget:
    """How much of a picture there is room for: a page with hundreds of large pictures must stay small.

    Attributes:
        marks, truths: positives and ground truths, the most important ones first.
        letters: how much is written about anchors.
    """

    marks: int
    truths: int
    letters: int

    @classmethod
    def of(cls, letters: int) -> "SizeBudget":
        """The room in so many characters of markup."""
        letters = max(letters - FRAME, 0)
        marks, truths = letters // 3 // MARK, letters // 6 // TRUTH
        return cls(
            min(max(marks, LEAST_MARKS), MOST_MARKS),
            min(max(truths, LEAST_TRUTHS), MOST_TRUTHS),
            letters // 2,
        )


@dataclass(frozen=True)
class Dots:
    """All anchors of one level: a dot in the middle of every cell of a grid of this width and height."""

    stride: float
    width: float
    height: float
    radius: float


@dataclass(frozen=True)
class Outline:
    """One ground truth: x, y, width and height, its name and where that stands, its colour, and what it is.

    Without a name it stands back behind those that matter.
    """

    box: Box
    name: str
    tag: Box
    colour: int
    real: bool
    title: str


@dataclass(frozen=True)
class Mark:
    """One positive of either side: a disc that each view colours and labels in its own way.

    Attributes:
        x, y, radius: where.
        kind: one of `KINDS`; empty where the implementation shows no assignment.
        glyph: label in the difference view.
        reference, implementation: ground truth by either side; None where it is background.
        title: all of it in words.
        number: of the anchor.
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
    """An anchor of which the picture has numbers: a place to point at.

    Attributes:
        number: of the anchor.
        x, y, radius: where.
        box: the predicted box: x, y, width and height; None where it is none that can be drawn.
        title: its numbers in a few words.
        lines: why it has its ground truth or none.
    """

    number: int
    x: float
    y: float
    radius: float
    box: Box | None
    title: str
    lines: list[str]

    @property
    def characters(self) -> int:
        """Characters of markup that it is, about."""
        return MARKUP + len(self.title) + sum(len(line) + 7 for line in self.lines)


@dataclass(frozen=True)
class View:
    """One of the views, and in words what it shows."""

    key: str
    name: str
    says: str


@dataclass(frozen=True)
class Drawing:
    """Everything of a picture, ready to be written.

    Attributes:
        box: x, y, width and height of what is drawn.
        size: width and height of the whole image.
        shown: width and height on the page, in CSS pixels.
        unit: pixels of the image per CSS pixel.
        levels, truths, marks, rings, spots: what is drawn, from the bottom to the top.
        views: how marks can be looked at, the one that is shown at first first.
        legend: for each kind of difference that occurs: its key, glyph and meaning, and how often.
        title: the picture in a sentence.
        notes: sentences about what is not drawn.
    """

    box: Box
    size: tuple[float, float]
    shown: tuple[int, int]
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
        """Characters of markup that it is, about."""
        shapes = MARK * len(self.marks) + RING * len(self.rings) + TRUTH * len(self.truths)
        return FRAME + shapes + sum(spot.characters for spot in self.spots)


def draw(picture: dict[str, Any], letters: int = PLENTY, sides: Sides = SIDES) -> Drawing:
    """The drawing of a picture that follows `log.schema.json`, without anchors that do not exist.

    Args:
        picture: of the log.
        letters: how much markup it may be, about; what matters most is kept.
        sides: how its reference and its implementation are called.
    """
    room = SizeBudget.of(letters)
    marks = _marks(picture, sides)
    rings = _rings(picture)
    matter = [mark for mark in marks if mark.kind not in ("same", "")] + rings
    concerned = _concerned(picture, matter)
    frame, cropped = _frame(picture, matter, concerned)
    box = (frame[0], frame[1], frame[2] - frame[0], frame[3] - frame[1])
    shown = _shown(picture, *box[2:])
    unit = box[2] / shown[0]
    named = set(range(len(picture["truths"]))) if len(picture["truths"]) <= MOST_NAMES else concerned
    kinds = Counter(mark.kind for mark in marks)
    return Drawing(
        box=box,
        size=(picture["width"], picture["height"]),
        shown=shown,
        unit=unit,
        levels=[_dots(level, number, unit) for number, level in enumerate(picture["levels"])],
        truths=_outlines(picture, frame, unit, named, _first(picture, named, room.truths)),
        marks=[_fitted(mark, unit) for mark in marks[-room.marks :]],
        rings=[_fitted(ring, 1.4 * unit) for ring in rings[: room.marks]],
        spots=_spots(picture, marks, unit, room.letters, sides),
        views=_views(picture, kinds, sides),
        legend=[
            (kind, glyph, meaning.format(sides=sides), kinds[kind])
            for kind, (glyph, meaning) in KINDS.items()
            if kinds[kind]
        ],
        title=_title(picture),
        notes=_notes(picture, frame if cropped else None, len(marks), room, sides),
    )


def _fitted(mark: Mark, unit: float) -> Mark:
    least = 0 if mark.kind == "same" else LEAST_DISC * unit
    return replace(mark, radius=max(min(mark.radius, DISC * unit), least))


def _marks(picture: dict[str, Any], sides: Sides) -> list[Mark]:
    """A mark for every positive of either side, the gravest kind last so that it is drawn on top."""
    alone = picture["implementation"] is None
    reference = {anchor: rest for anchor, *rest in picture["reference"]}
    implementation = {anchor: rest for anchor, *rest in picture["implementation"] or ()}
    focus = set(picture.get("focus") or ())
    marks = []
    for number in sorted(reference.keys() | implementation.keys()):
        anchor = place(picture, number)
        if anchor is not None:
            ours, theirs = reference.get(number), implementation.get(number)
            kind = "" if alone else _kind(ours, theirs, number in focus)
            both = f"{sides.first} {_told(ours)}, {sides.second} {_told(theirs)}"
            told = _told(ours) if alone else both
            told = f"both {_told(ours)}" if kind == "same" else told
            glyph = KINDS[kind][0] if kind else ""
            owners = (ours and ours[0], theirs and theirs[0])
            title = f"{_name(picture, number, anchor)}: {told}"
            marks.append(Mark(anchor.x, anchor.y, 0.3 * anchor.stride, kind, glyph, *owners, title, number))
    grave = list(KINDS)
    return marks if alone else sorted(marks, key=lambda mark: -grave.index(mark.kind))


def _kind(ours: Assigned, theirs: Assigned, differs: bool) -> str:
    """Weights are the same as far as rounding may part them, but where they are what was found to differ."""
    if ours is None or theirs is None:
        return "missing" if theirs is None else "extra"
    if ours[0] != theirs[0]:
        return "owner"
    same = ours[1] == theirs[1] if differs else short(ours[1], 4) == short(theirs[1], 4)
    return "same" if same else "weight"


def _told(assigned: Assigned) -> str:
    return "background" if assigned is None else f"GT {assigned[0]} weight {short(assigned[1], 6)}"


def _rings(picture: dict[str, Any]) -> list[Mark]:
    rings = []
    for number in (picture.get("focus") or [])[:MOST_MARKS]:
        anchor = place(picture, number)
        if anchor is not None:
            title = f"{_name(picture, number, anchor)}: the values differ"
            rings.append(
                Mark(anchor.x, anchor.y, 0.42 * anchor.stride, "focus", "", None, None, title, number)
            )
    return rings


def _spots(
    picture: dict[str, Any], marks: Sequence[Mark], unit: float, letters: int, sides: Sides
) -> list[Spot]:
    """The anchors that can be told of, as many as `letters` have room for; those that matter most are kept."""
    titles = {mark.number: mark.title for mark in marks}
    gravest = {mark.number: rank for rank, mark in enumerate(reversed(marks))}
    focus = set(picture.get("focus") or ())
    numbers = [int(key) for key in picture.get("anchors") or {}]
    kept: list[Spot] = []
    for number in sorted(numbers, key=lambda one: (one not in focus, gravest.get(one, len(gravest)), one)):
        anchor = place(picture, number)
        if anchor is None:
            continue
        title = titles.get(number) or f"{_name(picture, number, anchor)}: background"
        title = f"{title}. {short_line(picture, number)}"
        lines = anchor_lines(picture, number, sides.who)
        radius = max(0.42 * anchor.stride, LEAST_DISC * unit)
        spot = Spot(number, anchor.x, anchor.y, radius, _predicted(picture, number), title, lines)
        letters -= spot.characters
        if letters < 0 and kept:  # the most important one is always told of
            break
        kept.append(spot)
    return sorted(kept, key=lambda spot: (spot.y, spot.x))


def _predicted(picture: dict[str, Any], number: int) -> Box | None:
    corners = [real(edge) for edge in picture["anchors"][str(number)]["box"]]
    if any(edge is None or not -FARTHEST < edge < FARTHEST for edge in corners):
        return None
    x1, y1, x2, y2 = (edge for edge in corners if edge is not None)
    return (min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1))


def _name(picture: dict[str, Any], number: int, anchor: Anchor) -> str:
    told = picture.get("titles", {}).get(str(number))
    cell = f"anchor {number} (stride {anchor.stride:g}, column {anchor.column}, row {anchor.row})"
    return f"{cell}, {told}" if told else cell


def _concerned(picture: dict[str, Any], matter: Sequence[Mark]) -> set[int]:
    """The ground truths that own or hold an anchor that matters."""
    owners = {
        owner for mark in matter for owner in (mark.reference, mark.implementation) if owner is not None
    }
    holders = {
        number
        for number, truth in enumerate(picture["truths"][:MOST_TRUTHS])
        for mark in matter
        if truth["box"][0] < mark.x < truth["box"][2] and truth["box"][1] < mark.y < truth["box"][3]
    }
    return {number for number in owners | holders if number < len(picture["truths"])}


def _frame(picture: dict[str, Any], matter: Sequence[Mark], concerned: set[int]) -> tuple[Box, bool]:
    """What of the image, and of what is outside it, is drawn; and whether that leaves some of the image out.

    Args:
        picture: the picture.
        matter: marks that must be seen; if there are none, all ground truths must be.
        concerned: ground truths that must be seen with them.
    """
    image: Box = (0.0, 0.0, float(picture["width"]), float(picture["height"]))
    truths = [_near(truth["box"], image) for truth in picture["truths"]]
    boxes = [truths[number] for number in concerned] if matter else truths
    hot = _around([*boxes, *map(_surroundings, matter)])
    too_large = max(image[2:]) * CELL > LARGEST * min(
        (level["stride"] for level in picture["levels"]), default=1
    )
    if hot is not None and too_large and _area(image) > CROP * _area(hot):
        return _widened(hot), True
    return _widened(_around([image, *truths]) or image), False


def _widened(box: Box) -> Box:
    """With room around, for edges and names."""
    margin = 0.03 * max(box[2] - box[0], box[3] - box[1])
    return box[0] - margin, box[1] - 2 * margin, box[2] + margin, box[3] + margin


def _surroundings(mark: Mark) -> Box:
    """A mark's cell, and a cell more on each side."""
    reach = 1.5 * mark.radius / 0.3
    return mark.x - reach, mark.y - reach, mark.x + reach, mark.y + reach


def _near(box: Sequence[float], image: Box) -> Box:
    """The part of a box that lies in the image or less than half of its sides beyond its border."""
    x, y = image[2] / 2, image[3] / 2
    left, right = (min(max(edge, -x), image[2] + x) for edge in (box[0], box[2]))
    top, bottom = (min(max(edge, -y), image[3] + y) for edge in (box[1], box[3]))
    return left, top, right, bottom


def _around(boxes: Sequence[Box]) -> Box | None:
    """The smallest box around all of them."""
    if not boxes:
        return None
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shown(picture: dict[str, Any], width: float, height: float) -> tuple[int, int]:
    """Width and height on the page: small grids are drawn small, large ones as large as there is room for."""
    finest = min((level["stride"] for level in picture["levels"]), default=max(width, height))
    across = min(max(width / finest * CELL, SMALLEST), LARGEST)
    scale = min(across / width, LARGEST / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _dots(level: dict[str, Any], number: int, unit: float) -> Dots:
    """A dot for every anchor of a level; the coarser the level, the larger its dots."""
    stride = level["stride"]
    radius = min((1 + 0.5 * number) * DOT * unit, 0.22 * stride) / 2
    return Dots(stride, level["columns"] * stride, level["rows"] * stride, radius)


def _first(picture: dict[str, Any], named: set[int], most: int) -> set[int]:
    """The ground truths that are drawn: those with names, and as many others as there is room for."""
    return set(sorted(range(len(picture["truths"])), key=lambda number: (number not in named, number))[:most])


def _outlines(
    picture: dict[str, Any], frame: Box, unit: float, named: set[int], drawn: set[int]
) -> list[Outline]:
    """Ground truths, the largest first so that those inside stay in sight; names do not cover each other."""
    taken: list[Box] = []
    outlines = []
    for number in sorted(drawn):
        truth = picture["truths"][number]
        x1, y1, x2, y2 = truth["box"]
        if x2 < frame[0] or y2 < frame[1] or x1 > frame[2] or y1 > frame[3]:
            continue
        is_real, label = truth.get("real", True), truth.get("label")
        name = f"GT {number}" if is_real else f"GT {number} dropped"
        tag = _free(
            (max(x1, frame[0]), max(y1 - 15 * unit, frame[1]), (7 * len(name) + 6) * unit, 15 * unit), taken
        )
        where = f"({x1:.6g}, {y1:.6g})-({x2:.6g}, {y2:.6g})"
        kind = "" if label is None else f", class {label}"
        title = f"GT {number}{kind}: {where}{'' if is_real else ' (ANN-3)'}"
        box = (x1, y1, max(x2 - x1, 0), max(y2 - y1, 0))
        if number in named:
            taken.append(tag)
        outlines.append(Outline(box, name if number in named else "", tag, number % PALETTE, is_real, title))
    return sorted(outlines, key=lambda outline: -outline.box[2] * outline.box[3])


def _free(tag: Box, taken: Sequence[Box]) -> Box:
    """The place of a name (x, y, width, height), moved to the right of those that are there."""
    x, y, width, height = tag
    for other in sorted(taken):
        if abs(other[1] - y) < height and other[0] < x + width and x < other[0] + other[2]:
            x = other[0] + other[2]
    return x, y, width, height


def _views(picture: dict[str, Any], kinds: Counter[str], sides: Sides) -> list[View]:
    reference, implementation = picture["reference"], picture["implementation"]
    ours = View("reference", capital(sides.first), _says(reference))
    if implementation is None:
        return [ours]
    same = set(kinds) <= {"same"}
    says = (
        "Both assign the same anchors, with the same weights." if same else "Where the two assign otherwise:"
    )
    theirs = View("implementation", capital(sides.second), _says(implementation))
    return [View("difference", "Difference", says), ours, theirs]


def _says(positives: Sequence[Any]) -> str:
    if not positives:
        return "No positive: all anchors are background."
    return f"{counted(len(positives), 'positive')}, each with the number of its ground truth."


def _title(picture: dict[str, Any]) -> str:
    grids = listed(
        [f"{level['columns']}×{level['rows']} at stride {level['stride']:g}" for level in picture["levels"]]
    )
    truths = counted(len(picture["truths"]), "ground truth")
    size = f"{picture['width']:g}×{picture['height']:g} px"
    return f"Image {picture.get('image', 0)}, {size}, {truths}, anchors {grids}"


def _notes(
    picture: dict[str, Any], frame: Box | None, marks: int, room: SizeBudget, sides: Sides
) -> list[str]:
    notes = []
    if frame is not None:
        x1, y1, x2, y2 = (round(edge) for edge in frame)
        notes.append(f"Cropped to ({x1}, {y1})-({x2}, {y2}).")
    if picture["implementation"] is None and sides.who:
        notes.append(f"{sides.who} shows no assignment.")
    if marks > room.marks:
        notes.append(f"{room.marks} of {counted(marks, 'positive')} are drawn.")
    if len(picture["truths"]) > room.truths:
        notes.append(f"{room.truths} of {counted(len(picture['truths']), 'ground truth')} are drawn.")
    return notes
