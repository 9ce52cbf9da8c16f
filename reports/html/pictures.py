"""Convert the `picture` of a log line, the assignment of one image, to the shapes of a `Drawing`.

A picture has three views over the same ground truths and anchors: the reference's assignment, the implementation's
assignment, and the differences between the two.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tal_reports.html.drawing import (
    KINDS,
    MAX_TRUTHS,
    PALETTE,
    SIDES,
    UNLIMITED,
    Box,
    Dots,
    Drawing,
    Mark,
    Outline,
    Sides,
    SizeBudget,
    View,
)
from tal_reports.html.explanations import box_words
from tal_reports.html.picture_marks import MARK_SHARE, MIN_DISC, drawn_box, marks_of, rings_of, spots_of
from tal_reports.text import capital, counted, listed

CROP = 4.0
"""A large image is cropped to its important part if it has at least this many times the area."""
MAX_WIDTH = 540
"""Width of a picture on the page, in CSS pixels: that of its column. A picture is at most as high."""
CELL = 36
"""Smallest size in CSS pixels of one cell of the finest level; of an image with more cells a part is shown."""
MAX_DISC, DOT = 15, 3.2
"""Largest radius of a positive, and diameter of the finest anchors, in CSS pixels."""
MAX_NAMED = 12
"""With more ground truths, only those that contain, or are assigned, an important anchor have a label."""


def draw(picture: dict[str, Any], characters: int = UNLIMITED, sides: Sides = SIDES) -> Drawing:
    """Return the drawing of a picture; anchors that do not exist are left out.

    Args:
        picture: the field `picture` of a log line, following `log.schema.json`.
        characters: approximate limit of the HTML, in characters; the most important parts are drawn.
        sides: names of the two sides.
    """
    budget = SizeBudget.of(characters)
    marks, rings = marks_of(picture, sides), rings_of(picture)
    important = [mark for mark in marks if mark.kind not in ("same", "")] + rings
    concerned = _concerned(picture, important)
    frame, cropped = _frame(picture, important, concerned)
    box = (frame[0], frame[1], frame[2] - frame[0], frame[3] - frame[1])
    display_size = _display_size(*box[2:])
    unit = box[2] / display_size[0]
    named = set(range(len(picture["truths"]))) if len(picture["truths"]) <= MAX_NAMED else concerned
    kinds = Counter(mark.kind for mark in marks)
    return Drawing(
        box=box,
        size=(picture["width"], picture["height"]),
        display_size=display_size,
        unit=unit,
        levels=[_dots(level, number, unit) for number, level in enumerate(picture["levels"])],
        truths=_outlines(picture, frame, unit, named, _first(picture, named, budget.truths)),
        marks=[_fitted(mark, unit) for mark in marks[-budget.marks :]],
        rings=[_fitted(ring, 1.4 * unit) for ring in rings[: budget.marks]],
        spots=spots_of(picture, marks, unit, budget.text, sides),
        views=_views(picture, kinds, sides),
        legend=[
            (kind, glyph, meaning.format(sides=sides), kinds[kind])
            for kind, (glyph, meaning) in KINDS.items()
            if kinds[kind]
        ],
        title=_title(picture),
        notes=_notes(picture, frame if cropped else None, len(marks), budget, sides),
    )


def _fitted(mark: Mark, unit: float) -> Mark:
    least = 0 if mark.kind == "same" else MIN_DISC * unit
    return replace(mark, radius=max(min(mark.radius, MAX_DISC * unit), least))


def _concerned(picture: dict[str, Any], important: Sequence[Mark]) -> set[int]:
    """Return the indices of the ground truths that contain an important anchor, or are assigned to one."""
    owners = {
        owner for mark in important for owner in (mark.reference, mark.implementation) if owner is not None
    }
    containing = {
        number
        for number, truth in enumerate(picture["truths"][:MAX_TRUTHS])
        for mark in important
        if truth["box"][0] < mark.x < truth["box"][2] and truth["box"][1] < mark.y < truth["box"][3]
    }
    return {number for number in owners | containing if number < len(picture["truths"])}


def _frame(picture: dict[str, Any], important: Sequence[Mark], concerned: set[int]) -> tuple[Box, bool]:
    """Return the part of image and surroundings to draw, and True if this part does not show the whole image.

    Args:
        picture: the field `picture` of a log line.
        important: marks that must be visible; if empty, all ground truths must be visible.
        concerned: indices of the ground truths that must be visible together with these marks.
    """
    image: Box = (0.0, 0.0, float(picture["width"]), float(picture["height"]))
    truths = [_clipped(truth["box"], image) for truth in picture["truths"]]
    boxes = [truths[number] for number in concerned] if important else truths
    hull = _hull([*boxes, *map(_neighbourhood, important)])
    finest = min((level["stride"] for level in picture["levels"]), default=1)
    too_large = max(image[2:]) * CELL > MAX_WIDTH * finest
    if hull is not None and too_large and _area(image) > CROP * _area(hull):
        return _with_margin(hull), True
    return _with_margin(_hull([image, *truths]) or image), False


def _with_margin(box: Box) -> Box:
    """Return the box with a margin for edges and labels."""
    margin = 0.03 * max(box[2] - box[0], box[3] - box[1])
    return box[0] - margin, box[1] - 2 * margin, box[2] + margin, box[3] + margin


def _neighbourhood(mark: Mark) -> Box:
    """Return the box around the grid cell of a mark and the neighbouring cells."""
    reach = 1.5 * mark.radius / MARK_SHARE
    return mark.x - reach, mark.y - reach, mark.x + reach, mark.y + reach


def _clipped(box: Sequence[float], image: Box) -> Box:
    """Return a box clipped to the image plus a border of half the image's width and height."""
    x, y = image[2] / 2, image[3] / 2
    left, right = (min(max(edge, -x), image[2] + x) for edge in (box[0], box[2]))
    top, bottom = (min(max(edge, -y), image[3] + y) for edge in (box[1], box[3]))
    return left, top, right, bottom


