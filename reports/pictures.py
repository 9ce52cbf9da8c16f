"""The picture of an image's assignment: from a log's `Picture` to shapes with coordinates, for the template to write.

Three views over the same ground truths and anchors: what the reference assigns, what the implementation assigns, and
what differs between the two. All coordinates are pixels of the input image.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from reports.text import counted, listed, short

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
Positive = Sequence[Any]
"""Anchor, ground truth, weight."""
Assigned = Sequence[Any] | None
"""Ground truth and weight; None: background."""

PALETTE = 8
"""Colours that ground truths are told apart by; the ninth has the first one's again."""
MOST_MARKS, MOST_TRUTHS, MOST_ROWS = 500, 300, 2000
"""Positives of one view, ground truths, and rows of anchors of one level that are drawn."""
MOST_POSITIVES = 20_000
"""Positives of one side that are compared."""
CROP = 4.0
"""An image of more than this many times the area that matters is cropped to that area."""
SMALLEST, LARGEST = 240, 560
"""Width of a picture on the page, in CSS pixels, where the page has room for it."""
CELL = 34
"""CSS pixels for one cell of the finest level, between those two."""

KINDS = {
    "missing": "positive in the reference alone",
    "extra": "positive in the implementation alone",
    "owner": "assigned to another ground truth",
    "weight": "same ground truth, another weight",
    "same": "the same in both",
}
"""What the difference view says of an anchor, the gravest first."""
GLYPHS = {"missing": "−", "extra": "+", "owner": "≠", "weight": "w", "same": ""}


class Anchor(NamedTuple):
    """Where an anchor is: centre in pixels, stride of its level, and its cell."""

    x: float
    y: float
    stride: float
    column: int
    row: int


@dataclass(frozen=True)
class Dots:
    """All anchors of one level: a path with one dashed line a row, whose dashes of length zero are the dots."""

    stride: float
    path: str
    width: float


@dataclass(frozen=True)
class Outline:
    """One ground truth: its box, where its name stands, and which colour it has."""

    box: tuple[float, float, float, float]
    name: str
    at: tuple[float, float]
    colour: int
    real: bool
    title: str


@dataclass(frozen=True)
class Mark:
    """One positive: a disc with a glyph, its colour (of a ground truth) or kind (of a difference), and what it is."""

    x: float
    y: float
    radius: float
    style: str
    glyph: str
    title: str


@dataclass(frozen=True)
class View:
    """One of the views: its name, its marks, and in words what it shows."""

    key: str
    name: str
    marks: list[Mark]
    says: str


@dataclass(frozen=True)
class Drawing:
    """Everything of a picture, ready to be written.

    Attributes:
        box: x, y, width and height of what is drawn.
        size: width and height of the whole image.
        shown: width and height on the page, in CSS pixels.
        unit: pixels of the image per CSS pixel.
        levels, truths, views, focus: what is drawn, from the bottom to the top.
        title: the picture in a sentence.
        legend: for each kind of difference that occurs: its key, glyph and name, and how often.
        notes: sentences about what is not drawn.
    """

    box: tuple[float, float, float, float]
    size: tuple[float, float]
    shown: tuple[int, int]
    unit: float
    levels: list[Dots]
    truths: list[Outline]
    views: list[View]
    focus: list[Mark]
    title: str
    legend: list[tuple[str, str, str, int]]
    notes: list[str]


def draw(picture: dict[str, Any]) -> Drawing:
    """The drawing of a picture that follows `log.schema.json`; anchors that do not exist are left out of it."""
    limits = {"reference": MOST_POSITIVES, "implementation": MOST_POSITIVES, "focus": MOST_MARKS}
    picture = picture | {name: (picture.get(name) or [])[:most] for name, most in limits.items() if picture.get(name)}
    focus = picture.get("focus", [])
    (x1, y1, x2, y2), cropped = _frame(picture, [anchor for n in focus if (anchor := place(picture, n)) is not None])
    shown = _shown(picture, (x1, y1, x2, y2))
    unit = (x2 - x1) / shown[0]
    differences = _differences(picture) if picture["implementation"] is not None else []
    kinds = Counter(kind for kind, *_ in differences)
    return Drawing(
        box=(x1, y1, x2 - x1, y2 - y1),
        size=(picture["width"], picture["height"]),
        shown=shown,
        unit=unit,
        levels=[_dots(level, number, unit) for number, level in enumerate(picture["levels"])],
        truths=_outlines(picture, (x1, y1, x2, y2), unit),
        views=_views(picture, differences),
        focus=_rings(picture, focus),
        title=_title(picture),
        legend=[(kind, GLYPHS[kind], name, kinds[kind]) for kind, name in KINDS.items() if kinds[kind]],
        notes=_notes(picture, (x1, y1, x2, y2) if cropped else None),
    )


