"""Benchmarks, and the number of times that the CPU waits for the device."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.analysis.compare import timing_key
from tal_reports.analysis.history import Entry
from tal_reports.html.tables import Table
from tal_reports.log.reader import Log
from tal_reports.text import real, seconds, short, shortened, size


@dataclass(frozen=True)
class Bar:
    """A time ratio and its confidence interval, as positions from 0 to 100 on a logarithmic scale.

    Attributes:
        low, at, high: positions of the interval's lower end, the ratio, and the interval's upper end.
        one: position of the ratio 1.
    """

    low: float
    at: float
    high: float
    one: float


@dataclass(frozen=True)
class Benchmark:
    """One row of the table of benchmarks.

    Attributes:
        cells: texts of the cells.
        bar: the ratio as a bar; None if the ratio is unknown.
        better: True if clearly faster than the official implementation, False if clearly slower, else None.
        before: the ratio in the last run on a comparable machine, as text.
    """

    cells: list[str]
    bar: Bar | None
    better: bool | None
    before: str


@dataclass(frozen=True)
class Benchmarks:
    """Data of the section about benchmarks: times, synchronisations and transfers.

    Attributes:
        groups: pairs of the name of a workload and its rows.
        synchronisations: numbers of synchronisations and transfers by implementation.
        waiting: the lines of code that cause most synchronisations and transfers.
    """

    groups: list[tuple[str, list[Benchmark]]]
    synchronisations: Table
    waiting: Table


def benchmarks_of(log: Log, entries: Sequence[Entry]) -> Benchmarks:
    """Return the data of the section about benchmarks.

    Args:
        log: the log of the run.
        entries: comparable entries of the history, the run itself last.
    """
    return Benchmarks(
        _groups(log.benchmarks, _earlier_ratios(entries)),
        _synchronisations(log.synchronisations),
        _waiting(log.synchronisations),
    )


def _earlier_ratios(entries: Sequence[Entry]) -> dict[tuple[Any, ...], str]:
    """Return the texts of the ratios in the last run with comparable times, by key of the benchmark."""
    for entry in reversed(entries[:-1]):
        if entry["fingerprint"] == entries[-1]["fingerprint"] and entry["benchmarks"]:
            return {
                timing_key(line): f"{short(line.get('ratio_to_official'))}×" for line in entry["benchmarks"]
            }
    return {}


def _groups(
    lines: Iterable[dict[str, Any]], earlier: dict[tuple[Any, ...], str]
) -> list[tuple[str, list[Benchmark]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line.get("group") or line["name"], []).append(line)
    ratios = [ratio for group in groups.values() for line in group for ratio in _ratios(line)]
    scale = (math.log(min([*ratios, 0.5])), math.log(max([*ratios, 2.0])))
    return [
        (group, [_benchmark(line, group, scale, earlier) for line in members])
        for group, members in groups.items()
    ]


def _ratios(line: dict[str, Any]) -> list[float]:
    values = [real(line.get(name)) for name in ("ratio_low", "ratio_to_official", "ratio_high")]
    return [value for value in values if value is not None and 1e-6 < value < 1e6]


def _benchmark(
    line: dict[str, Any], group: str, scale: tuple[float, float], earlier: dict[tuple[Any, ...], str]
) -> Benchmark:
    ratios = _ratios(line)
    ratio = real(line.get("ratio_to_official"))
    interval = f" ({short(line['ratio_low'])}–{short(line['ratio_high'])})" if len(ratios) == 3 else ""
    cells = [
        line["implementation"],
        "" if line["name"] == group else line["name"],
        line.get("device") or "",
        seconds(line.get("seconds")),
        size(line["peak_bytes"]) if line.get("peak_bytes") is not None else "",
        "" if line.get("rounds") is None else f"{line['rounds']:,}",
        "–" if ratio is None else f"{short(ratio)}×{interval}",
    ]
    clear = len(ratios) == 3 and (max(ratios) < 1 or min(ratios) > 1)
    better = max(ratios) < 1 if clear else None
    return Benchmark(cells, _bar(ratios, scale), better, earlier.get(timing_key(line), ""))


def _bar(ratios: list[float], scale: tuple[float, float]) -> Bar | None:
    if not ratios:
        return None

    def position(value: float) -> float:
        return round(100 * (math.log(value) - scale[0]) / (scale[1] - scale[0]), 1)

    return Bar(
        position(min(ratios)), position(ratios[len(ratios) // 2]), position(max(ratios)), position(1.0)
    )


def _synchronisations(lines: Iterable[dict[str, Any]]) -> Table:
    rows = []
    for line in lines:
        counts = [line[name] / max(line["batches"], 1) for name in ("synchronisations", "transfers")]
        rows.append(
            [line["implementation"], line["device"], f"{line['batches']:,}", *(f"{n:.1f}" for n in counts)]
        )
    columns = ["implementation", "device", "batches", "synchronisations per batch", "transfers per batch"]
    return Table(columns, rows, numeric=2)


def _waiting(lines: Iterable[dict[str, Any]]) -> Table:
    rows = [
        [
            line["implementation"],
            place["kind"],
            place["operation"],
            shortened(place["where"], 200),
            f"{place['count']:,}",
        ]
        for line in lines
        for place in line.get("places", [])
    ]
    return Table(["implementation", "kind", "operation", "line of code", "count"], rows, numeric=4)
