"""Compare two runs: new, fixed and remaining causes of failure, changed results and changed timings."""

from dataclasses import dataclass, field
from typing import Any

from tal_reports.analysis.history import Entry
from tal_reports.text import clock, counted, listed, real, short, shortened, visible

CLEARLY = 1.1
"""Two confidence intervals of a ratio count as a change only if they are further apart than this factor."""
Causes = list[dict[str, Any]]
"""Causes of failure in the form of history.jsonl."""


@dataclass(frozen=True)
class Timing:
    """A benchmark that became faster or slower, as texts; times are ratios to the official implementation."""

    name: str
    implementation: str
    before: str
    after: str
    slower: bool


@dataclass(frozen=True)
class Change:
    """Differences between two runs.

    Attributes:
        before, after: the history entries of the earlier and the later run.
        new: causes of failure that only the later run has.
        still: causes of failure that both runs have.
        fixed: causes that only the earlier run has, although the later run tested their implementation and clauses.
        untested: causes that only the earlier run has, because the later run did not test their implementation or
            clauses.
        results: name, earlier result and later result of every implementation whose result changed.
        timings: benchmarks that became slower or faster; empty if the machines differ.
        notes: sentences about other differences between the runs, which weaken the comparison.
    """

    before: Entry
    after: Entry
    new: Causes = field(default_factory=list)
    fixed: Causes = field(default_factory=list)
    still: Causes = field(default_factory=list)
    untested: Causes = field(default_factory=list)
    results: list[tuple[str, str, str]] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> str:
        """The numbers of causes in words: `2 new, 1 fixed, 3 still present`."""
        named = {
            "new": self.new,
            "fixed": self.fixed,
            "still present": self.still,
            "not tested again": self.untested,
        }
        return (
            ", ".join(f"{len(found):,} {name}" for name, found in named.items() if found) or "nothing failed"
        )


def compare(before: Entry, after: Entry) -> Change:
    """Return the differences between two runs, given by their entries in the history."""
    earlier, later = ({cause["id"]: cause for cause in entry["causes"]} for entry in (before, after))
    tested = {line["name"]: line.get("clause_groups") or {} for line in after["implementations"]}
    gone = [cause for key, cause in earlier.items() if key not in later]
    known = {line["name"] for line in before["implementations"]}
    return Change(
        before,
        after,
        new=[
            cause
            for key, cause in later.items()
            if key not in earlier and (cause["implementation"] in known or _could_not_be_loaded(cause))
        ],
        fixed=[cause for cause in gone if _tested(cause, tested)],
        still=[cause for key, cause in later.items() if key in earlier],
        untested=[cause for cause in gone if not _tested(cause, tested)],
        results=_results(before, after),
        timings=_timings(before, after),
        notes=_notes(before, after),
    )


def _could_not_be_loaded(cause: dict[str, Any]) -> bool:
    """Return True if the cause is that an implementation could not be loaded. Such a cause always counts as new."""
    return not cause.get("stage") and not cause.get("case") and cause.get("verdict") == "error"


def _tested(cause: dict[str, Any], tested: dict[str, dict[str, int]]) -> bool:
    groups = tested.get(cause["implementation"], {})
    needed = [group for group in cause.get("clause_groups") or [] if group]
    return any(groups.get(group) for group in needed) if needed else bool(groups)


def _results(before: Entry, after: Entry) -> list[tuple[str, str, str]]:
    was = {line["name"]: str(line.get("result")) for line in before["implementations"]}
    return [
        (line["name"], was[line["name"]], str(line.get("result")))
        for line in after["implementations"]
        if line["name"] in was and was[line["name"]] != line.get("result")
    ]


def _timings(before: Entry, after: Entry) -> list[Timing]:
    """Return the benchmarks whose confidence intervals do not overlap; an empty list if machine or torch differ."""
    if before["fingerprint"] != after["fingerprint"]:
        return []
    was = {timing_key(item): item for item in before["benchmarks"]}
    found = []
    for item in after["benchmarks"]:
        ranges = [_range(line) for line in (was.get(timing_key(item)), item) if line is not None]
        if len(ranges) == 2 and None not in ranges:
            (low, high), (new_low, new_high) = ranges  # type: ignore[misc]
            if new_low > high * CLEARLY or new_high * CLEARLY < low:
                texts = _interval(was[timing_key(item)]), _interval(item)
                found.append(
                    Timing(str(item.get("name")), str(item.get("implementation")), *texts, new_low > high)
                )
    return found


def timing_key(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a `benchmark` line that is the same for the same benchmark in every run."""
    return tuple(line.get(name) for name in ("name", "implementation", "device"))


def _range(line: dict[str, Any]) -> tuple[float, float] | None:
    low, high = real(line.get("ratio_low")), real(line.get("ratio_high"))
    return None if low is None or high is None else (low, high)


def _interval(line: dict[str, Any]) -> str:
    return f"{short(line['ratio_to_official'])}× ({short(line['ratio_low'])}–{short(line['ratio_high'])})"


def _notes(before: Entry, after: Entry) -> list[str]:
    notes = []
    if before.get("profile") != after.get("profile"):
        notes.append(f"the profile was {before.get('profile')} and is {after.get('profile')}")
    if before.get("seed") != after.get("seed"):
        notes.append("the seeds differ: a cause counted as fixed may only lack a generated batch this time")
    old, new = before["environment"], after["environment"]
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            notes.append(f"{name} was {_value(old.get(name))} and is {_value(new.get(name))}")
    known, named = ({line["name"] for line in entry["implementations"]} for entry in (before, after))
    absent, added = sorted(known - named), sorted(named - known)
    notes += [f"not tested this time: {listed(absent)}"] * bool(absent)
    notes += [f"not tested before: {listed(added)}"] * bool(added)
    return notes


def _value(value: Any) -> str:
    return "unknown" if value is None else shortened(str(value), 80)


def format_comparison(change: Change) -> list[str]:
    """Return the comparison as lines of plain text, without control characters."""
    runs = [f"{entry['run']} ({clock(entry['started'])})" for entry in (change.before, change.after)]
    lines = [f"{' -> '.join(runs)}: {change.counts}"]
    for name, was, became in change.results:
        lines.append(f"{name}: {was} -> {became}")
    groups = {
        "new": change.new,
        "still present": change.still,
        "fixed": change.fixed,
        "not tested again": change.untested,
    }
    for word, found in groups.items():
        lines += [f"{word}: {_format_cause(cause)}" for cause in found]
    lines += [
        f"{'slower' if timing.slower else 'faster'}: {timing.implementation}, {timing.name}: "
        f"{timing.before} -> {timing.after}"
        for timing in change.timings
    ]
    lines += [f"note: {note}" for note in change.notes]
    return [visible(" ".join(line.split())) for line in lines]


def _format_cause(cause: dict[str, Any]) -> str:
    where = f" at {cause['stage']}" if cause.get("stage") else ""
    clause = f" ({cause['clause']})" if cause.get("clause") else ""
    case = f", case {cause['case']}" if cause.get("case") else ""
    who = f"{cause['implementation']} {cause.get('verdict')}"
    return f"{who}{where}{clause}{case}: {cause.get('summary')} [{cause['id']}]"


def change_sentence(change: Change) -> str:
    """Return one sentence about new, fixed and remaining causes of failure and changed results."""
    if not change.new and not change.fixed and not change.results:
        return (
            "Nothing changed."
            if not change.still
            else f"Nothing changed: {counted(len(change.still), 'cause')} still present."
        )
    return f"{change.counts}."
