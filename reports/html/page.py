"""What stands on the report's page, in words and numbers; how it looks is the templates' business."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tal_reports.analysis.causes import Cause, causes
from tal_reports.analysis.compare import Change, Timing, compare, said, timing_key
from tal_reports.analysis.history import Entry
from tal_reports.analysis.summary import failures_of
from tal_reports.analysis.trend import Trend, power_trend_of, trend_of
from tal_reports.html.cards import LONGEST_NAME, LONGEST_SUMMARY, Card, card_of, filter_link
from tal_reports.html.walkthrough import Walkthrough, read_walkthrough
from tal_reports.log.batches import FAILING, UNIQUENESS, VERDICTS, Batches
from tal_reports.log.reader import Log
from tal_reports.text import clock, counted, listed, real, seconds, short, shortened, size, visible

CLAUSE_GROUPS = (
    *("PRE", "ANC", "DEC", "ANN", "IOU"),
    *("TAL-CAND", "TAL-MET", "TAL-TOPK", "TAL-CONF", "TAL-NORM", "TAL-TGT"),
)
"""In the specification's order; others follow as they come."""
OPEN_CARDS = 3
"""So many cards are open when the page is; of more, only the first is, and the others show a line each."""
MOST_CARDS = 1000
"""Cards of one section that are shown at all."""
MOST_PLACES = 24
"""Devices and dtypes that have a matrix of their own."""
MOST_LISTED = 20
"""New or fixed causes that the first screen names."""
LETTERS = 1_000_000
"""Characters of markup of all pictures together, about: a report stays below 2 MB."""
RESULTS = {
    "conforms": "conforms",
    "divergent": "diverges",
    "nondeterministic": "is not deterministic",
    "error": "fails",
    "not tested": "was not tested",
}
"""What an implementation's result says of it."""


@dataclass(frozen=True)
class Share:
    """One part of a bar: a verdict, how many, and from where to where it reaches of 100."""

    verdict: str
    count: int
    start: float
    width: float


@dataclass(frozen=True)
class Row:
    """One implementation on the first screen."""

    name: str
    version: str
    dialect: str
    offers: str
    batches: int
    shares: list[Share]
    result: str
    verdict: str
    link: str | None
    why: str


@dataclass(frozen=True)
class MatrixCell:
    """What one implementation came to on one clause group."""

    verdict: str | None
    text: str
    detail: str = ""
    link: str | None = None
    fails: bool = False


Place = tuple[str, str]
"""Device and dtype."""


@dataclass(frozen=True)
class PlaceMatrix:
    """The matrix of one device and dtype, and what it comes to."""

    name: str
    says: str
    fails: bool
    columns: list[str]
    rows: list[tuple[str, str, list[MatrixCell]]]


@dataclass(frozen=True)
class StageTable:
    """How many causes each implementation has at which stage, each with the filter that shows them."""

    columns: list[str]
    rows: list[tuple[str, list[tuple[int, str]]]]


@dataclass(frozen=True)
class MarginCell:
    """Median, 99th percentile and largest error of 100 that the bound is, and two of them in words."""

    p50: float
    p99: float
    largest: float
    text: str
    median: str


MANY = 100
"""Planted faults of which a page shows every one; of more, those that were found are folded away."""


@dataclass(frozen=True)
class Table:
    """A plain table; the columns from `numeric` on hold numbers."""

    columns: list[str]
    rows: list[list[str]]
    numeric: int = 1


@dataclass(frozen=True)
class Bar:
    """A benchmark's ratio and interval on a logarithmic scale of 0 to 100; `one` is where it is 1."""

    low: float
    at: float
    high: float
    one: float


@dataclass(frozen=True)
class Benchmark:
    """One row of the table of benchmarks; `before` is the ratio of the last run on such a machine."""

    cells: list[str]
    bar: Bar | None
    better: bool | None
    before: str


@dataclass(frozen=True)
class Since:
    """What changed since the last run.

    Attributes:
        run, when: the last run.
        said: the change in a sentence.
        lists: new causes with links to their cards, and those that are gone.
        results: implementations whose result changed, in words.
        timings: benchmarks that became faster or slower.
        notes: what else is different.
    """

    run: str
    when: str
    said: str
    lists: list[tuple[str, list[tuple[str, str | None]]]]
    results: list[str]
    timings: list[Timing]
    notes: list[str]


