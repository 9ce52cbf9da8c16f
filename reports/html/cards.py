"""Cards: one cause of disagreement, or one declared difference, each on its smallest batch."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tal_reports.analysis.causes import Cause
from tal_reports.html.drawing import UNLIMITED, Drawing
from tal_reports.html.pictures import draw
from tal_reports.text import counted, listed, real, short, shortened

MAX_VALUES, MAX_OTHERS, MAX_CASES = 12, 10, 40
"""Rows of a card's table of values, other batches that it names, and cases that it is found by."""
MIN_PICTURE_BUDGET = 1500
"""Characters of markup below which a picture is left out; it stays in the log."""
MAX_NAME_LENGTH, MAX_SUMMARY_LENGTH, MAX_TEXT_LENGTH, MAX_TRACEBACK_LENGTH = 200, 600, 4_000, 12_000
"""Characters that are shown; what is longer loses its middle."""
REPEAT = {"pytest": "pytest", "python": "Python", "example": "Hypothesis"}
"""The ways to repeat a case, as the log and as the reader names them."""


@dataclass(frozen=True)
class Card:
    """One cause of disagreement (or one declared difference), on its smallest batch."""

    id: str
    verdict: str
    implementation: str
    stage: str
    clause: str
    summary: str
    batches: str
    case: str
    case_file: str | None
    description: str
    facts: list[tuple[str, str]]
    strip: list[dict[str, str]]
    values: list[dict[str, str]]
    more_values: int
    drawing: Drawing | None
    undrawn: bool
    repeats: list[tuple[str, str]]
    others: list[str]
    more_others: int
    traceback: str | None
    tokens: str
    is_open: bool
    is_new: bool


def card_of(
    folder: Path, cause: Cause, is_open: bool, characters: int = UNLIMITED, is_new: bool = False
) -> Card:
    """The card of a cause.

    Args:
        folder: where the report and the case files lie.
        cause: what went wrong.
        is_open: the card is open when the page is.
        characters: how much markup its picture may be, about.
        is_new: the last run did not have it.
    """
    line = cause.example
    values = [value_of(value) for value in line.get("values") or ()]
    others = [_other(other) for other in cause.lines[1:]]
    traceback = line.get("traceback") or ""
    failed = f"on {counted(cause.batches, 'batch')}" if cause.batches else ""
    return Card(
        id=f"{'difference' if cause.verdict == 'declared' else 'cause'}-{cause.id}",
        verdict=cause.verdict,
        implementation=shortened(line["implementation"], MAX_NAME_LENGTH),
        stage=shortened(line.get("stage") or "", MAX_NAME_LENGTH),
        clause=shortened(line.get("clause") or "", MAX_NAME_LENGTH),
        summary=shortened(line["summary"], MAX_SUMMARY_LENGTH),
        batches=failed,
        case=shortened(line.get("case") or "", MAX_NAME_LENGTH),
        case_file=_case_file(folder, line.get("case")),
        description=shortened(line.get("description") or "", MAX_TEXT_LENGTH),
        facts=_card_facts(cause),
        strip=_strip(line),
        values=values[:MAX_VALUES],
        more_values=len(values) - MAX_VALUES,
        drawing=draw(line["picture"], characters)
        if line.get("picture") and characters >= MIN_PICTURE_BUDGET
        else None,
        undrawn=bool(line.get("picture")) and characters < MIN_PICTURE_BUDGET,
        repeats=_repeats(line),
        others=others[:MAX_OTHERS],
        more_others=len(others) - MAX_OTHERS,
        traceback=shortened(traceback.strip("\n"), MAX_TRACEBACK_LENGTH) or None,
        tokens=_tokens(cause),
        is_open=is_open,
        is_new=is_new,
    )


def _card_facts(cause: Cause) -> list[tuple[str, str]]:
    """Where a cause was seen; all of its lines together."""
    facts = {name: cause.every(name) for name in ("test", "device", "dtype")}
    facts["hazards"] = _hazards(cause)
    if cause.verdict == "declared":
        facts["compared with"] = [cause.example["against"]]
    return [(name, shortened(listed(values), MAX_SUMMARY_LENGTH)) for name, values in facts.items() if values]


def _hazards(cause: Cause) -> list[str]:
    return sorted({hazard for line in cause.lines for hazard in line.get("hazards", ())})


