"""The page of `python -m conformance diff`: each difference with its smallest batch, drawn."""

import re
from pathlib import Path
from typing import Any

from tal_conformance.core.batch import Batch
from tal_conformance.core.files import default_report_dir
from tal_conformance.dialects.comparison import UNDEFINED, Compared, Difference, does, format_comparison
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, value_fields
from tal_conformance.judgement.rejection import rejection_for
from tal_conformance.pictures.picture import failure_picture, picture
from tal_reports import Section, Sides, write_differences

FOLDER = "diffs"
"""Below the folder of the reports."""
LONGEST = 100
"""Characters of a name that a file's name has."""


def page_path(working: Path, first: str, second: str) -> Path:
    """Where the page of two implementations is left that are compared in the folder `working`."""
    names = [re.sub(r"[^\w.=-]+", "_", name)[:LONGEST] for name in (first, second)]
    return default_report_dir(working) / FOLDER / f"{names[0]}--{names[1]}.html"


def write_page(compared: Compared, path: Path) -> None:
    """Write the answer as one HTML document.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    headline = f"From {compared.one.name} to {compared.other.name}"
    write_differences(path, headline, _about(compared), sections_of(compared))


def _about(compared: Compared) -> list[str]:
    """Sentences about all of it: the first and, where nothing else is left to say, the last of the terminal's."""
    first, *_, last = format_comparison(compared)
    return [first] if compared.unexpected else [first, last.strip()]


def sections_of(compared: Compared) -> list[Section]:
    """Every difference, and every batch on which one of the two leaves its own dialect."""
    choices = [_changed(difference, compared) for difference in compared.differences]
    return [*choices, *map(_unexpected, compared.unexpected)]


def _changed(difference: Difference, compared: Compared) -> Section:
    choice, found, other = difference.choice, difference.failure, compared.other
    lines = [f"Before: {choice.before}.", f"Now: {choice.after}.", f"Met by {difference.how_often}."]
    if choice.recipe is None:
        return Section(choice.clause, [*lines, f"{UNDEFINED[:1].upper()}{UNDEFINED[1:]}."])
    batch = choice.recipe.build()
    drawn, sides = _drawn(batch, found, compared)
    lines.append(f"On the smallest batch, {does(difference, other.name)}.")
    if not sides.who:
        lines.append(f"The picture shows what {sides.first} assigns there.")
    return Section(
        heading=choice.clause,
        lines=lines,
        batch=batch.describe(),
        recipe=str(choice.recipe),
        values=[value_fields(value) for value in found.values] if found else [],
        picture=drawn,
        sides=sides,
        traceback=(found.details or "") if found else "",
    )


def _drawn(batch: Batch, found: Failure | None, compared: Compared) -> tuple[dict[str, Any] | None, Sides]:
    """What is drawn of a difference's smallest batch, and how its sides are called.

    Where the first refuses the batch there is nothing to compare with: what the second's dialect assigns is drawn; and
    where the second does as before, what the first's does.
    """
    one, other = compared.one, compared.other
    drawn = failure_picture(found) if found is not None else None
    if drawn is not None:
        return drawn, Sides("before", "now", "before alone", "now alone", other.name)
    for who in (one, other) if found is None else (other, one):
        if rejection_for(batch, who.dialect) is None:
            return picture(batch, who.dialect, None, None), _alone(who)
    return None, Sides()


def _alone(who: Implementation) -> Sides:
    return Sides(first=who.dialect.name, who="")


def _unexpected(found: Failure) -> Section:
    who = found.subject.implementation
    where = f" at stage {found.stage} ({found.clause})" if found.stage else ""
    return Section(
        heading=f"{who.name} leaves its own dialect{where}",
        lines=[f"Held to {who.dialect.name}, it is {found.verdict.value}: {found.summary}."],
        batch=found.batch.describe(),
        recipe=found.batch.origin,
        values=[value_fields(value) for value in found.values],
        picture=failure_picture(found),
        sides=Sides(who=who.name),
        traceback=found.details or "",
        fails=True,
    )