@dataclass
class Page:
    """Everything on the page, from top to bottom."""

    run: str
    headline: str
    tone: str
    facts: list[str]
    devices: list[tuple[str, str, bool]]
    problems: list[str]
    rows: list[Row]
    not_tested: list[tuple[str, str]]
    stages: StageTable | None
    cards: list[Card]
    hidden_cards: int
    unexplained: list[dict[str, Any]]
    matrix_columns: list[str]
    matrix: list[tuple[str, str, list[MatrixCell]]]
    places: Table
    place_matrices: list[PlaceMatrix]
    differences: list[Card]
    uniqueness: Table
    margin_columns: list[str]
    margins: list[tuple[str, list[MarginCell | None]]]
    hazards: list[tuple[str, str, int]]
    different: int
    training: list[dict[str, Any]]
    scopes: Table
    power_counts: Table
    power: Table
    ledger: Table
    findings: list[dict[str, Any]]
    power_folded: Table
    synchronisations: Table
    waiting: Table
    benchmarks: list[tuple[str, list[Benchmark]]]
    environment: list[tuple[str, str]]
    command: str
    since: Since | None = None
    trend: Trend | None = None
    power_trend: Trend | None = None
    walkthrough: Walkthrough | None = None
    sections: list[tuple[str, str]] = field(default_factory=list)


def page_of(
    log: Log, summary: dict[str, Any], entries: Sequence[Entry] = (), powers: Sequence[Entry] = ()
) -> Page:
    """The page of a run.

    Args:
        log: the run's log.
        summary: what `summarise` made of it.
        entries: what the history says of the runs that it is compared with, and of itself at the end.
        powers: what the history says of the runs that planted faults, the oldest first.
    """
    change = compare(entries[-2], entries[-1]) if len(entries) > 1 else None
    new = {cause["id"] for cause in change.new} if change else set()
    found = causes(failures_of(log), log.stages, log.batches)
    declared = causes(log.differences, log.stages)[:MOST_CARDS]
    open_cards = 1 if len(found) > OPEN_CARDS else len(found)
    cards = _cards(log, [*found[:MOST_CARDS], *declared], open_cards, new)
    implementations = summary["implementations"]
    shown, folded = _power(log.power)
    page = Page(
        run=log.run["run"],
        headline=headline(implementations, log.end is not None, summary["power"]),
        tone=_tone(implementations, log.end is not None, summary["power"]),
        facts=_facts(log),
        devices=[(device, state, state == "tested") for device, state in summary["devices"].items()],
        problems=summary["problems"],
        rows=[_row(one, found) for one in implementations],
        not_tested=_not_tested(summary["not_tested"]),
        stages=_stages(found, log.stages),
        cards=cards[: len(found[:MOST_CARDS])],
        hidden_cards=max(len(found) - MOST_CARDS, 0),
        unexplained=_unexplained(log),
        matrix_columns=[one["name"] for one in implementations if one["batches"]],
        matrix=_matrix(log, [one["name"] for one in implementations if one["batches"]], found),
        places=_places(log),
        place_matrices=_place_matrices(
            log, [one["name"] for one in implementations if one["batches"]], found
        ),
        differences=cards[len(found[:MOST_CARDS]) :],
        uniqueness=_uniqueness(implementations),
        margin_columns=[one["name"] for one in implementations if one["margins"]],
        margins=_margins([one for one in implementations if one["margins"]], log.stages),
        hazards=[
            (name, log.run.get("hazards", {}).get(name, ""), n) for name, n in summary["hazards"].items()
        ],
        different=log.batches.different,
        training=[_training(line) for line in summary["training"]],
        scopes=_scopes(summary["scopes"]),
        power_counts=_power_counts(summary["power"]),
        power=shown,
        power_folded=folded,
        ledger=_ledger(log.ledger),
        findings=[_finding(line) for line in log.findings],
        synchronisations=_synchronisations(log.synchronisations),
        waiting=_waiting(log.synchronisations),
        benchmarks=_benchmarks(log.benchmarks, _earlier(entries)),
        environment=[*_flat(summary["environment"]), *_paces(log.batches)],
        command=shlex.join(log.run["command"]),
        since=_since(change) if change else None,
        trend=trend_of(entries),
        power_trend=power_trend_of(powers),
    )
    page.walkthrough, wrong = read_walkthrough(log.folder)
    if wrong:
        page.problems = [*page.problems, visible(shortened(wrong, LONGEST_SUMMARY))]
    page.sections = _sections(page)
    return page


