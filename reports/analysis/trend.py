"""How runs went over time: small lines, drawn from the history."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.analysis.history import Entry
from tal_reports.text import real, seconds, short

MAX_RUNS = 40
"""The last runs that are drawn."""
WIDTH, HEIGHT = 120.0, 24.0


@dataclass(frozen=True)
class Sparkline:
    """A number over the last runs.

    Attributes:
        path: of the line, in a box of WIDTH x HEIGHT.
        last: the point at its end.
        text: the newest number.
        range: the smallest and the largest in words.
    """

    path: str
    last: tuple[float, float] | None
    text: str
    range: str


@dataclass(frozen=True)
class TrendRow:
    """One implementation over the last runs."""

    name: str
    lines: list[Sparkline]


@dataclass(frozen=True)
class Trend:
    """Every implementation over the last runs, the newest at the right."""

    columns: list[str]
    rows: list[TrendRow]
    runs: int
    since: str


def trend_of(entries: Sequence[Entry]) -> Trend | None:
    """The trend of comparable runs, the newest last; None where there are fewer than two."""
    entries = entries[-MAX_RUNS:]
    if len(entries) < 2:
        return None
    names = [one["name"] for one in entries[-1]["implementations"]]
    rows = [
        TrendRow(name, [_line(entries, name, of, show) for of, show in MEASURES.values()]) for name in names
    ]
    return Trend(list(MEASURES), rows, len(entries), entries[0]["started"])


def power_trend_of(entries: Sequence[Entry]) -> Trend | None:
    """How planted faults were found by each profile, the newest run last; None where fewer than two runs say."""
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
    """What an entry of the history says of one profile's power; others may have written into the file."""
    said = entry["power"].get(profile)
    return {name: real(value) for name, value in said.items()} if isinstance(said, dict) else {}


def _found(counts: dict[str, float | None]) -> float | None:
    """The share of planted faults that was found, of those that can be seen at all."""
    planted, found = counts.get("mutants"), counts.get("killed")
    seen = None if planted is None else planted - (counts.get("equivalent") or 0.0)
    return found / seen if found is not None and seen else None


def _line(
    entries: Sequence[Entry],
    name: str,
    of: Callable[[Entry, dict[str, Any]], float | None],
    show: Callable[[Any], str],
) -> Sparkline:
    values = []
    for entry in entries:
        one = next((one for one in entry["implementations"] if one["name"] == name), None)
        values.append(None if one is None else of(entry, one))
    return sparkline(values, show)


def sparkline(values: Sequence[float | None], show: Callable[[Any], str] = short) -> Sparkline:
    """A line through the numbers; where one is missing, the line is broken."""
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
    said = show(newest) if newest is not None else "–"
    return Sparkline(path, last, said, f"{show(low)} to {show(high)}" if high > low else "")


def _causes(entry: Entry, one: dict[str, Any]) -> float:
    return float(sum(cause["implementation"] == one["name"] for cause in entry["causes"]))


def _ties(_: Entry, one: dict[str, Any]) -> float | None:
    counts = {kind: real(count) or 0.0 for kind, count in (one.get("uniqueness") or {}).items()}
    total = sum(counts.values())
    return (counts.get("tie", 0.0) + counts.get("near_tie", 0.0)) / total if total else None


def _percent(value: Any) -> str:
    return f"{100 * value:.3g} %"


Measure = tuple[Callable[[Entry, dict[str, Any]], float | None], Callable[[Any], str]]

MEASURES: dict[str, Measure] = {
    "causes of failure": (_causes, lambda value: f"{value:.0f}"),
    "median error / bound": (lambda _, one: real(one.get("p50")), short),
    "99th percentile": (lambda _, one: real(one.get("p99")), short),
    "ties": (_ties, _percent),
    "verdicts": (lambda _, one: real(one.get("batches")), lambda value: f"{value:,.0f}"),
    "whole run": (lambda entry, _: real(entry.get("seconds")), seconds),
}
"""What is drawn of each implementation: how it is read, and how it is written."""

POWER: dict[str, tuple[Callable[[dict[str, float | None]], float | None], Callable[[Any], str]]] = {
    "found": (_found, _percent),
    "not found": (lambda counts: counts.get("survived"), lambda value: f"{value:,.0f}"),
    "median batches to find one": (lambda counts: counts.get("median_batches_to_kill"), short),
}
"""What is drawn of each profile's planted faults."""
