"""What differs between two implementations, thing by thing: a page of its own that `conformance diff` leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.html.cards import (
    MAX_NAME_LENGTH,
    MAX_SUMMARY_LENGTH,
    MAX_TEXT_LENGTH,
    MAX_TRACEBACK_LENGTH,
    MAX_VALUES,
    value_of,
)
from tal_reports.html.drawing import SIDES, UNLIMITED, Drawing, Sides
from tal_reports.html.pictures import draw
from tal_reports.text import capital, shortened


@dataclass(frozen=True)
class Section:
    """One thing that differs.

    Attributes:
        heading: it in a few words.
        lines: sentences about it.
        batch: the smallest batch that shows it (where it `fails`, some batch), in words; "" if there is none.
        recipe: how to make that batch.
        values: places of the batch where two numbers differ, as the log has them.
        picture: what is drawn of it, as `log.schema.json` says; None: nothing.
        sides: how the two sides of picture and values are called.
        traceback: of what was raised; "" if nothing was.
        fails: it is no declared choice, but something that is wrong.
    """

    heading: str
    lines: Sequence[str] = ()
    batch: str = ""
    recipe: str = ""
    values: Sequence[Mapping[str, str]] = ()
    picture: Mapping[str, Any] | None = None
    sides: Sides = SIDES
    traceback: str = ""
    fails: bool = False


@dataclass(frozen=True)
class Shown:
    """A section, ready to be written; values and their names are what `card.html.j2` makes a table of."""

    heading: str
    lines: list[str]
    batch: str
    recipe: str
    values: list[dict[str, str]]
    more_values: int
    first: str
    implementation: str
    drawing: Drawing | None
    traceback: str
    verdict: str


def drawn(sections: Sequence[Section]) -> list[Shown]:
    """All sections with their pictures, which share the room that a page has for one."""
    return [_shown(section, UNLIMITED // len(sections)) for section in sections]


def _shown(section: Section, characters: int) -> Shown:
    values = [value_of(dict(value)) for value in section.values]
    sides = Sides(*(shortened(name, MAX_NAME_LENGTH) for name in section.sides))
    return Shown(
        heading=shortened(section.heading, MAX_SUMMARY_LENGTH),
        lines=[shortened(line, MAX_SUMMARY_LENGTH) for line in section.lines],
        batch=shortened(section.batch, MAX_TEXT_LENGTH),
        recipe=section.recipe if len(section.recipe) <= MAX_TEXT_LENGTH else "",  # part of one is none
        values=values[:MAX_VALUES],
        more_values=len(values) - MAX_VALUES,
        first=capital(sides.first),
        implementation=capital(sides.second),
        drawing=None if section.picture is None else draw(dict(section.picture), characters, sides),
        traceback=shortened(section.traceback.strip("\n"), MAX_TRACEBACK_LENGTH),
        verdict="divergent" if section.fails else "declared",
    )