def _hull(boxes: Sequence[Box]) -> Box | None:
    """Return the smallest box around all boxes; None for an empty list."""
    if not boxes:
        return None
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _display_size(width: float, height: float) -> tuple[int, int]:
    """Return width and height on the page, in CSS pixels."""
    scale = min(MAX_WIDTH / width, MAX_WIDTH / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _dots(level: dict[str, Any], number: int, unit: float) -> Dots:
    """Return a dot for every anchor of a level; coarser levels have larger dots."""
    stride = level["stride"]
    radius = min((1 + 0.5 * number) * DOT * unit, 0.22 * stride) / 2
    return Dots(stride, level["columns"] * stride, level["rows"] * stride, radius)


def _first(picture: dict[str, Any], named: set[int], limit: int) -> set[int]:
    """Return the indices of at most `limit` ground truths to draw; ground truths with labels have priority."""
    ordered = sorted(range(len(picture["truths"])), key=lambda number: (number not in named, number))
    return set(ordered[:limit])


def _outlines(
    picture: dict[str, Any], frame: Box, unit: float, named: set[int], visible: set[int]
) -> list[Outline]:
    """Return the outlines of ground truths, the smallest last (on top), with labels that do not overlap."""
    taken: list[Box] = []
    outlines = []
    for number in sorted(visible):
        truth = picture["truths"][number]
        x1, y1, x2, y2 = truth["box"]
        if x2 < frame[0] or y2 < frame[1] or x1 > frame[2] or y1 > frame[3]:
            continue
        is_real, label = truth.get("real", True), truth.get("label")
        name = f"GT {number}" if is_real else f"GT {number} dropped"
        tag = _free(
            (max(x1, frame[0]), max(y1 - 15 * unit, frame[1]), (7 * len(name) + 6) * unit, 15 * unit), taken
        )
        where = box_words(truth)
        kind = "" if label is None else f", class {label}"
        title = f"GT {number}{kind}: {where}{'' if is_real else ' (ANN-3)'}"
        box, turn = drawn_box(truth["turned"]) if truth.get("turned") else (_upright(x1, y1, x2, y2), 0.0)
        if number in named:
            taken.append(tag)
        outlines.append(
            Outline(box, name if number in named else "", tag, number % PALETTE, is_real, title, turn)
        )
    return sorted(outlines, key=lambda outline: -outline.box[2] * outline.box[3])


def _upright(x1: float, y1: float, x2: float, y2: float) -> Box:
    return x1, y1, max(x2 - x1, 0), max(y2 - y1, 0)


def _free(tag: Box, taken: Sequence[Box]) -> Box:
    """Return the label's box `tag` (x, y, width, height), shifted to the right until it overlaps no box in `taken`."""
    x, y, width, height = tag
    for other in sorted(taken):
        if abs(other[1] - y) < height and other[0] < x + width and x < other[0] + other[2]:
            x = other[0] + other[2]
    return x, y, width, height


def _views(picture: dict[str, Any], kinds: Counter[str], sides: Sides) -> list[View]:
    first = View("reference", capital(sides.first), _caption(picture["reference"]))
    if picture["implementation"] is None:
        return [first]
    equal = set(kinds) <= {"same"}
    caption = (
        "Both assign the same anchors, with the same weights." if equal else "Differences between the two:"
    )
    second = View("implementation", capital(sides.second), _caption(picture["implementation"]))
    return [View("difference", "Difference", caption), first, second]


def _caption(positives: Sequence[Any]) -> str:
    if not positives:
        return "No positive: all anchors are background."
    return f"{counted(len(positives), 'positive')}, each with the number of its ground truth."


def _title(picture: dict[str, Any]) -> str:
    grids = listed(
        [f"{level['columns']}×{level['rows']} at stride {level['stride']:g}" for level in picture["levels"]]
    )
    truths = counted(len(picture["truths"]), "ground truth")
    size = f"{picture['width']:g}×{picture['height']:g} px"
    branch = f" of branch {picture['branch']}" if picture.get("branch") else ""
    return f"Image {picture.get('image', 0)}{branch}, {size}, {truths}, anchors {grids}"


def _notes(
    picture: dict[str, Any], frame: Box | None, marks: int, budget: SizeBudget, sides: Sides
) -> list[str]:
    notes = []
    if frame is not None:
        x1, y1, x2, y2 = (round(edge) for edge in frame)
        notes.append(f"Cropped to ({x1}, {y1})-({x2}, {y2}).")
    if picture["implementation"] is None and sides.who:
        notes.append(f"{sides.who} does not expose its assignment.")
    if marks > budget.marks:
        notes.append(f"{budget.marks} of {counted(marks, 'positive')} are drawn.")
    if len(picture["truths"]) > budget.truths:
        notes.append(f"{budget.truths} of {counted(len(picture['truths']), 'ground truth')} are drawn.")
    return notes