def _views(picture: dict[str, Any], differences: list[tuple[str, int, Anchor, str]]) -> list[View]:
    reference, implementation = picture["reference"], picture["implementation"]
    views = [View("reference", "Reference", _positives(picture, reference), _says(reference))]
    if implementation is None:
        return views
    marks = [
        _mark(anchor, kind, GLYPHS[kind], f"{_name(picture, number, anchor)}: {told}")
        for kind, number, anchor, told in differences[-MOST_MARKS:]
    ]
    same = all(kind == "same" for kind, *_ in differences)
    says = "Both assign the same anchors with the same weights." if same else "Where the two assign differently."
    theirs = View("implementation", "Implementation", _positives(picture, implementation), _says(implementation))
    return [View("difference", "Difference", marks, says), *views, theirs]


def _says(positives: Sequence[Positive]) -> str:
    if not positives:
        return "No positive: all anchors are background."
    return f"{counted(len(positives), 'positive')}; the number in each is its ground truth."


def place(picture: dict[str, Any], number: int) -> Anchor | None:
    """Where an anchor is (levels one after the other, each row by row); None if there is none of this number."""
    for level in picture["levels"]:
        cells = level["rows"] * level["columns"]
        if number < cells:
            row, column = divmod(number, level["columns"])
            stride = level["stride"]
            return Anchor((column + 0.5) * stride, (row + 0.5) * stride, stride, column, row)
        number -= cells
    return None


def _frame(picture: dict[str, Any], focus: list[Anchor]) -> tuple[Box, bool]:
    """What of the image, and of what is outside it, is drawn; and whether that leaves some of the image out."""
    image: Box = (0.0, 0.0, float(picture["width"]), float(picture["height"]))
    truths = [_near(truth["box"], image) for truth in picture["truths"]]
    matter = {*focus, *_changed(picture)}
    owners = {owner for anchor, owner, _ in _every_positive(picture) if place(picture, anchor) in matter}
    boxes = [truths[number] for number in owners if number < len(truths)] if matter else truths
    hot = _around([*boxes, *map(_cell, matter)])
    if hot is not None:
        margin = 2 * max([anchor.stride for anchor in matter], default=0.1 * max(image[2:]))
        hot = (hot[0] - margin, hot[1] - margin, hot[2] + margin, hot[3] + margin)
        if _area(image) > CROP * _area(hot):
            return hot, True
    whole = _around([image, *truths]) or image
    margin = 0.02 * max(whole[2] - whole[0], whole[3] - whole[1])
    return (whole[0] - margin, whole[1] - margin, whole[2] + margin, whole[3] + margin), False


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


def _cell(anchor: Anchor) -> Box:
    half = anchor.stride / 2
    return anchor.x - half, anchor.y - half, anchor.x + half, anchor.y + half


def _every_positive(picture: dict[str, Any]) -> list[Positive]:
    return [*picture["reference"], *(picture["implementation"] or ())]


