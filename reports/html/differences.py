"""What differs between two implementations, thing by thing: a page of its own that `conformance diff` leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.html.cards import (
    LONGEST_NAME,
    LONGEST_SUMMARY,
    LONGEST_TEXT,
    LONGEST_TRACEBACK,
    MOST_VALUES,
    value_of,
)
from tal_reports.html.pictures import PLENTY, SIDES, Drawing, Sides, draw
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
    return [_shown(section, PLENTY // len(sections)) for section in sections]


def _shown(section: Section, letters: int) -> Shown:
    values = [value_of(dict(value)) for value in section.values]
    sides = Sides(*(shortened(name, LONGEST_NAME) for name in section.sides))
    return Shown(
        heading=shortened(section.heading, LONGEST_SUMMARY),
        lines=[shortened(line, LONGEST_SUMMARY) for line in section.lines],
        batch=shortened(section.batch, LONGEST_TEXT),
        recipe=section.recipe if len(section.recipe) <= LONGEST_TEXT else "",  # part of one is none
        values=values[:MOST_VALUES],
        more_values=len(values) - MOST_VALUES,
        first=capital(sides.first),
        implementation=capital(sides.second),
        drawing=None if section.picture is None else draw(dict(section.picture), letters, sides),
        traceback=shortened(section.traceback.strip("\n"), LONGEST_TRACEBACK),
        verdict="divergent" if section.fails else "declared",
    )
