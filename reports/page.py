"""What stands on the report's page, in words and numbers; how it looks is the templates' business."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reports.batches import FAILING, UNIQUENESS, VERDICTS
from reports.causes import STAGES, Cause, causes
from reports.log import Log
from reports.pictures import Drawing, draw
from reports.summary import failures_of, implementations_of
from reports.text import clock, counted, listed, moment, real, seconds, short, shortened, size

OPEN_CARDS = 3
"""So many cards are open when the page is; if there are more, only the first one is, and the others show a line each."""
MOST_CARDS = 1000
"""Cards of one section that are shown at all."""
MOST_VALUES, MOST_OTHERS, MOST_CASES = 12, 10, 40
"""Rows of a card's table of values, other batches that it names, and cases that it is found by."""
LONGEST_NAME, LONGEST_SUMMARY, LONGEST_TEXT, LONGEST_TRACEBACK = 200, 600, 4_000, 12_000
"""Characters."""

RESULTS = {
    "conforms": "conforms",
    "divergent": "diverges",
    "nondeterministic": "is not deterministic",
    "error": "fails",
    "not tested": "was not tested",
}
"""What an implementation's result says of it."""
REPEAT = {"pytest": "pytest", "python": "Python", "example": "Hypothesis"}


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


@dataclass(frozen=True)
class Card:
    """One cause of disagreement (or one declared difference), on its smallest batch."""

    id: str
    verdict: str
    implementation: str
    stage: str
    clause: str
    summary: str
    batches: str
    case: str
    case_file: str | None
    description: str
    facts: list[tuple[str, str]]
    strip: list[dict[str, str]]
    values: list[dict[str, str]]
    more_values: int
    drawing: Drawing | None
    repeats: list[tuple[str, str]]
    others: list[str]
    more_others: int
    traceback: str | None
    tokens: str
    is_open: bool


@dataclass(frozen=True)
class MatrixCell:
    """What one implementation came to on one clause group."""

    verdict: str | None
    text: str
    detail: str = ""
    link: str | None = None
    fails: bool = False


@dataclass(frozen=True)
class StageTable:
    """How many causes each implementation has at which first diverging stage, each with the filter that shows them."""

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


@dataclass(frozen=True)
class Table:
    """A plain table; the columns from `numeric` on hold numbers."""

    columns: list[str]
    rows: list[list[str]]
    numeric: int = 1


@dataclass(frozen=True)
class Bar:
    """A benchmark's ratio and its interval on a logarithmic scale of 0 to 100; `one` is where the ratio is 1."""

    low: float
    at: float
    high: float
    one: float


@dataclass(frozen=True)
class Benchmark:
    """One row of the table of benchmarks."""

    cells: list[str]
    bar: Bar | None
    better: bool | None


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
    differences: list[Card]
    uniqueness: Table
    margin_columns: list[str]
    margins: list[tuple[str, list[MarginCell | None]]]
    hazards: list[tuple[str, str, int]]
    different: int
    training: list[dict[str, Any]]
    benchmarks: list[tuple[str, list[Benchmark]]]
    environment: list[tuple[str, str]]
    command: str
    sections: list[tuple[str, str]] = field(default_factory=list)


def page_of(log: Log, summary: dict[str, Any]) -> Page:
    """The page of a run.

    Args:
        log: the run's log.
        summary: what `summarise` made of it.
    """
    found = causes(failures_of(log), log.batches)
    open_cards = 1 if len(found) > OPEN_CARDS else len(found)
    implementations = summary["implementations"]
    page = Page(
        run=log.run["run"],
        headline=headline(implementations),
        tone=_tone(implementations, log.end is not None),
        facts=_facts(log),
        devices=[(device, state, state == "tested") for device, state in summary["devices"].items()],
        problems=summary["problems"],
        rows=[_row(one, found) for one in implementations],
        not_tested=_not_tested(summary["not_tested"]),
        stages=_stages(found),
        cards=[_card(log, cause, number < open_cards) for number, cause in enumerate(found[:MOST_CARDS])],
        hidden_cards=max(len(found) - MOST_CARDS, 0),
        unexplained=_unexplained(log),
        matrix_columns=[one["name"] for one in implementations if one["batches"]],
        matrix=_matrix(log, [one["name"] for one in implementations if one["batches"]], found),
        places=_places(log),
        differences=[_card(log, cause, False) for cause in causes(log.differences)[:MOST_CARDS]],
        uniqueness=_uniqueness(implementations),
        margin_columns=[one["name"] for one in implementations if one["margins"]],
        margins=_margins([one for one in implementations if one["margins"]]),
        hazards=[(name, log.run.get("hazards", {}).get(name, ""), n) for name, n in summary["hazards"].items()],
        different=log.batches.different,
        training=[_training(line) for line in summary["training"]],
        benchmarks=_benchmarks(log.benchmarks),
        environment=list(_flat(summary["environment"])),
        command=shlex.join(log.run["command"]),
    )
    page.sections = _sections(page)
    return page