def _shown(picture: dict[str, Any], frame: Box) -> tuple[int, int]:
    """Width and height on the page: small grids are drawn small, large ones as large as there is room for."""
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    finest = min((level["stride"] for level in picture["levels"]), default=max(width, height))
    across = min(max(width / finest * CELL, SMALLEST), LARGEST)
    scale = min(across / width, LARGEST / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _dots(level: dict[str, Any], number: int, unit: float) -> Dots:
    """A dot for every anchor of a level; the coarser the level, the larger its dots."""
    stride, half = level["stride"], level["stride"] / 2
    end = half + (level["columns"] - 0.75) * stride  # a bit beyond the last dot, so that rounding cannot swallow it
    rows = range(min(level["rows"], MOST_ROWS) if level["columns"] else 0)
    path = "".join(f"M{half:g} {half + row * stride:g}H{end:g}" for row in rows)
    return Dots(stride, path, unit * (2.4 + 1.6 * number))


def _outlines(picture: dict[str, Any], frame: Box, unit: float) -> list[Outline]:
    """Ground truths, the largest first so that those inside stay in sight; names do not cover each other."""
    taken: Counter[tuple[int, int]] = Counter()
    outlines = []
    for number, truth in enumerate(picture["truths"][:MOST_TRUTHS]):
        x1, y1, x2, y2 = truth["box"]
        label, is_real = truth.get("label"), truth.get("real", True)
        above = y2 - y1 < 20 * unit and y1 - 14 * unit > frame[1]  # too flat to hold its name
        at = (max(x1, frame[0]) + 4 * unit, y1 - 3 * unit if above else max(y1, frame[1]) + 13 * unit)
        corner = (round(at[0] / (40 * unit)), round(at[1] / (16 * unit)))
        outlines.append(
            Outline(
                box=(x1, y1, max(x2 - x1, 0), max(y2 - y1, 0)),
                name=f"{number}" if is_real else f"{number} dropped",
                at=(at[0] + 16 * taken[corner] * unit, at[1]),
                colour=number % PALETTE,
                real=is_real,
                title=f"GT {number}{'' if label is None else f', class {label}'}: "
                f"({x1:.6g}, {y1:.6g})-({x2:.6g}, {y2:.6g}){'' if is_real else ', dropped (ANN-3)'}",
            )
        )
        taken[corner] += 1
    return sorted(outlines, key=lambda outline: -outline.box[2] * outline.box[3])


def _positives(picture: dict[str, Any], positives: Sequence[Positive]) -> list[Mark]:
    marks = []
    for number, owner, weight in positives[:MOST_MARKS]:
        anchor = place(picture, number)
        if anchor is not None:
            title = f"{_name(picture, number, anchor)}: GT {owner}, weight {short(weight, 4)}"
            marks.append(_mark(anchor, f"gt{owner % PALETTE}", str(owner), title))
    return marks


def _differences(picture: dict[str, Any]) -> list[tuple[str, int, Anchor, str]]:
    """Kind, anchor and wording of every positive of either side, the gravest kind last so that it is drawn on top."""
    reference = {anchor: rest for anchor, *rest in picture["reference"]}
    implementation = {anchor: rest for anchor, *rest in picture["implementation"] or ()}
    found = []
    for number in sorted(reference.keys() | implementation.keys()):
        anchor = place(picture, number)
        if anchor is not None:
            ours, theirs = reference.get(number), implementation.get(number)
            found.append((_kind(ours, theirs), number, anchor, f"reference {_told(ours)}, implementation {_told(theirs)}"))
    order = list(KINDS)
    return sorted(found, key=lambda difference: (-order.index(difference[0]), difference[1]))


def _kind(ours: Assigned, theirs: Assigned) -> str:
    if ours is None or theirs is None:
        return "missing" if theirs is None else "extra"
    if ours[0] != theirs[0]:
        return "owner"
    return "same" if short(ours[1], 4) == short(theirs[1], 4) else "weight"


def _told(assigned: Assigned) -> str:
    return "background" if assigned is None else f"GT {assigned[0]} weight {short(assigned[1], 4)}"


def _changed(picture: dict[str, Any]) -> list[Anchor]:
    if picture["implementation"] is None:
        return []
    return [anchor for kind, _, anchor, _ in _differences(picture) if kind != "same"]


def _name(picture: dict[str, Any], number: int, anchor: Anchor) -> str:
    told = picture.get("titles", {}).get(str(number))
    cell = f"anchor {number} (stride {anchor.stride:g}, column {anchor.column}, row {anchor.row})"
    return f"{cell}: {told}" if told else cell


def _mark(anchor: Anchor, style: str, glyph: str, title: str) -> Mark:
    return Mark(anchor.x, anchor.y, 0.3 * anchor.stride, style, glyph, title)


def _rings(picture: dict[str, Any], numbers: Sequence[int]) -> list[Mark]:
    rings = []
    for number in numbers[:MOST_MARKS]:
        anchor = place(picture, number)
        if anchor is not None:
            title = f"{_name(picture, number, anchor)}: the values differ here"
            rings.append(Mark(anchor.x, anchor.y, 0.42 * anchor.stride, "focus", "", title))
    return rings


def _title(picture: dict[str, Any]) -> str:
    grids = listed([f"{level['columns']}×{level['rows']} at stride {level['stride']:g}" for level in picture["levels"]])
    truths = counted(len(picture["truths"]), "ground truth")
    return f"Image {picture.get('image', 0)}, {picture['width']:g}×{picture['height']:g} px, {truths}, anchors {grids}"


def _notes(picture: dict[str, Any], frame: Box | None) -> list[str]:
    notes = []
    if frame is not None:
        x1, y1, x2, y2 = (round(edge) for edge in frame)
        notes.append(f"Cropped to ({x1}, {y1})-({x2}, {y2}) of {picture['width']:g}×{picture['height']:g} px.")
    if picture["implementation"] is None:
        notes.append("The implementation shows no assignment.")
    most = max(len(picture["reference"]), len(picture["implementation"] or ()))
    if most > MOST_MARKS:
        notes.append(f"The first {MOST_MARKS} of {counted(most, 'positive')} are drawn.")
    if len(picture["truths"]) > MOST_TRUTHS:
        notes.append(f"The first {MOST_TRUTHS} of {counted(len(picture['truths']), 'ground truth')} are drawn.")
    return notes