def _cards(log: Log, found: list[Cause], open_cards: int, new: set[str]) -> list[Card]:
    """A card for each cause; they share the room for pictures, and what one leaves is the next ones'."""
    cards, room = [], LETTERS
    for number, cause in enumerate(found):
        share = room // (len(found) - number)
        is_declared = cause.verdict == "declared"
        card = card_of(log.folder, cause, number < open_cards and not is_declared, share, cause.id in new)
        room -= card.drawing.bulk if card.drawing else 0
        cards.append(card)
    return cards


def _since(change: Change) -> Since:
    before = change.before
    lists: list[tuple[str, list[tuple[str, str | None]]]] = [
        ("new", [(_cause(cause), f"#cause-{cause['id']}") for cause in change.new]),
        ("fixed", [(_cause(cause), None) for cause in change.fixed]),
        ("not tested again", [(_cause(cause), None) for cause in change.untested]),
    ]
    return Since(
        before["run"],
        clock(before["started"]),
        said(change),
        [(f"{len(found):,} {name}", _some(found)) for name, found in lists if found],
        [f"{_short(name)}: {was} before, {became} now" for name, was, became in change.results],
        change.timings,
        change.notes,
    )


def _some(found: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    more = len(found) - MOST_LISTED
    return [*found[:MOST_LISTED], *([(f"and {more:,} more", None)] if more > 0 else [])]


def _cause(cause: dict[str, Any]) -> str:
    where = f" at {cause['stage']}" if cause.get("stage") else ""
    return shortened(f"{cause['implementation']}{where}: {cause.get('summary') or ''}", LONGEST_SUMMARY)


def _short(name: str) -> str:
    return shortened(name, 60)


def _earlier(entries: Sequence[Entry]) -> dict[tuple[Any, ...], str]:
    """Ratios of the last run whose times can be compared with this one's, by benchmark."""
    for entry in reversed(entries[:-1]):
        if entry["fingerprint"] == entries[-1]["fingerprint"] and entry["benchmarks"]:
            return {timing_key(one): f"{short(one.get('ratio_to_official'))}×" for one in entry["benchmarks"]}
    return {}


def headline(
    implementations: list[dict[str, Any]], finished: bool, power: dict[str, dict[str, Any]] | None = None
) -> str:
    """The run in one sentence.

    Args:
        implementations: of the summary.
        finished: the run did.
        power: of the summary: planted faults, which a run may hold in place of implementations.
    """
    failing = [one for one in implementations if one["result"] in FAILING]
    tested = [one for one in implementations if one["result"] != "not tested"]
    if not tested:
        return _power_headline(power, finished) if power else "Nothing was tested"
    if failing and (len(failing) > 3 or len(failing) == len(tested) > 1):
        return f"{len(failing)} of {counted(len(tested), 'implementation')} do not conform"
    if failing:
        return listed([f"{_name(one)} {RESULTS[one['result']]}" for one in failing])
    so_far = "" if finished else " so far"
    if len(tested) > 3:
        return f"All {len(tested)} implementations conform{so_far}"
    return f"{listed([_name(one) for one in tested])} {'conforms' if len(tested) == 1 else 'conform'}{so_far}"


def _power_headline(power: dict[str, dict[str, Any]], finished: bool) -> str:
    planted, missed = (sum(counts[name] for counts in power.values()) for name in ("mutants", "survived"))
    so_far = "" if finished else " so far"
    if missed:
        return f"{missed:,} of {counted(planted, 'planted fault')} not found{so_far}"
    equivalent = sum(counts["equivalent"] for counts in power.values())
    argued = f", but for {equivalent:,} argued to be equivalent" if equivalent else ""
    return f"Every planted fault was found{so_far}{argued}"


def _name(implementation: dict[str, Any]) -> str:
    return shortened(implementation["name"], 60)


def _tone(implementations: list[dict[str, Any]], finished: bool, power: dict[str, dict[str, Any]]) -> str:
    results = [one["result"] for one in implementations]
    worst = max((VERDICTS.index(result) for result in results if result in FAILING), default=None)
    if worst is not None:
        return VERDICTS[worst]
    if power and not implementations:
        return "exact" if finished and not any(counts["survived"] for counts in power.values()) else "known"
    return "exact" if finished and "conforms" in results else "known"


def _facts(log: Log) -> list[str]:
    batches, run = log.batches, log.run
    took = "" if log.seconds is None else f" in {seconds(log.seconds)}"
    judged = f"{counted(batches.judged, 'verdict')} on {counted(batches.different, 'batch')}{took}"
    shrunk = sum(batches.shrinking.values())
    facts = [judged, f"{counted(shrunk, 'batch')} more while shrinking"] if shrunk else [judged]
    facts += [f"profile {run['profile']}"] * bool(run["profile"])
    facts += [f"seed {run['seed']}"] * (run["seed"] is not None)
    return [*facts, clock(run["time"])]


def _paces(batches: Batches) -> Iterable[tuple[str, str]]:
    """What judging costs, by implementation."""
    for name, cost in batches.costs.items():
        if cost.per_second is not None and cost.times_the_call is not None:
            pace = f"{cost.per_second:.3g} batches a second and core, {cost.times_the_call:.3g} times its own calls"
            yield f"judging {visible(shortened(name, 60))}", pace


def _row(one: dict[str, Any], found: list[Cause]) -> Row:
    total = sum(one["verdicts"].values())
    shares, start = [], 0.0
    for verdict in VERDICTS:
        count = one["verdicts"][verdict]
        if count:
            # A failure among thousands of batches must be seen: it gets at least a fortieth of the bar.
            width = max(100 * count / total, 2.5 if verdict in FAILING else 0.0)
            shares.append(Share(verdict, count, start, width))
            start += width
    shares = [Share(s.verdict, s.count, s.start * 100 / start, s.width * 100 / start) for s in shares]
    own = [cause.shown for cause in found if cause.shown["implementation"] == one["name"]]
    stage = own[0].get("stage") if own else None
    at = shortened(stage, 60) if stage else ""
    return Row(
        name=one["name"],
        version=one["version"] or "",
        dialect=one["dialect"] or "unknown",
        offers=listed(one["capabilities"]),
        batches=one["batches"],
        shares=shares,
        result=RESULTS[one["result"]],
        verdict=one["result"],
        link=filter_link(impl=one["name"]) if own else None,
        why=f"{counted(len(own), 'cause')}, {'first ' if len(own) > 1 else ''}at {at}"
        if at
        else counted(len(own), "cause"),
    )


def _not_tested(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who or what was not tested, and why; those of one reason, or of the same subjects, together."""
    subjects: dict[str, list[str]] = {}
    for line in lines:
        subject = " on ".join(filter(None, (line["implementation"], line["device"])))
        subjects.setdefault(line["reason"], []).append(subject)
    reasons: dict[str, list[str]] = {}
    for reason, named in subjects.items():
        reasons.setdefault(listed([subject for subject in named if subject]), []).append(reason)
    return [
        (who, shortened(reason, LONGEST_SUMMARY))
        for who, why in reasons.items()
        for reason in (["; ".join(why)] if who else why)
    ]


def _unexplained(log: Log) -> list[dict[str, Any]]:
    """Failing batches for which no smallest one was found: the run was stopped before."""
    told = {(line["implementation"], line.get("clause_group")) for line in log.divergences}
    cases = {line.get("case") for line in log.divergences}
    return [
        {
            "cell": cell,
            "failures": failures,
            "count": sum(log.batches.cells[cell][verdict] for verdict in FAILING),
        }
        for cell, failures in log.batches.failures.items()
        if (cell.implementation, cell.clause_group) not in told and not any(f.case in cases for f in failures)
    ]


def _matrix(
    log: Log, names: list[str], found: list[Cause], place: Place | None = None
) -> list[tuple[str, str, list[MatrixCell]]]:
    """Implementations by clause group: everywhere, or on one device in one dtype."""
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
        (group, titles.get(group, ""), [_matrix_cell(name, group, counts, linked, place) for name in names])
        for group in sorted(groups, key=_in_order(titles or CLAUSE_GROUPS))
    ]


def _place_matrices(log: Log, names: list[str], found: list[Cause]) -> list[PlaceMatrix]:
    """The matrix of every device and dtype, where there are several; those where something fails first."""
    places: dict[Place, Counter[str]] = {}
    for cell, verdicts in log.batches.cells.items():
        places.setdefault((cell.device, cell.dtype), Counter()).update(verdicts)
    if len(places) < 2:
        return []
    tables = []
    for place, verdicts in list(places.items())[:MOST_PLACES]:
        failing = sum(verdicts[verdict] for verdict in FAILING)
        tested = [
            name
            for name in names
            if any((c.device, c.dtype) == place for c in log.batches.cells if c.implementation == name)
        ]
        says = f"{counted(sum(verdicts.values()), 'verdict')}, {f'{failing:,} failing' if failing else 'none failing'}"
        tables.append(
            PlaceMatrix(", ".join(place), says, bool(failing), tested, _matrix(log, tested, found, place))
        )
    return sorted(tables, key=lambda table: not table.fails)


def _in_order(names: Iterable[str]) -> Callable[[str], int]:
    places = {name: place for place, name in enumerate(names)}
    return lambda name: places.get(name, len(places))


def _matrix_cell(
    name: str,
    group: str,
    counts: dict[tuple[str, str], Counter[str]],
    linked: set[tuple[str, str | None]],
    place: Place | None,
) -> MatrixCell:
    verdicts = counts.get((name, group))
    if not verdicts:
        return MatrixCell(None, "not tested")
    worst = max(verdicts, key=VERDICTS.index)
    total = sum(verdicts.values())
    failing = {verdict: verdicts[verdict] for verdict in FAILING if verdicts[verdict]}
    if not failing:
        detail = ", ".join(f"{verdicts[v]:,} {word(v)}" for v in VERDICTS[1:] if verdicts[v])
        return MatrixCell(worst, f"{total:,}", detail or "all exact")
    where = {} if place is None else {"device": place[0], "dtype": place[1]}
    link = filter_link(impl=name, clause=group, **where) if (name, group) in linked else None
    text = ", ".join(f"{count:,} {word(verdict)}" for verdict, count in failing.items())
    return MatrixCell(worst, text, f"of {total:,}", link, fails=True)


def word(verdict: str) -> str:
    """A verdict for a reader."""
    return verdict.replace("_", " ")


def _places(log: Log) -> Table:
    """Verdicts by implementation, device and dtype."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell, verdicts in log.batches.cells.items():
        counts.setdefault((cell.implementation, cell.device, cell.dtype), Counter()).update(verdicts)
    used = [verdict for verdict in VERDICTS if any(verdicts[verdict] for verdicts in counts.values())]
    rows = [[*place, *(f"{verdicts[verdict]:,}" for verdict in used)] for place, verdicts in counts.items()]
    return Table(["implementation", "device", "dtype", *map(word, used)], rows, numeric=3)


def _uniqueness(implementations: list[dict[str, Any]]) -> Table:
    rows = []
    for one in implementations:
        total = sum(one["uniqueness"].values())
        if total:
            counts = [one["uniqueness"][kind] for kind in UNIQUENESS]
            counts.append(one.get("undecided", 0))
            rows.append([one["name"], *(f"{n:,} ({100 * n / total:.3g} %)" if n else "0" for n in counts)])
    return Table(["implementation", "unique", "tie", "near tie", "undecided"], rows)


def _margins(
    implementations: list[dict[str, Any]], order: Sequence[str]
) -> list[tuple[str, list[MarginCell | None]]]:
    """For each stage, what each implementation's errors come to, as shares of the bound."""
    stages = dict.fromkeys(stage for one in implementations for stage in one["margins"])
    ordered = sorted(stages, key=_in_order(order))
    return [(stage, [_margin(one["margins"].get(stage)) for one in implementations]) for stage in ordered]


def _margin(margins: dict[str, Any] | None) -> MarginCell | None:
    if margins is None:
        return None
    shares = {name: real(margins[name]) or 0.0 for name in ("p50", "p99", "largest")}
    drawn = {name: 100 * min(share, 1.0) for name, share in shares.items()}
    median = f"median {short(shares['p50'], 2)}" if shares["largest"] else ""
    return MarginCell(**drawn, text=short(shares["largest"], 2), median=median)


def _stages(found: list[Cause], order: Sequence[str]) -> StageTable | None:
    """Where there are more causes than one looks at one by one."""
    if len(found) <= OPEN_CARDS:
        return None
    counts = Counter((cause.shown["implementation"], cause.shown.get("stage") or "") for cause in found)
    columns = sorted({stage: None for _, stage in counts}, key=_in_order(["", *order]))
    rows = [
        (name, [(counts[name, stage], _stage_link(name, stage)) for stage in columns])
        for name in dict.fromkeys(name for name, _ in counts)
    ]
    return StageTable([stage or "none: it failed" for stage in columns], rows)


def _stage_link(name: str, stage: str) -> str:
    return filter_link(impl=name, stage=stage) if stage else filter_link(impl=name, verdict="error")


def _training(line: dict[str, Any]) -> dict[str, Any]:
    share = (real(line["worst"]) or 0.0) / (real(line["bound"]) or math.inf)
    return line | {
        "verdict": "within_bound" if line["agrees"] else "divergent",
        "text": "agrees" if line["agrees"] else "diverges",
        "worst": short(line["worst"]),
        "bound": short(line["bound"]),
        "share": short(share, 2) if real(line["bound"]) else "–",
    }


def _scopes(lines: Iterable[dict[str, Any]]) -> Table:
    """Small scopes of which every image was judged."""
    rows = [
        [
            line["implementation"],
            line["device"] or "",
            line["scope"],
            shortened(line["description"], 300),
            "all conform" if line["conforms"] else "not all conform",
            *(
                "" if line[name] is None else f"{line[name]:,}"
                for name in ("images", "tie", "near_tie", "alone")
            ),
        ]
        for line in lines
    ]
    columns = [
        "implementation",
        "device",
        "scope",
        "what it holds",
        "result",
        "images",
        "tie",
        "near tie",
        "alone",
    ]
    return Table(columns, rows, numeric=5)


def _power_counts(power: dict[str, dict[str, Any]]) -> Table:
    """How many planted faults each profile finds."""
    keys = ("mutants", "killed", "equivalent", "survived")
    rows = [
        [
            shortened(profile, LONGEST_NAME),
            *(f"{counts[key]:,}" for key in keys),
            short(counts["median_batches_to_kill"]) if counts["median_batches_to_kill"] is not None else "–",
        ]
        for profile, counts in power.items()
    ]
    return Table(
        ["profile", "planted", "found", "equivalent", "not found", "median batches to find one"], rows
    )


def _power(lines: Iterable[dict[str, Any]]) -> tuple[Table, Table]:
    """Faults that were planted to see whether the suite finds them, those that it did not first.

    Returns:
        What is shown, and of more than `MANY` what is folded away: first of all those that were found.
    """
    order = ("survived", "elsewhere", "equivalent", "killed")
    lines = list(lines)
    missed = sum(line["result"] != "killed" for line in lines)
    open_rows = len(lines) if len(lines) <= MANY else min(max(missed, 1), MANY)
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
        for line in sorted(lines, key=lambda line: order.index(line["result"]))
    ]
    columns = ["fault", "profile", "clauses", "what it shows", "result"]
    columns += ["found at", "its own stage", "test", "batches"]
    return Table(columns, rows[:open_rows], numeric=8), Table(columns, rows[open_rows:], numeric=8)


def _ledger(lines: Iterable[dict[str, Any]]) -> Table:
    """Divergences that are on record, those that make the run fail first."""
    rows = [
        [
            line["entry"],
            f"{line['implementation']} {line['versions']}".rstrip(),
            line["device"],
            f"{line['stage']}, {line['clause']}",
            ", ".join(line["when"]),
            f"{shortened(line['reason'], 300)} ({shortened(line['link'], 200)})",
            line["owner"],
            line["expires"],
            line["state"],
            f"{line['known']:,}",
            f"{line['met']:,}",
        ]
        for line in sorted(lines, key=lambda line: not line["fails"])
    ]
    columns = ["entry", "implementation", "device", "stage", "on batches with", "reason", "owner", "expires"]
    return Table([*columns, "now", "excused", "met"], rows, numeric=9)


def _finding(line: dict[str, Any]) -> dict[str, Any]:
    """A behaviour of official code that is probably a bug, with its script."""
    shows = line["reproduces"]
    return line | {
        "title": shortened(line["title"], 200),
        "script": shortened(line["script"], 4000),
        "output": shortened(line["output"], 1000),
        "verdict": "known" if shows else "divergent",
        "text": f"shows with {line['version']}" if shows else f"no longer shows with {line['version']}",
    }


def _synchronisations(lines: Iterable[dict[str, Any]]) -> Table:
    """How often the CPU waits for a device, and sends it tensors, in one batch."""
    rows = []
    for line in lines:
        counts = [line[name] / max(line["batches"], 1) for name in ("synchronisations", "transfers")]
        rows.append(
            [line["implementation"], line["device"], f"{line['batches']:,}", *(f"{n:.1f}" for n in counts)]
        )
    columns = ["implementation", "device", "batches", "synchronisations a batch", "transfers a batch"]
    return Table(columns, rows, numeric=2)


def _waiting(lines: Iterable[dict[str, Any]]) -> Table:
    """The lines of code that wait or send most often."""
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
    return Table(["implementation", "kind", "operation", "line of code", "times"], rows, numeric=4)


def _benchmarks(
    lines: Iterable[dict[str, Any]], earlier: dict[tuple[Any, ...], str]
) -> list[tuple[str, list[Benchmark]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line.get("group") or line["name"], []).append(line)
    every = [value for group in groups.values() for line in group for value in _ratios(line)]
    scale = (math.log(min([*every, 0.5])), math.log(max([*every, 2.0])))
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

    def at(value: float) -> float:
        return round(100 * (math.log(value) - scale[0]) / (scale[1] - scale[0]), 1)

    bar = Bar(at(min(ratios)), at(ratios[len(ratios) // 2]), at(max(ratios)), at(1.0)) if ratios else None
    decided = len(ratios) == 3 and (max(ratios) < 1 or min(ratios) > 1)
    return Benchmark(cells, bar, max(ratios) < 1 if decided else None, earlier.get(timing_key(line), ""))


def _flat(environment: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in environment.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            yield f"{prefix}{key}", shortened(text, 600)


def _sections(page: Page) -> list[tuple[str, str]]:
    """Anchor and name of every section that has something in it."""
    there = {
        ("disagreements", "Disagreements"): page.cards or page.unexplained,
        ("matrix", "Matrix"): page.matrix,
        ("differences", "Declared differences"): page.differences,
        ("ledger", "On record"): page.ledger.rows,
        ("findings", "Findings"): page.findings,
        ("rounding", "Rounding"): page.margins,
        ("ambiguity", "Ties"): page.uniqueness.rows,
        ("hazards", "Hazards"): page.hazards,
        ("training", "Training"): page.training,
        ("scopes", "Scopes"): page.scopes.rows,
        ("power", "Planted faults"): page.power.rows,
        ("synchronisations", "Waiting"): page.synchronisations.rows,
        ("benchmarks", "Benchmarks"): page.benchmarks,
        ("walkthrough", "Walkthrough"): page.walkthrough,
        ("trend", "Trend"): page.trend or page.power_trend,
        ("environment", "Environment"): page.environment,
    }
    return [names for names, content in there.items() if content]
