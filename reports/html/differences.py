"""Prepare the page of `tal-conformance diff`: one section for each difference between two implementations."""

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
    """One difference between two implementations.

    Attributes:
        heading: the difference in a few words.
        lines: sentences about the difference.
        batch: description of a batch with the difference (the smallest such batch unless `fails`), or "".
        recipe: Python code that builds this batch, or "".
        values: differing values, in the form of `divergence` log lines.
        picture: a picture as `log.schema.json` describes it, or None.
        sides: names of the two sides of picture and values.
        traceback: traceback of the exception, or "".
        fails: True if the difference is a failure and not a declared choice.
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
class PreparedSection:
    """A section in the form that the template needs. The template `card.html.j2` reads some of its fields."""

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


def prepare(sections: Sequence[Section]) -> list[PreparedSection]:
    """Return the sections in the form that the template needs; the total size of pictures is limited."""
    return [_prepared(section, UNLIMITED // len(sections)) for section in sections]


def _prepared(section: Section, characters: int) -> PreparedSection:
    values = [value_of(dict(value)) for value in section.values]
    sides = Sides(*(shortened(name, MAX_NAME_LENGTH) for name in section.sides))
    return PreparedSection(
        heading=shortened(section.heading, MAX_SUMMARY_LENGTH),
        lines=[shortened(line, MAX_SUMMARY_LENGTH) for line in section.lines],
        batch=shortened(section.batch, MAX_TEXT_LENGTH),
        recipe=section.recipe
        if len(section.recipe) <= MAX_TEXT_LENGTH
        else "",  # an incomplete recipe would be useless
        values=values[:MAX_VALUES],
        more_values=len(values) - MAX_VALUES,
        first=capital(sides.first),
        implementation=capital(sides.second),
        drawing=None if section.picture is None else draw(dict(section.picture), characters, sides),
        traceback=shortened(section.traceback.strip("\n"), MAX_TRACEBACK_LENGTH),
        verdict="divergent" if section.fails else "declared",
    )
