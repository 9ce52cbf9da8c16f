"""Cards of the report: each describes one cause of failure, or one declared difference, on one batch."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from tal_reports.analysis.causes import Cause, share_of_bound
from tal_reports.html.drawing import UNLIMITED, Drawing
from tal_reports.html.pictures import draw
from tal_reports.text import counted, listed, real, short, shortened

MAX_VALUES, MAX_OTHERS, MAX_CASES = 12, 10, 40
"""Limits of a card: rows of its table of values, other batches that it lists, and case ids that find it."""
MIN_PICTURE_BUDGET = 1500
"""If fewer characters of HTML are left for a picture, its card has none; the picture stays in the log."""
MAX_NAME_LENGTH, MAX_SUMMARY_LENGTH, MAX_TEXT_LENGTH, MAX_TRACEBACK_LENGTH = 200, 600, 4_000, 12_000
"""Maximum numbers of characters of texts on a card; longer texts lose their middle."""
DOCS = "TAL_CONFORMANCE_DOCS"
"""Environment variable with the base URL of the documentation site, for links from clauses to the specification."""
LOCAL_PAGE = Path(__file__).resolve().parents[2] / "site" / "specification" / "index.html"
"""The specification on the documentation site that `make docs` builds in this repository."""
REPRODUCE = {"pytest": "pytest", "python": "Python", "example": "Hypothesis"}
"""Ways to reproduce a case: key in the log, and heading on the card."""


HIDDEN = {
    "separate": "The loss hides its assignment: the stages before the loss and the picture show a separate call of "
    "assign(inputs), which the loss need not have used. Return the assignment that it used as Loss.assignment.",
    "hidden": "The loss hides its assignment: the stages before the loss are inferred from its gradients or not "
    "judged, and the picture shows the reference alone. Return the assignment that it used as Loss.assignment.",
}
"""Notes on the strip and picture of a loss that does not show its assignment, by the source of the shown one."""


@dataclass(frozen=True)
class Card:
    """One cause of failure, or one declared difference, with the values of its smallest batch."""

    id: str
    verdict: str
    implementation: str
    stage: str
    clause: str
    clause_title: str
    clause_link: str
    choice: str
    summary: str
    batches: str
    case: str
    case_file: str | None
    description: str
    facts: list[tuple[str, str]]
    strip: list[dict[str, str]]
    note: str
    values: list[dict[str, str]]
    more_values: int
    drawing: Drawing | None
    undrawn: bool
    repeats: list[tuple[str, str]]
    follows: list[str]
    more_follows: int
    others: list[str]
    more_others: int
    traceback: str | None
    tokens: str
    is_open: bool
    is_new: bool


def card_of(
    folder: Path,
    cause: Cause,
    is_open: bool,
    characters: int = UNLIMITED,
    is_new: bool = False,
    titles: Mapping[str, str] = MappingProxyType({}),
) -> Card:
    """Return the card that describes a cause of failure on its smallest batch.

    Args:
        folder: folder of the report and the case files.
        cause: the failures to describe.
        is_open: True if the card is open at first.
        characters: approximate limit of the picture's HTML, in characters.
        is_new: True if the previous run did not have the cause.
        titles: title of each clause by clause id, as in the log's `run` line.
    """
    line = cause.example
    values = [value_of(value) for value in line.get("values") or ()]
    follows = [_follower(part) for part in cause.follows]
    following = [line for part in cause.follows for line in part.lines]
    others = [_other(other) for other in cause.lines[1:] if other not in following]
    traceback = line.get("traceback") or ""
    failed = f"on {counted(cause.batches, 'batch')}" if cause.batches else ""
    return Card(
        id=f"{'difference' if cause.verdict == 'declared' else 'cause'}-{cause.id}",
        verdict=cause.verdict,
        implementation=shortened(line["implementation"], MAX_NAME_LENGTH),
        stage=shortened(line.get("stage") or "", MAX_NAME_LENGTH),
        clause=shortened(line.get("clause") or "", MAX_NAME_LENGTH),
        clause_title=shortened(titles.get(line.get("clause") or "", ""), MAX_SUMMARY_LENGTH),
        clause_link=specification_link(line.get("clause") or "", folder),
        choice=shortened(cause.choice, MAX_SUMMARY_LENGTH),
        summary=shortened(line["summary"], MAX_SUMMARY_LENGTH),
        batches=failed,
        case=shortened(line.get("case") or "", MAX_NAME_LENGTH),
        case_file=_case_file(folder, line.get("case")),
        description=shortened(line.get("description") or "", MAX_TEXT_LENGTH),
        facts=_card_facts(cause),
        strip=_strip(line),
        note=HIDDEN.get(str(line.get("assignment")), ""),
        values=values[:MAX_VALUES],
        more_values=len(values) - MAX_VALUES,
        drawing=draw(line["picture"], characters)
        if line.get("picture") and characters >= MIN_PICTURE_BUDGET
        else None,
        undrawn=bool(line.get("picture")) and characters < MIN_PICTURE_BUDGET,
        repeats=_repeats(line),
        follows=follows[:MAX_OTHERS],
        more_follows=len(follows) - MAX_OTHERS,
        others=others[:MAX_OTHERS],
        more_others=len(others) - MAX_OTHERS,
        traceback=shortened(traceback.strip("\n"), MAX_TRACEBACK_LENGTH) or None,
        tokens=_tokens(cause),
        is_open=is_open,
        is_new=is_new,
    )


def specification_link(clause: str, folder: Path) -> str:
    """Return the URL of a clause in the specification; "" if no documentation site is known.

    The site's address is the value of the environment variable that `DOCS` names. Without this variable, it is the
    relative path of the site that `make docs` built in this repository.

    Args:
        clause: id of the clause.
        folder: folder of the report.
    """
    if not re.fullmatch(r"[A-Z0-9-]+", clause):
        return ""
    base = os.environ.get(DOCS, "").rstrip("/")
    if base:
        return f"{base}/specification/#{clause}" if base.startswith(("https://", "http://")) else ""
    if not LOCAL_PAGE.is_file():
        return ""
    return quote(Path(os.path.relpath(LOCAL_PAGE, folder.resolve())).as_posix()) + f"#{clause}"


def _card_facts(cause: Cause) -> list[tuple[str, str]]:
    """Return tests, devices, dtypes and hazards of a cause, as pairs of name and text."""
    facts = {name: cause.every(name) for name in ("test", "device", "dtype")}
    facts["hazards"] = _hazards(cause)
    if cause.verdict == "declared":
        facts["compared with"] = [cause.example["against"]]
    return [(name, shortened(listed(values), MAX_SUMMARY_LENGTH)) for name, values in facts.items() if values]


def _hazards(cause: Cause) -> list[str]:
    return sorted({hazard for line in cause.lines for hazard in line.get("hazards", ())})


def _strip(line: dict[str, Any]) -> list[dict[str, str]]:
    """Return every stage with its verdict and its error divided by the bound, for the row of stages on a card."""
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
    if margin is None or (
        stage["state"] == "diverges" and margin <= 1
    ):  # the stage diverges in another quantity
        return ""
    return short(margin, 2)


def value_of(value: dict[str, Any]) -> dict[str, str]:
    """Return the cells of a differing value's row in a table, as texts."""
    texts = {
        name: shortened(value[name], 200) for name in ("where", "quantity", "reference", "implementation")
    }
    margin = real(value.get("margin"))
    margin = share_of_bound(value) if margin is None else margin
    return texts | {
        "theirs": "" if value["reference"] == value["implementation"] else "theirs",
        "bound": shortened(value.get("bound") or "–", 200),
        "margin": "" if margin is None else f"{short(margin)} × the bound",
    }


def _repeats(line: dict[str, Any]) -> list[tuple[str, str]]:
    commands = line.get("reproduce") or {}
    texts = [(name, commands.get(key) or "") for key, name in REPRODUCE.items()]
    return [(name, text) for name, text in texts if 0 < len(text) <= MAX_TEXT_LENGTH]


def _case_file(folder: Path, case: str | None) -> str | None:
    """Return the relative path of the case file, if it exists. A case id with a path in it is ignored."""
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


def _follower(cause: Cause) -> str:
    """Return one line about a cause that follows from another: stage, clause, number of tests and summary."""
    line = cause.example
    clause = f" ({line['clause']})" if line.get("clause") else ""
    tests = counted(len(cause.lines), "test")
    return shortened(f"{line.get('stage') or 'before any stage'}{clause}, {tests}: {line['summary']}", 400)


def _tokens(cause: Cause) -> str:
    """Return the text that the page's filter matches: for each field a line of name and values, separated by tabs."""
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
    """Return the URL fragment that filters the cards by fields and values, such as `stage=metric`."""
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
