"""Planted faults: counts by profile, and for each fault the stage and the batch that found it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.analysis.history import Entry
from tal_reports.analysis.trend import Trend, power_trend_of
from tal_reports.html.cards import MAX_NAME_LENGTH
from tal_reports.html.tables import Table
from tal_reports.text import short, shortened

MAX_UNFOLDED = 100
"""Up to this many planted faults are all visible; if there are more, those that were found are collapsed."""
RESULTS = ("survived", "elsewhere", "equivalent", "killed")
"""Results of planted faults, in the order of the table."""


@dataclass(frozen=True)
class Mutation:
    """Data of the section about planted faults.

    Attributes:
        counts: number of faults by profile and result.
        faults: table of the visible faults; faults that were not found come first.
        folded: table of the faults that are not in `faults`; the page shows it collapsed at first.
        trend: counts over the last runs; None for fewer than two runs.
    """

    counts: Table
    faults: Table
    folded: Table
    trend: Trend | None


def mutation_of(
    lines: Iterable[dict[str, Any]], counts: dict[str, dict[str, Any]], entries: Sequence[Entry]
) -> Mutation:
    """Return the data of the section about planted faults.

    Args:
        lines: the `power` lines of the log.
        counts: number of faults by profile and result, from the summary.
        entries: entries of the history with planted faults, the oldest first.
    """
    return Mutation(_counts(counts), *_faults(list(lines)), power_trend_of(entries))


def _counts(power: dict[str, dict[str, Any]]) -> Table:
    keys = ("mutants", "killed", "equivalent", "survived")
    rows = [
        [
            shortened(profile, MAX_NAME_LENGTH),
            *(f"{counts[key]:,}" for key in keys),
            short(counts["median_batches_to_kill"]) if counts["median_batches_to_kill"] is not None else "–",
        ]
        for profile, counts in power.items()
    ]
    return Table(
        ["profile", "planted", "found", "equivalent", "not found", "median batches to find one"], rows
    )


def _faults(lines: list[dict[str, Any]]) -> tuple[Table, Table]:
    """Return two tables of faults: the visible table and the collapsed table."""
    missed = sum(line["result"] != "killed" for line in lines)
    visible = len(lines) if len(lines) <= MAX_UNFOLDED else min(max(missed, 1), MAX_UNFOLDED)
    rows = [
        [
            shortened(line["fault"].replace("_", " "), 100),
            shortened(line["profile"], 60),
            ", ".join(line["clauses"]),
            line["mode"],
            f"{line['result']}: {shortened(line['argument'], 200)}" if line["argument"] else line["result"],
            line["stage"] or "–",
            ", ".join(line["expected"]) or "any",
            line["test"],
            "–" if line["batches"] is None else f"{line['batches']:,}",
        ]
        for line in sorted(lines, key=lambda line: RESULTS.index(line["result"]))
    ]
    columns = ["fault", "profile", "clauses", "visible", "result"]
    columns += ["found at", "expected at", "test", "batches"]
    return Table(columns, rows[:visible], numeric=8), Table(columns, rows[visible:], numeric=8)
