"""The page of `tal-conformance diff`: each difference with a picture of its smallest batch."""

import re
from pathlib import Path
from typing import Any

from tal_conformance.core.batch import Batch
from tal_conformance.core.files import default_report_dir
from tal_conformance.dialects.comparison import (
    UNDEFINED,
    Comparison,
    Difference,
    format_behaviour,
    format_comparison,
)
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, value_fields
from tal_conformance.judgement.rejection import rejection_for
from tal_conformance.pictures.picture import can_be_drawn, failure_picture, picture
from tal_reports import Section, Sides, write_differences

FOLDER = "diffs"
"""Folder of the pages in the report folder."""
MAX_NAME_LENGTH = 100
"""Maximum number of characters of an implementation's name in a file name."""


def page_path(working: Path, first: str, second: str) -> Path:
    """Return the default path of the HTML page that compares two implementations.

    Args:
        working: folder in which the command was started.
        first: name of an implementation.
        second: name of an implementation.
    """
    names = [re.sub(r"[^\w.=-]+", "_", name)[:MAX_NAME_LENGTH] for name in (first, second)]
    return default_report_dir(working) / FOLDER / f"{names[0]}--{names[1]}.html"


def write_page(comparison: Comparison, path: Path) -> None:
    """Write a comparison as one HTML document.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    headline = f"From {comparison.first.name} to {comparison.second.name}"
    write_differences(path, headline, _introduction(comparison), sections_of(comparison))


def _introduction(comparison: Comparison) -> list[str]:
    """Return the first line that the command prints, and also the last line unless it is about a failure."""
    first, *_, last = format_comparison(comparison)
    return [first] if comparison.unexpected else [first, last.strip()]


def sections_of(comparison: Comparison) -> list[Section]:
    """Return a section of the page for every difference, and for every unexpected failure."""
    choices = [_difference_section(difference, comparison) for difference in comparison.differences]
    return [*choices, *map(_unexpected_section, comparison.unexpected)]


def _difference_section(difference: Difference, comparison: Comparison) -> Section:
    choice, failure, second = difference.choice, difference.failure, comparison.second
    lines = [
        f"Before: {choice.before}.",
        f"Now: {choice.after}.",
        f"Makes a difference on {difference.frequency}.",
    ]
    if choice.recipe is None:
        return Section(choice.clause, [*lines, f"{UNDEFINED[:1].upper()}{UNDEFINED[1:]}."])
    batch = choice.recipe.build()
    drawing, sides = _picture_and_sides(batch, failure, comparison)
    lines.append(f"On the smallest such batch, {format_behaviour(difference, second.name)}.")
    if not sides.who:
        lines.append(f"The picture shows the assignment of {sides.first}.")
    return Section(
        heading=choice.clause,
        lines=lines,
        batch=batch.describe(),
        recipe=str(choice.recipe),
        values=[value_fields(value) for value in failure.values] if failure else [],
        picture=drawing,
        sides=sides,
        traceback=(failure.details or "") if failure else "",
    )


def _picture_and_sides(
    batch: Batch, failure: Failure | None, comparison: Comparison
) -> tuple[dict[str, Any] | None, Sides]:
    """Return the picture of a difference's smallest batch, and the names of the two sides of the picture.

    The sides are the assignment by the first implementation's dialect ("before") and the assignment that the second
    implementation returned ("now"). If the second implementation failed on the batch in a way that cannot be drawn,
    the only side is the assignment by the second dialect. If it did not fail, the only side is the assignment by the
    first dialect. A dialect that rejects the batch is replaced by the other dialect. The picture is None if
    both dialects reject the batch.
    """
    first, second = comparison.first, comparison.second
    drawing = None if failure is None else failure_picture(failure)
    if drawing is not None:
        return drawing, Sides("before", "now", "before alone", "now alone", second.name)
    if not can_be_drawn(batch):
        return None, Sides()
    for implementation in (first, second) if failure is None else (second, first):
        if rejection_for(batch, implementation.dialect) is None:
            return picture(batch, implementation.dialect, None, None), _one_side(implementation)
    return None, Sides()


def _one_side(implementation: Implementation) -> Sides:
    return Sides(first=implementation.dialect.name, who="")


def _unexpected_section(failure: Failure) -> Section:
    implementation = failure.subject.implementation
    stage = f" at stage {failure.stage} ({failure.clause})" if failure.stage else ""
    return Section(
        heading=f"{implementation.name} deviates from its own dialect{stage}",
        lines=[f"Judged by {implementation.dialect.name}, it is {failure.verdict.value}: {failure.summary}."],
        batch=failure.batch.describe(),
        recipe=failure.batch.origin,
        values=[value_fields(value) for value in failure.values],
        picture=failure_picture(failure),
        sides=Sides(who=implementation.name),
        traceback=failure.details or "",
        fails=True,
    )