def _strip(line: dict[str, Any]) -> list[dict[str, str]]:
    """Every stage with its state and margin; the first that diverges is marked."""
    stages = line.get("stages") or []
    if all(stage["state"] == "not shown" for stage in stages):
        return []
    first = next((at for at, stage in enumerate(stages) if stage["state"] == "diverges"), None)
    return [
        {
            "stage": shortened(stage["stage"], MAX_NAME_LENGTH),
            "clause": shortened(stage.get("clause") or "", MAX_NAME_LENGTH),
            "state": stage["state"],
            "key": stage["state"].replace(" ", "-"),
            "margin": _margin(stage),
            "first": "first" if at == first else "",
        }
        for at, stage in enumerate(stages)
    ]


def _margin(stage: dict[str, Any]) -> str:
    margin = real(stage.get("margin"))
    if margin is None or (stage["state"] == "diverges" and margin <= 1):  # it diverges in something else
        return ""
    return short(margin, 2)


def value_of(value: dict[str, Any]) -> dict[str, str]:
    """A row of a table of values, from what the log says of it."""
    shown = {
        name: shortened(value[name], 200) for name in ("where", "quantity", "reference", "implementation")
    }
    margin = real(value.get("margin"))
    margin = _error_over_bound(value) if margin is None else margin
    return shown | {
        "theirs": "" if value["reference"] == value["implementation"] else "theirs",
        "bound": shortened(value.get("bound") or "–", 200),
        "margin": "" if margin is None else f"{short(margin)} × the bound",
    }


def _error_over_bound(value: dict[str, Any]) -> float | None:
    """The error as a share of the bound, where all three are numbers."""
    try:
        reference, other, bound = (float(value[key]) for key in ("reference", "implementation", "bound"))
    except (KeyError, TypeError, ValueError):
        return None
    share = abs(other - reference) / bound if bound > 0 else math.nan
    return None if math.isnan(share) else share


def _repeats(line: dict[str, Any]) -> list[tuple[str, str]]:
    commands = line.get("reproduce") or {}
    told = [(name, commands.get(key) or "") for key, name in REPEAT.items()]
    return [
        (name, command) for name, command in told if 0 < len(command) <= MAX_TEXT_LENGTH
    ]  # part of one is none


def _case_file(folder: Path, case: str | None) -> str | None:
    """The case file beside the report, if it is there; a name with a path in it is none."""
    if not re.fullmatch("[0-9A-Za-z]{1,64}", case or ""):
        return None
    path = f"cases/{case}.safetensors"
    return path if (folder / path).is_file() else None


def _other(line: dict[str, Any]) -> str:
    seen = [
        line.get("test"),
        line.get("device"),
        line.get("dtype"),
        line.get("case") and f"case {line['case']}",
    ]
    where = ", ".join(text for text in seen if text)
    return shortened(f"{where}: {line.get('description') or line['summary']}", 400)


def _tokens(cause: Cause) -> str:
    """What a card is found by: a line for each token, its name and its values with tabs between."""
    tokens = {
        "impl": cause.every("implementation"),
        "clause": cause.every("clause") + cause.every("clause_group"),
        "verdict": [cause.verdict],
        "stage": cause.every("stage"),
        "hazard": _hazards(cause),
        "case": cause.every("case")[:MAX_CASES],
        "device": cause.every("device"),
        "dtype": cause.every("dtype"),
        "test": cause.every("test"),
    }
    return "\n".join(
        "\t".join([key, *(_token(value) for value in values if value)]) for key, values in tokens.items()
    )


def _token(value: str) -> str:
    return re.sub(r"[\t\n]", " ", _short(value))


def filter_link(**tokens: str) -> str:
    """The fragment that shows only the cards which have all of these tokens (see script.js)."""
    values = {key: _short(value) for key, value in tokens.items()}
    words = [f"{key}:{_quoted(value) if _needs_quotes(value) else value}" for key, value in values.items()]
    return "#filter=" + quote(" ".join(words), safe=":", errors="replace")


def _short(name: str) -> str:
    return shortened(name, MAX_NAME_LENGTH)


def _needs_quotes(value: str) -> bool:
    return not value or any(character.isspace() or character in '"\\' for character in value)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
