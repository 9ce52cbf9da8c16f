"""A run in Markdown: for the page of a CI job, and for an issue about what is new."""

import re
from typing import Any

from tal_reports.analysis.compare import Change, said
from tal_reports.analysis.headline import RESULTS, headline
from tal_reports.analysis.summary import summarise
from tal_reports.log.batches import FAILING, VERDICTS
from tal_reports.log.reader import Log
from tal_reports.text import clock, counted, shortened, visible

MAX_CAUSES, MAX_ABSENCES = 10, 12
"""Causes and reasons of what was not tested that are told; the report has all of them."""
ALWAYS = ("exact", "within_bound", "divergent", "error")


def job_summary(log: Log, change: Change | None = None) -> str:
    """What the page of a CI job says of a run: who, counts, causes, what changed, what was not tested."""
    summary = summarise(log)
    ones = summary["implementations"]
    power = summary["power"]
    said_first = headline(ones, log.end is not None, power)
    parts = [f"## {_text(said_first)}", _facts(summary), _table(ones, bool(power)), _power(power)]
    if change is not None:
        parts.append(f"**Since run {_code(change.before['run'])}**: {_text(said(change))}")
    parts += [_causes(ones), _absences(summary)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(summary: dict[str, Any]) -> str:
    environment = summary["environment"]
    told = [
        f"run {_code(summary['run'])}",
        f"profile {_text(str(summary['profile']))}",
        _text(clock(summary["started"])),
    ]
    told += [
        f"{name} {_text(str(environment[name]))}"
        for name in ("torch", "cuda")
        if isinstance(environment.get(name), str)
    ]
    told += [f"{_text(device)} {_text(state)}" for device, state in summary["devices"].items()]
    return " · ".join(told)


def _table(ones: list[dict[str, Any]], power: bool) -> str:
    if not ones:
        return "" if power else "No implementation was named."
    columns = [v for v in VERDICTS if v in ALWAYS or any(one["verdicts"][v] for one in ones)]
    head = [
        "implementation",
        "version",
        "held to",
        "verdicts",
        *(v.replace("_", " ") for v in columns),
        "result",
    ]
    rows = [head, ["---"] * 3 + ["---:"] * (1 + len(columns)) + ["---"]]
    for one in ones:
        numbers = [f"{count:,}" for count in (one["batches"], *(one["verdicts"][v] for v in columns))]
        failing = one["result"] in FAILING
        result = f"**{RESULTS[one['result']]}**" if failing else RESULTS[one["result"]]
        words = [_text(str(one[key] or "unknown")) for key in ("name", "version", "dialect")]
        rows.append([*words, *numbers, result])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _power(power: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"Planted faults, profile {_text(profile)}: {counts['killed']:,} of {counts['mutants']:,} found, "
        f"{counts['equivalent']:,} argued to be equivalent, {counts['survived']:,} not found."
        for profile, counts in power.items()
    )


def _causes(ones: list[dict[str, Any]]) -> str:
    lines = []
    for one in ones:
        for cause in one["first_divergences"]:
            where = f" at **{_text(cause['stage'])}**" if cause["stage"] else ""
            clause = f" ({_text(cause['clause'])})" if cause["clause"] else ""
            case = f", case {_code(cause['case'])}" if cause["case"] else ""
            lines.append(f"- **{_text(one['name'])}**{where}{clause}{case}: {_text(cause['summary'], 300)}")
    if not lines:
        return ""
    more = len(lines) - MAX_CAUSES
    return "\n".join(["### Disagreements", "", *lines[:MAX_CAUSES], *[f"- and {more:,} more"] * (more > 0)])


def _absences(summary: dict[str, Any]) -> str:
    lines = [
        "- "
        + ": ".join(
            _text(part, 300) for part in (line["implementation"], line["device"], line["reason"]) if part
        )
        for line in summary["not_tested"]
    ] + [f"- {_text(problem, 300)}" for problem in summary["problems"]]
    if not lines:
        return ""
    shown = [
        *lines[:MAX_ABSENCES],
        *[f"- and {len(lines) - MAX_ABSENCES:,} more"] * (len(lines) > MAX_ABSENCES),
    ]
    told = counted(len(lines), "thing")
    return "\n".join([f"<details><summary>Not tested: {told}</summary>", "", *shown, "", "</details>"])


def issue(change: Change) -> str:
    """The text of an issue about what is new, its title as the first line; nothing if nothing is new."""
    if not change.new:
        return ""
    names = list(dict.fromkeys(cause["implementation"] for cause in change.new))
    who = ", ".join(names[:3]) + " and others" * (len(names) > 3)
    title = f"{who}: {counted(len(change.new), 'new divergence')}"
    environment = change.after["environment"]
    told = [
        f"{name} {environment[name]}"
        for name in ("torch", "ultralytics", "cpu", "cuda", "git")
        if name in environment
    ]
    parts = [
        _text(title, 120),
        (
            f"Found by run {_code(change.after['run'])} of {_text(clock(change.after['started']))}; "
            f"not in run {_code(change.before['run'])} of {_text(clock(change.before['started']))}."
        ),
        _text(", ".join(map(str, told))),
        *(_section(cause) for cause in change.new[:MAX_CAUSES]),
    ]
    if len(change.new) > MAX_CAUSES:
        parts.append(f"And {len(change.new) - MAX_CAUSES:,} more, in the report.")
    notes = [f"- {_text(note)}" for note in change.notes]
    parts += ["Otherwise different between the two runs:\n\n" + "\n".join(notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _section(cause: dict[str, Any]) -> str:
    where = f" at {_text(cause['stage'])}" if cause.get("stage") else ""
    clause = f" ({_text(cause['clause'])})" if cause.get("clause") else ""
    lines = [
        f"### {_text(cause['implementation'])}{where}{clause}",
        "",
        _text(cause.get("summary") or "", 600),
    ]
    if cause.get("description"):
        lines += ["", f"Smallest batch {_code(cause.get('case') or '')}: {_text(cause['description'], 600)}"]
    if cause.get("pytest"):
        lines += ["", _block(cause["pytest"])]
    return "\n".join(lines)


def _block(text: str) -> str:
    """A command as a block of code that nothing in it can end."""
    return "\n".join(f"    {line}" for line in visible(text).splitlines())


def _code(text: str) -> str:
    return f"`{visible(text).replace('`', chr(0x2019))}`"


def _text(text: str, limit: int = 200) -> str:
    """Text in which nothing is markup, a mention or a link, on one line."""
    plain = " ".join(visible(shortened(text, limit)).split())
    plain = re.sub(r"[&<>@]|:(?=//)", lambda found: f"&#{ord(found.group())};", plain)
    return re.sub(r"([\\`*_{}\[\]|~!]|#(?!\d+;))", r"\\\1", plain)
