"""Trends: sparklines of values over the last runs, from the history."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.analysis.history import Entry
from tal_reports.text import real, seconds, short

MAX_RUNS = 40
"""Maximum number of runs in a trend."""
WIDTH, HEIGHT = 120.0, 24.0


@dataclass(frozen=True)
class Sparkline:
    """A line chart of one value over the last runs.

    Attributes:
        path: SVG path in a box of WIDTH x HEIGHT.
        last: x and y of the last point; None if the newest value is missing.
        text: the newest value, formatted.
        range: smallest and largest value, in words.
    """

    path: str
    last: tuple[float, float] | None
    text: str
    range: str


@dataclass(frozen=True)
class TrendRow:
    """The sparklines of one implementation or profile."""

    name: str
    lines: list[Sparkline]


@dataclass(frozen=True)
class Trend:
    """A table of sparklines over the last runs, with the newest run on the right."""

    columns: list[str]
    rows: list[TrendRow]
    runs: int
    since: str


def trend_of(entries: Sequence[Entry]) -> Trend | None:
    """Return the trend of comparable history entries, ordered by time; None for fewer than two entries."""
    entries = entries[-MAX_RUNS:]
    if len(entries) < 2:
        return None
    names = [line["name"] for line in entries[-1]["implementations"]]
    rows = [
        TrendRow(name, [_line(entries, name, of, show) for of, show in MEASURES.values()]) for name in names
    ]
    return Trend(list(MEASURES), rows, len(entries), entries[0]["started"])


def power_trend_of(entries: Sequence[Entry]) -> Trend | None:
    """Return the trend of planted faults by profile, for entries ordered by time; None for fewer than two."""
    entries = entries[-MAX_RUNS:]
    if len(entries) < 2:
        return None
    profiles = dict.fromkeys(profile for entry in reversed(entries) for profile in entry["power"])
    rows = [
        TrendRow(
            profile,
            [
                sparkline([of(_counts(entry, profile)) for entry in entries], show)
                for of, show in POWER.values()
            ],
        )
        for profile in profiles
    ]
    return Trend(list(POWER), rows, len(entries), entries[0]["started"])


def _counts(entry: Entry, profile: str) -> dict[str, float | None]:
    """Return an entry's counts of planted faults for one profile; {} if it has no valid counts."""
    counts = entry["power"].get(profile)
    return {name: real(value) for name, value in counts.items()} if isinstance(counts, dict) else {}


def _found(counts: dict[str, float | None]) -> float | None:
    """Return the share of planted faults that were found, excluding equivalent faults."""
    planted, found = counts.get("mutants"), counts.get("killed")
    detectable = None if planted is None else planted - (counts.get("equivalent") or 0.0)
    return found / detectable if found is not None and detectable else None


def _line(
    entries: Sequence[Entry],
    name: str,
    of: Callable[[Entry, dict[str, Any]], float | None],
    show: Callable[[Any], str],
) -> Sparkline:
    values = []
    for entry in entries:
        line = next((line for line in entry["implementations"] if line["name"] == name), None)
        values.append(None if line is None else of(entry, line))
    return sparkline(values, show)


def sparkline(values: Sequence[float | None], show: Callable[[Any], str] = short) -> Sparkline:
    """Return a sparkline through the values, formatted by `show`; missing or non-finite values leave gaps."""
    known = [value for value in values if value is not None and value - value == 0]
    if not known:
        return Sparkline("", None, "–", "")
    low, high = min(known), max(known)
    step = WIDTH / max(len(values) - 1, 1)
    path, last, pen = "", None, "M"
    for number, value in enumerate(values):
        if value is None or value - value != 0:
            pen = "M"
            continue
        share = (value - low) / (high - low) if high > low else 0.5
        last = (round(number * step, 1), round(HEIGHT - 3 - share * (HEIGHT - 6), 1))
        path += f"{pen}{last[0]:g} {last[1]:g}"
        pen = "L"
    newest = values[-1]
    text = show(newest) if newest is not None else "–"
    return Sparkline(path, last, text, f"{show(low)} to {show(high)}" if high > low else "")


def _causes(entry: Entry, line: dict[str, Any]) -> float:
    return float(sum(cause["implementation"] == line["name"] for cause in entry["causes"]))


def _ties(_: Entry, line: dict[str, Any]) -> float | None:
    counts = {kind: real(count) or 0.0 for kind, count in (line.get("uniqueness") or {}).items()}
    total = sum(counts.values())
    return (counts.get("tie", 0.0) + counts.get("near_tie", 0.0)) / total if total else None


def _percent(value: Any) -> str:
    return f"{100 * value:.3g} %"


Measure = tuple[Callable[[Entry, dict[str, Any]], float | None], Callable[[Any], str]]

MEASURES: dict[str, Measure] = {
    "causes of failure": (_causes, lambda value: f"{value:.0f}"),
    "median error / bound": (lambda _, line: real(line.get("p50")), short),
    "99th percentile": (lambda _, line: real(line.get("p99")), short),
    "ties": (_ties, _percent),
    "verdicts": (lambda _, line: real(line.get("batches")), lambda value: f"{value:,.0f}"),
    "whole run": (lambda entry, _: real(entry.get("seconds")), seconds),
}
"""Columns of an implementation's trend: how to read a value from an entry, and how to format it."""

POWER: dict[str, tuple[Callable[[dict[str, float | None]], float | None], Callable[[Any], str]]] = {
    "found": (_found, _percent),
    "not found": (lambda counts: counts.get("survived"), lambda value: f"{value:,.0f}"),
    "median batches to find one": (lambda counts: counts.get("median_batches_to_kill"), short),
}
"""Columns of the trend of planted faults: how to compute a value from counts, and how to format it."""