def headline(implementations: list[dict[str, Any]]) -> str:
    """The run in one sentence."""
    failing = [one for one in implementations if one["result"] in FAILING]
    tested = [one for one in implementations if one["result"] != "not tested"]
    if not tested:
        return "Nothing was tested"
    if not failing:
        names = listed([one["name"] for one in tested])
        many = f"All {len(tested)} implementations conform"
        return f"{names} {'conforms' if len(tested) == 1 else 'conform'}" if len(tested) <= 3 else many
    if len(failing) > 3 or len(failing) == len(tested) > 1:
        return f"{len(failing)} of {counted(len(tested), 'implementation')} do not conform"
    return listed([f"{one['name']} {RESULTS[one['result']]}" for one in failing])


def _tone(implementations: list[dict[str, Any]], finished: bool) -> str:
    results = [one["result"] for one in implementations]
    worst = max((VERDICTS.index(result) for result in results if result in FAILING), default=None)
    if worst is not None:
        return VERDICTS[worst]
    return "exact" if finished and "conforms" in results else "known"


def _facts(log: Log) -> list[str]:
    batches, run = log.batches, log.run
    begun, ended = moment(run["time"]), moment(log.last_time)
    took = f" in {seconds((ended - begun).total_seconds())}" if begun and ended else ""
    judged = f"{counted(batches.judged, 'verdict')} on {counted(batches.different, 'batch')}{took}"
    shrunk = sum(batches.shrinking.values())
    facts = [judged, f"{counted(shrunk, 'batch')} more while shrinking"] if shrunk else [judged]
    facts += [f"profile {run['profile']}"] * bool(run["profile"])
    facts += [f"seed {run['seed']}"] * (run["seed"] is not None)
    return [*facts, clock(run["time"])]


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
    has_cards = any(cause.shown["implementation"] == one["name"] for cause in found)
    return Row(
        name=one["name"],
        version=one["version"] or "",
        dialect=one["dialect"] or "unknown",
        offers=listed(one["capabilities"]),
        batches=one["batches"],
        shares=shares,
        result=RESULTS[one["result"]],
        verdict=one["result"],
        link=filter_link(impl=one["name"]) if has_cards else None,
    )


