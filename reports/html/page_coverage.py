"""Coverage: rounding errors by stage, ties, hazards (risky properties of batches), and complete scopes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.html.tables import Table, place_in
from tal_reports.log.batches import UNIQUENESS
from tal_reports.log.reader import Log
from tal_reports.text import real, short, shortened


@dataclass(frozen=True)
class MarginCell:
    """Errors of one implementation at one stage, divided by their bound.

    Attributes:
        p50, p99, largest: positions of two percentiles and the maximum in a bar that ends at 100, the bound.
        text: the largest error divided by the bound, as text.
        median: the median error divided by the bound, as text.
    """

    p50: float
    p99: float
    largest: float
    text: str
    median: str


@dataclass(frozen=True)
class Coverage:
    """Data of the section about what the judged batches exercised.

    Attributes:
        margin_columns: names of the implementations that expose their stages.
        margins: for each stage its name, and a cell for each of these implementations.
        uniqueness: number of batches whose assignment is unique, tied or nearly tied, by implementation.
        hazards: for each hazard its name, its meaning, and the number of different batches that have the hazard.
        different: number of different batches in the run.
        scopes: sets of images that were judged completely.
    """

    margin_columns: list[str]
    margins: list[tuple[str, list[MarginCell | None]]]
    uniqueness: Table
    hazards: list[tuple[str, str, int]]
    different: int
    scopes: Table


def coverage_of(log: Log, summary: dict[str, Any]) -> Coverage:
    """Return the data of the section about what the batches of a run exercised.

    Args:
        log: the log of the run.
        summary: the result of `summarise`.
    """
    measured = [line for line in summary["implementations"] if line["margins"]]
    meanings = log.run.get("hazards", {})
    return Coverage(
        margin_columns=[line["name"] for line in measured],
        margins=_margins(measured, log.stages),
        uniqueness=_uniqueness(summary["implementations"]),
        hazards=[(name, meanings.get(name, ""), count) for name, count in summary["hazards"].items()],
        different=log.batches.different,
        scopes=_scopes(summary["scopes"]),
    )


def _margins(
    implementations: list[dict[str, Any]], order: Sequence[str]
) -> list[tuple[str, list[MarginCell | None]]]:
    stages = dict.fromkeys(stage for line in implementations for stage in line["margins"])
    return [
        (stage, [_margin(line["margins"].get(stage)) for line in implementations])
        for stage in sorted(stages, key=place_in(order))
    ]


def _margin(margins: dict[str, Any] | None) -> MarginCell | None:
    if margins is None:
        return None
    shares = {name: real(margins[name]) or 0.0 for name in ("p50", "p99", "largest")}
    positions = {name: 100 * min(share, 1.0) for name, share in shares.items()}
    median = f"median {short(shares['p50'], 2)}" if shares["largest"] else ""
    return MarginCell(**positions, text=short(shares["largest"], 2), median=median)


def _uniqueness(implementations: list[dict[str, Any]]) -> Table:
    rows = []
    for line in implementations:
        total = sum(line["uniqueness"].values())
        if total:
            counts = [*(line["uniqueness"][kind] for kind in UNIQUENESS), line.get("undecided", 0)]
            rows.append([line["name"], *(f"{n:,} ({100 * n / total:.3g} %)" if n else "0" for n in counts)])
    return Table(["implementation", "unique", "tie", "near tie", "inconclusive"], rows)


def _scopes(lines: Iterable[dict[str, Any]]) -> Table:
    counts = ("images", "tie", "near_tie", "alone")
    rows = [
        [
            line["implementation"],
            line["device"] or "",
            line["scope"],
            shortened(line["description"], 300),
            "all conform" if line["conforms"] else "not all conform",
            *("" if line[name] is None else f"{line[name]:,}" for name in counts),
        ]
        for line in lines
    ]
    columns = ["implementation", "device", "scope", "content", "result"]
    return Table([*columns, "images", "tie", "near tie", "judged alone"], rows, numeric=5)
