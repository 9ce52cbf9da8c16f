"""The first screen of the report: result in one sentence, changes since the last run, implementations."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.analysis.causes import Cause
from tal_reports.analysis.compare import Change, Timing, change_sentence
from tal_reports.analysis.folding import identified_in_words
from tal_reports.analysis.headline import has_worth, headline, predicate_of
from tal_reports.analysis.summary import unsupported_sentence
from tal_reports.html.cards import MAX_SUMMARY_LENGTH, filter_link
from tal_reports.log.batches import FAILING, VERDICTS
from tal_reports.log.reader import Log
from tal_reports.text import clock, counted, listed, seconds, shortened

MAX_LISTED = 20
"""Maximum number of new, and of fixed, causes that the first screen lists."""
MIN_FAILING_WIDTH = 2.5
"""Smallest width of a failing verdict in a bar of 100: one failure among thousands of batches must be visible."""


@dataclass(frozen=True)
class Share:
    """The share of one verdict in a bar of width 100.

    Attributes:
        verdict: name of the verdict.
        count: number of batches with the verdict.
        start, width: position and width of this part of the bar.
    """

    verdict: str
    count: int
    start: float
    width: float


@dataclass(frozen=True)
class StageMarks:
    """The marks of all stages in the row of an implementation.

    Attributes:
        words: the state of every stage in words.
        number: number of stages.
        paths: path of an SVG with a square for each stage, by state: "diverges", "agrees" and "hidden".
    """

    words: str
    number: int
    paths: dict[str, str]


@dataclass(frozen=True)
class Row:
    """The row of one implementation on the first screen."""

    name: str
    version: str
    dialect: str
    offers: str
    batches: int
    shares: list[Share]
    stages: StageMarks | None
    result: str
    worth: str
    verdict: str
    link: str | None
    why: str
    unsupported: str


@dataclass(frozen=True)
class Since:
    """Changes since the last run.

    Attributes:
        run, when: id and time of the last run.
        sentence: a sentence about the new, fixed and remaining causes, and changed results.
        lists: heading and causes (text, link) of the new, the fixed and the no longer tested causes.
        results: implementations whose result changed, in words.
        timings: benchmarks that became faster or slower.
        notes: other differences between the two runs.
    """

    run: str
    when: str
    sentence: str
    lists: list[tuple[str, list[tuple[str, str | None]]]]
    results: list[str]
    timings: list[Timing]
    notes: list[str]


@dataclass(frozen=True)
class Summary:
    """Data of the report's first screen.

    Attributes:
        run: id of the run.
        headline: the result in one sentence.
        identified: for each failing implementation its name, the sentence that explains its failures, and details.
        tone: the verdict whose colour the headline has.
        facts: counts, duration, profile, seed and start.
        devices: for each device its name, its state as text, and True if it was tested.
        problems: sentences about parts of the log that could not be used.
        since: changes since the last run; None without an earlier run.
        rows: a row for each implementation.
        not_tested: pairs of an implementation, device or test that was not tested and the reason.
    """

    run: str
    headline: str
    identified: list[tuple[str, str, list[str]]]
    tone: str
    facts: list[str]
    devices: list[tuple[str, str, bool]]
    problems: list[str]
    since: Since | None
    rows: list[Row]
    not_tested: list[tuple[str, str]]

    @property
    def untested_names(self) -> str:
        """The names of everything that was not tested, without reasons, in one line.

        If the name is empty, the reason begins with a name, as in "benchmarks: ... are not in this profile"
        or "my-assigner: task obb: --task obb tests it".
        """
        tested = {row.name for row in self.rows if row.batches}
        subjects = [who or reason.partition(":")[0] for who, reason in self.not_tested]
        names = dict.fromkeys(f"parts of {name}" if name in tested else name for name in subjects)
        return shortened(", ".join(names), MAX_NAMES_LENGTH)


MAX_NAMES_LENGTH = 120
"""Longest list of the names of what was not tested, in characters: one line of the first screen."""


def summary_of(
    log: Log, summary: dict[str, Any], found: list[Cause], change: Change | None, problems: list[str]
) -> Summary:
    """Return the data of the report's first screen.

    Args:
        log: the log of the run.
        summary: the result of `summarise`.
        found: causes of failure.
        change: the comparison with the last run.
        problems: sentences about parts of the run's files that could not be used.
    """
    implementations, finished, power = summary["implementations"], log.end is not None, summary["power"]
    return Summary(
        run=log.run["run"],
        headline=headline(implementations, finished, power),
        identified=[
            (shortened(line["name"], 60), *identified_in_words(line["identification"]))
            for line in implementations
            if line["identification"]
        ],
        tone=_tone(implementations, finished, power),
        facts=_facts(log),
        devices=[(device, state, state == "tested") for device, state in summary["devices"].items()],
        problems=problems,
        since=_since(change) if change else None,
        rows=[
            _row(line, found, (summary["worth"] or {}).get("words", ""), log.stages)
            for line in implementations
        ],
        not_tested=_not_tested(summary["not_tested"]),
    )


def _tone(implementations: list[dict[str, Any]], finished: bool, power: dict[str, dict[str, Any]]) -> str:
    results = [line["result"] for line in implementations]
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
        change_sentence(change),
        [(f"{len(found):,} {name}", _first_listed(found)) for name, found in lists if found],
        [f"{shortened(name, 60)}: {was} before, {became} now" for name, was, became in change.results],
        change.timings,
        change.notes,
    )


def _first_listed(found: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    more = len(found) - MAX_LISTED
    return [*found[:MAX_LISTED], *([(f"and {more:,} more", None)] if more > 0 else [])]


def _cause(cause: dict[str, Any]) -> str:
    where = f" at {cause['stage']}" if cause.get("stage") else ""
    return shortened(f"{cause['implementation']}{where}: {cause.get('summary') or ''}", MAX_SUMMARY_LENGTH)


def _row(line: dict[str, Any], found: list[Cause], worth: str, order: Sequence[str]) -> Row:
    own = [cause.example for cause in found if cause.example["implementation"] == line["name"]]
    stage = own[0].get("stage") if own else None
    first = "first " if len(own) > 1 else ""
    at = f", {first}at {shortened(stage, 60)}" if stage else ""
    return Row(
        name=line["name"],
        version=line["version"] or "",
        dialect=line["dialect"] or "unknown",
        offers=listed(line["capabilities"]),
        batches=line["batches"],
        shares=_shares(line["verdicts"]),
        stages=_stage_marks(line, own, order),
        result=predicate_of(line),
        worth=worth if has_worth(line) else "",
        verdict=line["result"],
        link=filter_link(impl=line["name"]) if own else None,
        why=f"{counted(len(own), 'cause')}{at}",
        unsupported=shortened(unsupported_sentence(line), MAX_SUMMARY_LENGTH),
    )


def _stage_marks(line: dict[str, Any], own: list[dict[str, Any]], order: Sequence[str]) -> StageMarks | None:
    """Return the marks of the stages of an implementation, in order; None if nothing was judged stage by stage.

    Args:
        line: the implementation in the run's summary.
        own: an example of each of its causes.
        order: names of all stages.
    """
    diverging = Counter(example.get("stage") for example in own)
    if not line["margins"] and not any(diverging):
        return None
    stages = [*order, *(stage for stage in diverging if stage and stage not in order)]
    by_state: dict[str, list[str]] = {"diverges": [], "agrees": [], "hidden": []}
    for stage in stages:
        by_state[
            "diverges" if diverging[stage] else "agrees" if stage in line["margins"] else "hidden"
        ].append(stage)
    says = {"diverges": "first diverging", "agrees": "agreeing", "hidden": "not shown"}
    return StageMarks(
        words="; ".join(f"{says[state]}: {', '.join(names)}" for state, names in by_state.items() if names),
        number=len(stages),
        paths={
            state: "".join(f"M{stages.index(name)} 0h.94v1h-.94z" for name in names)
            for state, names in by_state.items()
            if names
        },
    )


def _shares(verdicts: dict[str, int]) -> list[Share]:
    total, start = sum(verdicts.values()), 0.0
    shares = []
    for verdict in VERDICTS:
        count = verdicts[verdict]
        if count:
            width = max(100 * count / total, MIN_FAILING_WIDTH if verdict in FAILING else 0.0)
            shares.append(Share(verdict, count, start, width))
            start += width
    return [
        Share(share.verdict, share.count, share.start * 100 / start, share.width * 100 / start)
        for share in shares
    ]


def _not_tested(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return pairs of something untested (implementation, device or test) and the reason, merged if either is equal."""
    subjects: dict[str, list[str]] = {}
    for line in lines:
        subject = " on ".join(filter(None, (line["implementation"], line["device"])))
        subjects.setdefault(line["reason"], []).append(subject)
    reasons: dict[str, list[str]] = {}
    for reason, named in subjects.items():
        reasons.setdefault(listed([subject for subject in named if subject]), []).append(reason)
    return [
        (who, shortened(reason, MAX_SUMMARY_LENGTH))
        for who, why in reasons.items()
        for reason in (["; ".join(why)] if who else why)
    ]