def _not_tested(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who or what was not tested, and why; those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        subject = " on ".join(filter(None, (line["implementation"], line["device"])))
        reasons.setdefault(line["reason"], []).append(subject)
    return [
        (listed([subject for subject in subjects if subject]), shortened(reason, LONGEST_SUMMARY))
        for reason, subjects in reasons.items()
    ]


def filter_link(**tokens: str) -> str:
    """The fragment that shows only the cards which have all of these tokens (see script.js)."""
    words = [f'{key}:"{_escaped(value)}"' if _needs_quotes(value) else f"{key}:{value}" for key, value in tokens.items()]
    return "#filter=" + quote(" ".join(words), safe=":", errors="replace")


def _needs_quotes(value: str) -> bool:
    return not value or any(character.isspace() or character in '"\\' for character in value)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _card(log: Log, cause: Cause, is_open: bool) -> Card:
    line = cause.shown
    values = [_value(value) for value in line.get("values") or ()]
    others = [_other(other) for other in cause.lines[1:]]
    traceback = line.get("traceback") or ""
    failed = f"on {counted(cause.batches, 'batch')}" if cause.batches else ""
    return Card(
        id=f"{'difference' if cause.verdict == 'declared' else 'cause'}-{cause.id}",
        verdict=cause.verdict,
        implementation=shortened(line["implementation"], LONGEST_NAME),
        stage=shortened(line.get("stage") or "", LONGEST_NAME),
        clause=shortened(line.get("clause") or "", LONGEST_NAME),
        summary=shortened(line["summary"], LONGEST_SUMMARY),
        batches=failed,
        case=shortened(line.get("case") or "", LONGEST_NAME),
        case_file=_case_file(log.folder, line.get("case")),
        description=shortened(line.get("description") or "", LONGEST_TEXT),
        facts=_card_facts(cause),
        strip=_strip(line),
        values=values[:MOST_VALUES],
        more_values=len(values) - MOST_VALUES,
        drawing=draw(line["picture"]) if line.get("picture") else None,
        repeats=_repeats(line),
        others=others[:MOST_OTHERS],
        more_others=len(others) - MOST_OTHERS,
        traceback=shortened(traceback.strip("\n"), LONGEST_TRACEBACK) or None,
        tokens=_tokens(cause),
        is_open=is_open,
    )


def _card_facts(cause: Cause) -> list[tuple[str, str]]:
    """Where a cause was seen; all of its lines together."""
    facts = [(name, listed(cause.every(name))) for name in ("test", "device", "dtype") if cause.every(name)]
    hazards = sorted({hazard for line in cause.lines for hazard in line.get("hazards", ())})
    if hazards:
        facts.append(("hazards", ", ".join(hazards)))
    if cause.verdict == "declared":
        facts.append(("compared with", str(cause.shown["against"])))
    return facts


def _strip(line: dict[str, Any]) -> list[dict[str, str]]:
    """Every stage with its state and margin; the first that diverges is marked."""
    stages = line.get("stages") or []
    first = next((at for at, stage in enumerate(stages) if stage["state"] == "diverges"), None)
    return [
        {
            "stage": shortened(stage["stage"], LONGEST_NAME),
            "clause": shortened(stage.get("clause") or "", LONGEST_NAME),
            "state": stage["state"],
            "key": stage["state"].replace(" ", "-"),
            "margin": "" if stage.get("margin") is None else short(stage["margin"], 2),
            "first": "first" if at == first else "",
        }
        for at, stage in enumerate(stages)
    ]


def _value(value: dict[str, Any]) -> dict[str, str]:
    shown = {name: shortened(value[name], 200) for name in ("where", "quantity", "reference", "implementation")}
    margin = real(value.get("margin"))
    return shown | {
        "theirs": "" if value["reference"] == value["implementation"] else "theirs",
        "bound": shortened(value.get("bound") or "–", 200),
        "margin": "" if margin is None else f"{short(margin)} × the bound",
    }


def _repeats(line: dict[str, Any]) -> list[tuple[str, str]]:
    commands = line.get("reproduce") or {}
    return [(name, shortened(commands[key], LONGEST_TEXT)) for key, name in REPEAT.items() if commands.get(key)]


def _case_file(folder: Path, case: str | None) -> str | None:
    """The case file beside the report, if it is there; a name with a path in it is none."""
    name = f"{case}.safetensors"
    if not case or not case.isalnum() or not (folder / "cases" / name).is_file():
        return None
    return f"cases/{name}"


def _other(line: dict[str, Any]) -> str:
    seen = [line.get("test"), line.get("device"), line.get("dtype"), line.get("case") and f"case {line['case']}"]
    where = ", ".join(text for text in seen if text)
    return shortened(f"{where}: {line.get('description') or line['summary']}", 400)


def _tokens(cause: Cause) -> str:
    """What a card is found by: JSON of token names and their values."""
    tokens = {
        "impl": cause.every("implementation"),
        "clause": cause.every("clause") + cause.every("clause_group"),
        "verdict": [cause.verdict],
        "stage": cause.every("stage"),
        "hazard": sorted({hazard for line in cause.lines for hazard in line.get("hazards", ())}),
        "case": cause.every("case")[:MOST_CASES],
        "device": cause.every("device"),
        "dtype": cause.every("dtype"),
        "test": cause.every("test"),
    }
    return json.dumps({key: list(dict.fromkeys(filter(None, values))) for key, values in tokens.items()})


def _unexplained(log: Log) -> list[dict[str, Any]]:
    """Failing batches for which no smallest one was found: the run was stopped before."""
    told = {(line["implementation"], line.get("clause_group")) for line in log.divergences}
    cases = {line.get("case") for line in log.divergences}
    return [
        {"cell": cell, "failures": failures, "count": sum(log.batches.cells[cell][verdict] for verdict in FAILING)}
        for cell, failures in log.batches.failures.items()
        if (cell.implementation, cell.clause_group) not in told and not any(f.case in cases for f in failures)
    ]


def _matrix(log: Log, names: list[str], found: list[Cause]) -> list[tuple[str, str, list[MatrixCell]]]:
    linked = {(line["implementation"], line.get("clause_group")) for cause in found for line in cause.lines}
    counts: dict[tuple[str, str], Counter[str]] = {}
    for cell, verdicts in log.batches.cells.items():
        counts.setdefault((cell.implementation, cell.clause_group), Counter()).update(verdicts)
    titles = log.run.get("clauses", {})
    return [
        (group, titles.get(group, ""), [_matrix_cell(name, group, counts, linked) for name in names])
        for group in log.batches.clause_groups()
    ]


def _matrix_cell(
    name: str,
    group: str,
    counts: dict[tuple[str, str], Counter[str]],
    linked: set[tuple[str, str | None]],
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
    link = filter_link(impl=name, clause=group) if (name, group) in linked else None
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
            rows.append([one["name"], *(f"{n:,} ({100 * n / total:.3g} %)" if n else "0" for n in counts)])
    return Table(["implementation", "unique", "tie", "near tie"], rows)


def _margins(implementations: list[dict[str, Any]]) -> list[tuple[str, list[MarginCell | None]]]:
    """For each stage, what each implementation's errors come to, as shares of the bound."""
    stages = dict.fromkeys(stage for one in implementations for stage in one["margins"])
    ordered = [stage for stage in STAGES if stage in stages] + [stage for stage in stages if stage not in STAGES]
    return [(stage, [_margin(one["margins"].get(stage)) for one in implementations]) for stage in ordered]


def _margin(margins: dict[str, Any] | None) -> MarginCell | None:
    if margins is None:
        return None
    shares = {name: real(margins[name]) or 0.0 for name in ("p50", "p99", "largest")}
    drawn = {name: 100 * min(share, 1.0) for name, share in shares.items()}
    median = f"median {short(shares['p50'], 2)}" if shares["largest"] else ""
    return MarginCell(**drawn, text=short(shares["largest"], 2), median=median)


def _stages(found: list[Cause]) -> StageTable | None:
    """Where there are more causes than one looks at one by one."""
    if len(found) <= OPEN_CARDS:
        return None
    counts = Counter((cause.shown["implementation"], cause.shown.get("stage") or "") for cause in found)
    columns = ["", *STAGES] + [stage for _, stage in counts if stage and stage not in STAGES]
    columns = [stage for stage in dict.fromkeys(columns) if any(at == stage for _, at in counts)]
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


def _benchmarks(lines: Iterable[dict[str, Any]]) -> list[tuple[str, list[Benchmark]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line.get("group") or line["name"], []).append(line)
    every = [value for group in groups.values() for line in group for value in _ratios(line)]
    scale = (math.log(min([*every, 0.5])), math.log(max([*every, 2.0])))
    return [(group, [_benchmark(line, group, scale) for line in members]) for group, members in groups.items()]


def _ratios(line: dict[str, Any]) -> list[float]:
    values = [real(line.get(name)) for name in ("ratio_low", "ratio_to_official", "ratio_high")]
    return [value for value in values if value is not None and 1e-6 < value < 1e6]


def _benchmark(line: dict[str, Any], group: str, scale: tuple[float, float]) -> Benchmark:
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
    return Benchmark(cells, bar, max(ratios) < 1 if decided else None)


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
        ("rounding", "Rounding"): page.margins,
        ("ambiguity", "Ties"): page.uniqueness.rows,
        ("hazards", "Hazards"): page.hazards,
        ("training", "Training"): page.training,
        ("benchmarks", "Benchmarks"): page.benchmarks,
        ("environment", "Environment"): page.environment,
    }
    return [names for names, content in there.items() if content]
