"""Two runs side by side: which causes are new, which are fixed, which are there still."""

from dataclasses import dataclass, field
from typing import Any

from tal_reports.analysis.history import Entry
from tal_reports.text import clock, counted, listed, real, short, shortened, visible

CLEARLY = 1.1
"""Intervals of a ratio that are further apart than this factor are a change; closer ones may be another day's noise."""
Causes = list[dict[str, Any]]
"""As the history has them."""


@dataclass(frozen=True)
class Timing:
    """A benchmark whose ratio to the official implementation left the interval that it had."""

    name: str
    implementation: str
    before: str
    after: str
    slower: bool


@dataclass(frozen=True)
class Change:
    """What is different between two runs.

    Attributes:
        before, after: the runs.
        new, still: causes of the later run that the earlier one did not have, and that it had.
        fixed: causes of the earlier run that the later one does not have, although it tested the same.
        untested: causes of the earlier run whose implementation or clauses the later one did not test.
        results: implementations whose result changed: name, before, after.
        timings: where the machine is the same, benchmarks that became slower or faster.
        notes: what else is different, and makes the comparison weaker.
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
        """In a few words: `2 new, 1 fixed, 3 still`."""
        named = {"new": self.new, "fixed": self.fixed, "still": self.still, "not tested again": self.untested}
        return (
            ", ".join(f"{len(found):,} {name}" for name, found in named.items() if found) or "nothing failed"
        )


def compare(before: Entry, after: Entry) -> Change:
    """What changed from one run to another."""
    then, now = ({cause["id"]: cause for cause in entry["causes"]} for entry in (before, after))
    tested = {one["name"]: one.get("clause_groups") or {} for one in after["implementations"]}
    gone = [cause for key, cause in then.items() if key not in now]
    known = {one["name"] for one in before["implementations"]}
    return Change(
        before,
        after,
        new=[
            cause
            for key, cause in now.items()
            if key not in then and (cause["implementation"] in known or _could_not_be_had(cause))
        ],
        fixed=[cause for cause in gone if _tested(cause, tested)],
        still=[cause for key, cause in now.items() if key in then],
        untested=[cause for cause in gone if not _tested(cause, tested)],
        results=_results(before, after),
        timings=_timings(before, after),
        notes=_notes(before, after),
    )


def _could_not_be_had(cause: dict[str, Any]) -> bool:
    """Whether nothing at all came of an implementation: that is news, were it asked for the first time."""
    return not cause.get("stage") and not cause.get("case") and cause.get("verdict") == "error"


def _tested(cause: dict[str, Any], tested: dict[str, dict[str, int]]) -> bool:
    groups = tested.get(cause["implementation"], {})
    asked = [group for group in cause.get("clause_groups") or [] if group]
    return any(groups.get(group) for group in asked) if asked else bool(groups)


def _results(before: Entry, after: Entry) -> list[tuple[str, str, str]]:
    was = {one["name"]: str(one.get("result")) for one in before["implementations"]}
    return [
        (one["name"], was[one["name"]], str(one.get("result")))
        for one in after["implementations"]
        if one["name"] in was and was[one["name"]] != one.get("result")
    ]


def _timings(before: Entry, after: Entry) -> list[Timing]:
    """Benchmarks whose intervals do not overlap, on the same machine with the same torch."""
    if before["fingerprint"] != after["fingerprint"]:
        return []
    was = {timing_key(one): one for one in before["benchmarks"]}
    found = []
    for one in after["benchmarks"]:
        ranges = [_range(line) for line in (was.get(timing_key(one)), one) if line is not None]
        if len(ranges) == 2 and None not in ranges:
            (low, high), (new_low, new_high) = ranges  # type: ignore[misc]
            if new_low > high * CLEARLY or new_high * CLEARLY < low:
                texts = _interval(was[timing_key(one)]), _interval(one)
                found.append(
                    Timing(str(one.get("name")), str(one.get("implementation")), *texts, new_low > high)
                )
    return found


def timing_key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What names a benchmark in every run."""
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
        notes.append("other batches were drawn: what is fixed may only not have been met")
    ours, theirs = before["environment"], after["environment"]
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            notes.append(f"{name} was {_said(ours.get(name))} and is {_said(theirs.get(name))}")
    known, named = ({one["name"] for one in entry["implementations"]} for entry in (before, after))
    absent, added = sorted(known - named), sorted(named - known)
    notes += [f"not tested this time: {listed(absent)}"] * bool(absent)
    notes += [f"not tested before: {listed(added)}"] * bool(added)
    return notes


def _said(value: Any) -> str:
    return "unknown" if value is None else shortened(str(value), 80)


def format_comparison(change: Change) -> list[str]:
    """The comparison as plain text that steers no terminal."""
    before, after = change.before, change.after
    lines = [
        f"{before['run']} ({clock(before['started'])}) -> {after['run']} ({clock(after['started'])}): {change.counts}"
    ]
    for name, was, became in change.results:
        lines.append(f"{name}: {was} -> {became}")
    for word, found in (
        ("new", change.new), ("still", change.still), ("fixed", change.fixed), ("not tested again", change.untested),
    ):  # fmt: skip
        lines += [f"{word}: {_told(cause)}" for cause in found]
    lines += [
        f"{'slower' if timing.slower else 'faster'}: {timing.implementation}, {timing.name}: "
        f"{timing.before} -> {timing.after}"
        for timing in change.timings
    ]
    lines += [f"note: {note}" for note in change.notes]
    return [visible(" ".join(line.split())) for line in lines]


def _told(cause: dict[str, Any]) -> str:
    where = f" at {cause['stage']}" if cause.get("stage") else ""
    clause = f" ({cause['clause']})" if cause.get("clause") else ""
    case = f", case {cause['case']}" if cause.get("case") else ""
    who = f"{cause['implementation']} {cause.get('verdict')}"
    return f"{who}{where}{clause}{case}: {cause.get('summary')} [{cause['id']}]"


def said(change: Change) -> str:
    """What a reader who comes every day wants to know, in a sentence."""
    if not change.new and not change.fixed and not change.results:
        return (
            "Nothing changed."
            if not change.still
            else f"Nothing changed: {counted(len(change.still), 'cause')} still."
        )
    return f"{change.counts}."
