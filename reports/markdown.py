"""A run in Markdown: the summary page of a CI job, and the text of an issue about new causes."""

import re
from typing import Any

from tal_reports.analysis.compare import Change, change_sentence
from tal_reports.analysis.headline import headline, predicate_of, with_worth
from tal_reports.analysis.summary import summarise, unsupported_sentence
from tal_reports.log.batches import FAILING, VERDICTS
from tal_reports.log.reader import Log
from tal_reports.text import clock, counted, shortened, visible

MAX_CAUSES, MAX_UNTESTED = 10, 12
"""Maximum numbers of causes and of untested parts that are listed; the report has all of them."""
ALWAYS = ("exact", "within_bound", "divergent", "error")


def job_summary(log: Log, change: Change | None = None) -> str:
    """Return a run's summary in Markdown: result, counts, causes, changes since the last run, and untested parts."""
    summary = summarise(log)
    implementations = summary["implementations"]
    power = summary["power"]
    title = headline(implementations, log.end is not None, power)
    worth = (summary["worth"] or {}).get("words", "")
    table = _table(implementations, bool(power), worth)
    parts = [f"## {_text(title)}", _facts(summary), table, _power(power)]
    if change is not None:
        parts.append(f"**Since run {_code(change.before['run'])}**: {_text(change_sentence(change))}")
    parts += [_unsupported(implementations), _causes(implementations), _untested(summary)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(summary: dict[str, Any]) -> str:
    environment = summary["environment"]
    facts = [
        f"run {_code(summary['run'])}",
        f"profile {_text(str(summary['profile']))}",
        _text(clock(summary["started"])),
    ]
    facts += [
        f"{name} {_text(str(environment[name]))}"
        for name in ("torch", "cuda")
        if isinstance(environment.get(name), str)
    ]
    facts += [f"{_text(device)} {_text(state)}" for device, state in summary["devices"].items()]
    return " · ".join(facts)


def _table(implementations: list[dict[str, Any]], power: bool, worth: str) -> str:
    if not implementations:
        return "" if power else "No implementation was tested."
    columns = [v for v in VERDICTS if v in ALWAYS or any(line["verdicts"][v] for line in implementations)]
    head = [
        "implementation",
        "version",
        "dialect",
        "verdicts",
        *(v.replace("_", " ") for v in columns),
        "result",
    ]
    rows = [head, ["---"] * 3 + ["---:"] * (1 + len(columns)) + ["---"]]
    for line in implementations:
        numbers = [f"{count:,}" for count in (line["batches"], *(line["verdicts"][v] for v in columns))]
        failing = line["result"] in FAILING
        result = (
            f"**{predicate_of(line)}**" if failing else with_worth(predicate_of(line), line, _text(worth))
        )
        words = [_text(str(line[key] or "unknown")) for key in ("name", "version", "dialect")]
        rows.append([*words, *numbers, result])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _power(power: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"Planted faults, profile {_text(profile)}: {counts['killed']:,} of {counts['mutants']:,} found, "
        f"{counts['equivalent']:,} argued to be equivalent, {counts['survived']:,} missed."
        for profile, counts in power.items()
    )


def _unsupported(implementations: list[dict[str, Any]]) -> str:
    """Return a line for each implementation that declares not to support some of the batches."""
    return "\n".join(
        f"- **{_text(line['name'])}** does not support {_text(sentence, 300)}"
        for line in implementations
        if (sentence := unsupported_sentence(line))
    )


def _causes(implementations: list[dict[str, Any]]) -> str:
    lines = []
    for line in implementations:
        for cause in line["first_divergences"]:
            where = f" at **{_text(cause['stage'])}**" if cause["stage"] else ""
            clause = f" ({_text(cause['clause'])})" if cause["clause"] else ""
            case = f", case {_code(cause['case'])}" if cause["case"] else ""
            lines.append(f"- **{_text(line['name'])}**{where}{clause}{case}: {_text(cause['summary'], 300)}")
    if not lines:
        return ""
    more = len(lines) - MAX_CAUSES
    return "\n".join(["### Disagreements", "", *lines[:MAX_CAUSES], *[f"- and {more:,} more"] * (more > 0)])


def _untested(summary: dict[str, Any]) -> str:
    lines = [
        "- "
        + ": ".join(
            _text(part, 300) for part in (line["implementation"], line["device"], line["reason"]) if part
        )
        for line in summary["not_tested"]
    ] + [f"- {_text(problem, 300)}" for problem in summary["problems"]]
    if not lines:
        return ""
    listed_lines = [
        *lines[:MAX_UNTESTED],
        *[f"- and {len(lines) - MAX_UNTESTED:,} more"] * (len(lines) > MAX_UNTESTED),
    ]
    summary_line = f"<details><summary>Not tested, and problems: {len(lines):,}</summary>"
    return "\n".join([summary_line, "", *listed_lines, "", "</details>"])


def issue(change: Change) -> str:
    """Return a GitHub issue about new causes of failure, with its title in the first line; "" without new causes."""
    if not change.new:
        return ""
    names = list(dict.fromkeys(cause["implementation"] for cause in change.new))
    who = ", ".join(names[:3]) + " and others" * (len(names) > 3)
    title = f"{who}: {counted(len(change.new), 'new divergence')}"
    environment = change.after["environment"]
    versions = [
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
        _text(", ".join(map(str, versions))),
        *(_section(cause) for cause in change.new[:MAX_CAUSES]),
    ]
    if len(change.new) > MAX_CAUSES:
        parts.append(f"And {len(change.new) - MAX_CAUSES:,} more in the report.")
    notes = [f"- {_text(note)}" for note in change.notes]
    parts += ["Other differences between the two runs:\n\n" + "\n".join(notes)] if notes else []
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
    """Return a command as an indented code block. Nothing in the text of the command can end the block."""
    return "\n".join(f"    {line}" for line in visible(text).splitlines())


def _code(text: str) -> str:
    """Return text as inline code on one line. Nothing in the text can end the code."""
    plain = " ".join(visible(text).split())
    return f"`{plain.replace('`', chr(0x2019))}`"


def _text(text: str, limit: int = 200) -> str:
    """Return text on one line, escaped so that no part of it becomes markup, a mention or a link."""
    plain = " ".join(visible(shortened(text, limit)).split())
    plain = re.sub(r"[&<>@]|:(?=//)", lambda found: f"&#{ord(found.group())};", plain)
    plain = re.sub(r"(?i)(?<=\bwww)\.|(?<=\bgh)-(?=\d)", lambda found: f"&#{ord(found.group())};", plain)
    return re.sub(r"([\\`*_{}\[\]|~!]|#(?!\d+;))", r"\\\1", plain)
