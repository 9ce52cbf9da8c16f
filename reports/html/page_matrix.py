"""The matrix of verdicts by implementation and clause group, for all batches and by device and dtype."""

from collections import Counter
from dataclasses import dataclass

from tal_reports.analysis.causes import Cause
from tal_reports.html.cards import filter_link
from tal_reports.html.tables import Table, place_in, word
from tal_reports.log.batches import FAILING, VERDICTS
from tal_reports.log.reader import Log
from tal_reports.text import counted

CLAUSE_GROUPS = (
    *("PRE", "ANC", "DEC", "ANN", "IOU"),
    *("TAL-CAND", "TAL-MET", "TAL-TOPK", "TAL-CONF", "TAL-NORM", "TAL-TGT"),
)
"""Order of the rows if the log does not name its clauses. Other groups follow in the order of their first batch."""
MAX_PLACES = 24
"""Maximum number of matrices for a single device and dtype."""

Place = tuple[str, str]
"""Device and dtype."""


@dataclass(frozen=True)
class Cell:
    """The verdicts of one implementation on one clause group.

    Attributes:
        verdict: the worst verdict; None if nothing was tested.
        text: the count of batches, or of failing batches by verdict.
        detail: second line of text in the cell.
        link: URL fragment that filters the cards; None without failures.
        fails: True if a batch failed.
    """

    verdict: str | None
    text: str
    detail: str = ""
    link: str | None = None
    fails: bool = False


Rows = list[tuple[str, str, list[Cell]]]
"""Clause group, its title, and a cell for each implementation."""


@dataclass(frozen=True)
class PlaceMatrix:
    """The matrix of verdicts on one device in one dtype.

    Attributes:
        name: device and dtype.
        caption: number of batches by verdict, in words.
        fails: True if a batch failed on this device in this dtype.
        columns: names of the implementations that were tested on this device in this dtype.
        rows: rows of the table, as in `Matrix`.
    """

    name: str
    caption: str
    fails: bool
    columns: list[str]
    rows: Rows


@dataclass(frozen=True)
class Matrix:
    """Data of the section with verdicts by implementation and clause group.

    Attributes:
        columns: names of the implementations.
        rows: name and cells of each clause group.
        places: counts of verdicts by implementation, device and dtype.
        by_place: a matrix for each pair of device and dtype, if there are several pairs; failing pairs first.
    """

    columns: list[str]
    rows: Rows
    places: Table
    by_place: list[PlaceMatrix]


def matrix_of(log: Log, names: list[str], found: list[Cause]) -> Matrix:
    """Return the matrix of verdicts of a run.

    Args:
        log: the log of the run.
        names: names of the implementations with judged batches.
        found: causes of failure, which cells link to.
    """
    return Matrix(names, _rows(log, names, found), _places(log), _by_place(log, names, found))


def _rows(log: Log, names: list[str], found: list[Cause], place: Place | None = None) -> Rows:
    """Return the table's rows, with verdicts on all batches, or on batches of one pair of device and dtype, `place`."""
    linked = {
        (line["implementation"], line.get("clause_group"))
        for cause in found
        for line in cause.lines
        if place is None or place == (line.get("device"), line.get("dtype"))
    }
    counts: dict[tuple[str, str], Counter[str]] = {}
    for cell, verdicts in log.batches.cells.items():
        if place is None or place == (cell.device, cell.dtype):
            counts.setdefault((cell.implementation, cell.clause_group), Counter()).update(verdicts)
    titles = log.run.get("clauses", {})
    groups = [
        group for group in log.batches.clause_groups() if any((name, group) in counts for name in names)
    ]
    return [
        (
            group,
            titles.get(group, ""),
            [
                _cell(
                    counts.get((name, group)), _link(name, group, place) if (name, group) in linked else None
                )
                for name in names
            ],
        )
        for group in sorted(groups, key=place_in(titles or CLAUSE_GROUPS))
    ]


def _link(name: str, group: str, place: Place | None) -> str:
    where = {} if place is None else {"device": place[0], "dtype": place[1]}
    return filter_link(impl=name, clause=group, **where)


def _cell(verdicts: Counter[str] | None, link: str | None) -> Cell:
    if not verdicts:
        return Cell(None, "not tested")
    worst = max(verdicts, key=VERDICTS.index)
    total = sum(verdicts.values())
    failing = {verdict: verdicts[verdict] for verdict in FAILING if verdicts[verdict]}
    if not failing:
        counts = [f"{verdicts[name]:,} {word(name)}" for name in VERDICTS[1:] if verdicts[name]]
        return Cell(worst, f"{total:,}", ", ".join(counts) or "all exact")
    text = ", ".join(f"{count:,} {word(verdict)}" for verdict, count in failing.items())
    return Cell(worst, text, f"of {total:,}", link, fails=True)


def _by_place(log: Log, names: list[str], found: list[Cause]) -> list[PlaceMatrix]:
    places: dict[Place, Counter[str]] = {}
    for cell, verdicts in log.batches.cells.items():
        places.setdefault((cell.device, cell.dtype), Counter()).update(verdicts)
    if len(places) < 2:
        return []
    matrices = []
    for place, verdicts in list(places.items())[:MAX_PLACES]:
        failing = sum(verdicts[verdict] for verdict in FAILING)
        there = {cell.implementation for cell in log.batches.cells if (cell.device, cell.dtype) == place}
        tested = [name for name in names if name in there]
        failures = f"{failing:,} failing" if failing else "none failing"
        caption = f"{counted(sum(verdicts.values()), 'verdict')}, {failures}"
        rows = _rows(log, tested, found, place)
        matrices.append(PlaceMatrix(", ".join(place), caption, bool(failing), tested, rows))
    return sorted(matrices, key=lambda matrix: not matrix.fails)


def _places(log: Log) -> Table:
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell, verdicts in log.batches.cells.items():
        counts.setdefault((cell.implementation, cell.device, cell.dtype), Counter()).update(verdicts)
    used = [verdict for verdict in VERDICTS if any(verdicts[verdict] for verdicts in counts.values())]
    rows = [[*place, *(f"{verdicts[verdict]:,}" for verdict in used)] for place, verdicts in counts.items()]
    return Table(["implementation", "device", "dtype", *map(word, used)], rows, numeric=3)
