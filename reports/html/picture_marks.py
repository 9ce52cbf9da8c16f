"""The anchors of a picture: a mark for every positive, rings around differing values, and hover targets."""

from collections.abc import Sequence
from math import degrees
from typing import Any

from tal_reports.html.drawing import KINDS, MAX_MARKS, Box, Mark, Sides, Spot
from tal_reports.html.explanations import Anchor, anchor_lines, place, short_line
from tal_reports.text import real, short

Assigned = Sequence[Any] | None
"""Index of the ground truth and weight of an anchor; None for background."""

MIN_DISC = 5
"""Smallest radius of a mark that shows a difference, in CSS pixels."""
MARK_SHARE, RING_SHARE = 0.3, 0.42
"""Radius of a mark and of a ring, divided by the stride of the anchor."""
FARTHEST = 1e6
"""Coordinate in pixels beyond which a predicted box is not drawn."""


def marks_of(picture: dict[str, Any], sides: Sides) -> list[Mark]:
    """Return a mark for every anchor that is positive on either side; the gravest differences are last (on top)."""
    alone = picture["implementation"] is None
    reference = {anchor: rest for anchor, *rest in picture["reference"]}
    implementation = {anchor: rest for anchor, *rest in picture["implementation"] or ()}
    focus = set(picture.get("focus") or ())
    marks = []
    for number in sorted(reference.keys() | implementation.keys()):
        anchor = place(picture, number)
        if anchor is None:
            continue
        expected, observed = reference.get(number), implementation.get(number)
        kind = "" if alone else _kind(expected, observed, number in focus)
        marks.append(
            Mark(
                x=anchor.x,
                y=anchor.y,
                radius=MARK_SHARE * anchor.stride,
                kind=kind,
                glyph=KINDS[kind][0] if kind else "",
                reference=expected and expected[0],
                implementation=observed and observed[0],
                title=f"{_name(picture, number, anchor)}: {_comparison(kind, expected, observed, sides)}",
                number=number,
            )
        )
    gravity = list(KINDS)
    return marks if alone else sorted(marks, key=lambda mark: -gravity.index(mark.kind))


def _comparison(kind: str, expected: Assigned, observed: Assigned, sides: Sides) -> str:
    if kind == "":
        return _assignment(expected)
    if kind == "same":
        return f"both {_assignment(expected)}"
    return f"{sides.first} {_assignment(expected)}, {sides.second} {_assignment(observed)}"


def _kind(expected: Assigned, observed: Assigned, in_focus: bool) -> str:
    """Return the kind of difference between the two sides at an anchor, or the kind of their agreement.

    Weights that agree to four digits count as equal, unless the judge found a difference (`in_focus`).
    """
    if expected is None or observed is None:
        return "missing" if observed is None else "extra"
    if expected[0] != observed[0]:
        return "owner"
    equal = expected[1] == observed[1] if in_focus else short(expected[1], 4) == short(observed[1], 4)
    return "same" if equal else "weight"


def _assignment(assigned: Assigned) -> str:
    return "background" if assigned is None else f"GT {assigned[0]} weight {short(assigned[1], 6)}"


def rings_of(picture: dict[str, Any]) -> list[Mark]:
    """Return a mark (a ring) around each anchor whose values the judge found to differ."""
    rings = []
    for number in (picture.get("focus") or [])[:MAX_MARKS]:
        anchor = place(picture, number)
        if anchor is not None:
            title = f"{_name(picture, number, anchor)}: the values differ"
            radius = RING_SHARE * anchor.stride
            rings.append(Mark(anchor.x, anchor.y, radius, "focus", "", None, None, title, number))
    return rings


def spots_of(
    picture: dict[str, Any], marks: Sequence[Mark], unit: float, characters: int, sides: Sides
) -> list[Spot]:
    """Return the anchors with explanations, as many as the size limit allows, but at least one.

    Args:
        picture: the field `picture` of a log line.
        marks: the marks of the picture, the gravest differences last.
        unit: pixels of the image per CSS pixel.
        characters: limit of the HTML, in characters.
        sides: names of the two sides.
    """
    titles = {mark.number: mark.title for mark in marks}
    gravity = {mark.number: rank for rank, mark in enumerate(reversed(marks))}
    focus = set(picture.get("focus") or ())

    def importance(number: int) -> tuple[bool, int, int]:
        return number not in focus, gravity.get(number, len(gravity)), number

    spots: list[Spot] = []
    for number in sorted(map(int, picture.get("anchors") or {}), key=importance):
        anchor = place(picture, number)
        if anchor is None:
            continue
        title = titles.get(number) or f"{_name(picture, number, anchor)}: background"
        title = f"{title}. {short_line(picture, number)}"
        lines = anchor_lines(picture, number, sides.who)
        radius = max(RING_SHARE * anchor.stride, MIN_DISC * unit)
        box, turn = _predicted(picture, number)
        spot = Spot(number, anchor.x, anchor.y, radius, box, title, lines, turn)
        characters -= spot.characters
        if characters < 0 and spots:
            break
        spots.append(spot)
    return sorted(spots, key=lambda spot: (spot.y, spot.x))


def _predicted(picture: dict[str, Any], number: int) -> tuple[Box | None, float]:
    """Return the predicted box of an anchor as it is drawn, and its turn in degrees; no box if it lies too far away."""
    anchor = picture["anchors"][str(number)]
    corners = [real(edge) for edge in anchor["box"]]
    if any(edge is None or not -FARTHEST < edge < FARTHEST for edge in corners):
        return None, 0.0
    if anchor.get("turned"):
        return drawn_box(anchor["turned"])
    x1, y1, x2, y2 = (edge for edge in corners if edge is not None)
    return (min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)), 0.0


def drawn_box(turned: Sequence[Any]) -> tuple[Box, float]:
    """Return a rotated box (centre, sides, radians) as x, y, width, height before the turn, and the turn in degrees."""
    x, y, width, height, angle = (real(number) or 0.0 for number in turned)
    width, height = abs(width), abs(height)
    return (x - width / 2, y - height / 2, width, height), degrees(angle) % 360


def _name(picture: dict[str, Any], number: int, anchor: Anchor) -> str:
    title = picture.get("titles", {}).get(str(number))
    cell = f"anchor {number} (stride {anchor.stride:g}, column {anchor.column}, row {anchor.row})"
    return f"{cell}, {title}" if title else cell
