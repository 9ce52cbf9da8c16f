"""Counts over the judged batches of a log, updated line by line so that memory does not grow with the log."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tal_reports.text import real

VERDICTS = (
    "exact",
    "within_bound",
    "admissible",
    "rejected",
    "inconclusive",
    "not_supported",
    "known",
    "divergent",
    "nondeterministic",
    "error",
)
"""All verdicts, from best to worst."""
FAILING = ("divergent", "nondeterministic", "error")
SHOWING = ("exact", "within_bound", "admissible", "known")
"""Verdicts that show what an implementation computes; an implementation without any of them does not conform."""
UNIQUENESS = ("unique", "tie", "near_tie")
STEPS_PER_OCTAVE = 16
"""Resolution of the quantiles of a `Margins`: 4 %."""
MAX_REASONS = 20
"""Largest number of different reasons that are counted for an implementation."""
MAX_REASON = 300
"""Largest number of characters of a reason that are kept."""
OTHER_REASONS = "other reasons"
MAX_FAILURES = 20
"""Maximum number of failing batches that are stored for one `Cell`."""

_NAMES = ("time", "implementation", "test", "clause_group", "case", "device", "dtype")
_TIMES = ("milliseconds", "call_milliseconds", "drawing_milliseconds")
_OTHER_REALS = ("inf", "-inf", "nan", None)


class Cell(NamedTuple):
    """Key by which verdicts are counted: implementation, clause group, device and dtype."""

    implementation: str
    clause_group: str
    device: str
    dtype: str


class Failure(NamedTuple):
    """A failing batch: case id, test, verdict, and first diverging stage with its clause."""

    case: str
    test: str
    verdict: str
    stage: str | None
    clause: str | None


@dataclass
class Margins:
    """Distribution of margins (errors divided by their bound) for one stage of one implementation."""

    largest: float = 0.0
    count: int = 0
    _octaves: Counter[float] = field(default_factory=Counter)

    def add(self, margin: float) -> None:
        """Count the margin of one batch (0: no error, 1: the error equals the bound)."""
        if math.isnan(margin) or margin > self.largest:
            self.largest = margin
        self.count += 1
        self._octaves[_step(margin)] += 1

    def quantile(self, share: float) -> float:
        """Return the margin that `share` of the batches do not exceed, rounded up by at most 4 %."""
        below = 0
        for step, count in sorted(self._octaves.items()):
            below += count
            if below >= share * self.count:
                return min(2 ** (step / STEPS_PER_OCTAVE), self.largest)
        return self.largest


@dataclass
class Cost:
    """Time spent on judging, over the batches whose log line has the time of the implementation's call.

    Attributes:
        batches: number of these batches.
        call: seconds in calls of the implementation, for value and gradient.
        judged: seconds of calling the implementation and judging its results.
        drawing: seconds of generating, building and logging batches.
    """

    batches: int = 0
    call: float = 0.0
    judged: float = 0.0
    drawing: float = 0.0

    def add(self, line: dict[str, Any]) -> None:
        """Add the times of a `batch` line, if it has the time of the call."""
        call, judged = real(line.get("call_milliseconds")), real(line.get("milliseconds"))
        drawing = real(line.get("drawing_milliseconds")) or 0.0
        if call is None or judged is None or not math.isfinite(call + judged + drawing):
            return
        self.batches += 1
        self.call += call / 1000
        self.judged += judged / 1000
        self.drawing += drawing / 1000

    @property
    def seconds(self) -> float:
        """Total seconds: calling, judging, generating, building and logging."""
        return self.judged + self.drawing

    @property
    def times_the_call(self) -> float | None:
        """Total time divided by the time in calls of the implementation; None if the time in calls is zero."""
        return self.seconds / self.call if self.call > 0 else None

    @property
    def per_second(self) -> float | None:
        """Batches judged per second on one core."""
        return self.batches / self.seconds if self.seconds > 0 else None


@dataclass
class Batches:
    """Counts over the `batch` lines of a log.

    Attributes:
        cells: number of batches by verdict, for each `Cell`; without batches that Hypothesis generated while shrinking.
        uniqueness: number of batches whose assignment is unique, tied or nearly tied, by implementation.
        undecided: number of batches whose verdict is partly inconclusive, by implementation.
        undecided_because: number of these batches by reason, by implementation, for the first `MAX_REASONS` reasons.
        hazards: number of different batches with each hazard.
        margins: distribution of errors divided by bounds on conforming batches, by implementation and stage.
        failures: failing batches by cell, the first `MAX_FAILURES` of each.
        causes: number of failing batches by implementation, verdict, stage and clause.
        met: number of batches that matched a known issue, by issue, implementation and device.
        known: number of these batches whose failure the known issue excused.
        unsupported: number of batches by the adapter's reason for not supporting them, by implementation.
        shrinking: number of batches that Hypothesis generated while shrinking, by implementation.
        seconds: time spent on judged batches and on shrinking, by implementation.
        costs: time of judging and time in calls of the implementation, by implementation; without shrinking.
    """

    cells: defaultdict[Cell, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    uniqueness: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    undecided: Counter[str] = field(default_factory=Counter)
    undecided_because: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    hazards: Counter[str] = field(default_factory=Counter)
    margins: defaultdict[tuple[str, str], Margins] = field(default_factory=lambda: defaultdict(Margins))
    failures: defaultdict[Cell, list[Failure]] = field(default_factory=lambda: defaultdict(list))
    causes: Counter[tuple[str, str, str | None, str | None]] = field(default_factory=Counter)
    met: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    known: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unsupported: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    shrinking: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    costs: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    _seen: set[int] = field(default_factory=set, repr=False)

    def add(self, line: dict[str, Any]) -> None:
        """Count one valid `batch` line (one for which `batch_fault` returns None)."""
        name, verdict = line["implementation"], verdict_of(line)
        self.seconds[name] += (real(line.get("milliseconds")) or 0.0) / 1000
        if line.get("phase") == "shrink":
            self.shrinking[name] += 1
            return
        self.costs[name].add(line)
        cell = Cell(name, line["clause_group"], line["device"], line["dtype"])
        self.cells[cell][verdict] += 1
        if line.get("uniqueness"):
            self.uniqueness[name][line["uniqueness"]] += 1
        self.undecided[name] += line.get("undecided") is True
        self._add_reasons(name, line)
        self._add_hazards(line)
        self._add_entries(line)
        if verdict == "not_supported":
            reasons, reason = self.unsupported[name], (line.get("reason") or "no reason given")[:MAX_REASON]
            reasons[reason if reason in reasons or len(reasons) < MAX_REASONS else OTHER_REASONS] += 1
            return
        if verdict in FAILING:
            self._add_failure(cell, line)
            return
        if verdict == "known":  # a known issue caused the errors of this batch, not rounding
            return
        for stage, margin in line.get("stages", {}).items():
            if margin is not None:
                self.margins[name, stage].add(float(margin))

    def verdicts(self, implementation: str | None = None, clause_group: str | None = None) -> Counter[str]:
        """Return the number of batches by verdict; None stands for all implementations, or for all clause groups."""
        total: Counter[str] = Counter()
        for cell, verdicts in self.cells.items():
            if implementation in (None, cell.implementation) and clause_group in (None, cell.clause_group):
                total += verdicts
        return total

    def clause_groups(self) -> list[str]:
        """Return the names of all tested clause groups, in the order of their first batches."""
        return list(dict.fromkeys(cell.clause_group for cell in self.cells))

    @property
    def judged(self) -> int:
        """Number of judged batches, without batches that Hypothesis generated while shrinking."""
        return sum(self.verdicts().values())

    @property
    def different(self) -> int:
        """Number of different batches: each batch is judged once for every implementation and device."""
        return len(self._seen)

    def _add_hazards(self, line: dict[str, Any]) -> None:
        identity = hash(line["case"])
        if identity not in self._seen:
            self._seen.add(identity)
            self.hazards.update(set(line.get("hazards", ())))

    def _add_entries(self, line: dict[str, Any]) -> None:
        place = line["implementation"], line["device"]
        self.met.update((entry, *place) for entry in set(line.get("met", ())))
        if line.get("entry"):
            self.known[line["entry"], *place] += 1

    def _add_reasons(self, name: str, line: dict[str, Any]) -> None:
        counts = self.undecided_because[name]
        for reason in {text[:MAX_REASON] for text in line.get("undecided_because", ())}:
            if reason in counts or len(counts) < MAX_REASONS:
                counts[reason] += 1

    def _add_failure(self, cell: Cell, line: dict[str, Any]) -> None:
        stage, clause = line.get("stage"), line.get("clause")
        self.causes[cell.implementation, line["verdict"], stage, clause] += 1
        if len(self.failures[cell]) < MAX_FAILURES:
            self.failures[cell].append(Failure(line["case"], line["test"], line["verdict"], stage, clause))


def verdict_of(line: dict[str, Any]) -> str:
    """Return the verdict of a `batch` line. Until log schema 2, `undecided` marked an inconclusive batch."""
    verdict: str = line["verdict"]
    undecided = line.get("undecided") is True and verdict in ("exact", "within_bound", "admissible")
    return "inconclusive" if undecided else verdict


def batch_fault(line: dict[str, Any]) -> str | None:
    """Return a description of the fault of a `batch` line, or None if the line is valid.

    The result is that of validation by the JSON Schema, which is four hundred times slower.
    """
    for name in _NAMES:
        if not isinstance(line.get(name), str):
            return f"{name}: {line.get(name)!r:.80} is not a string"
    if line.get("verdict") not in VERDICTS:
        return f"verdict: {line.get('verdict')!r:.80} is not one of {', '.join(VERDICTS)}"
    if line.get("uniqueness") not in (*UNIQUENESS, None):
        return f"uniqueness: {line['uniqueness']!r:.80} is not one of {', '.join(UNIQUENESS)}"
    for name in ("stage", "clause", "phase", "entry", "reason", "recipe", "parameter"):
        if not isinstance(line.get(name), (str, type(None))):
            return f"{name}: {line[name]!r:.80} is not a string"
    hazards, stages = line.get("hazards", []), line.get("stages", {})
    lists = {name: line.get(name, []) for name in ("met", "undecided_because")}
    for name, names in (("hazards", hazards), *lists.items()):
        if not isinstance(names, list) or not all(isinstance(text, str) for text in names):
            return f"{name}: expected a list of strings"
    if (
        not isinstance(stages, dict)
        or not _are_reals(stages.values())
        or not _are_reals([line.get(name) for name in _TIMES])
    ):
        return "stages, milliseconds: expected numbers"
    return None


def _step(margin: float) -> float:
    """Return the index of a margin on a logarithmic scale, rounded up; -inf for zero, inf for a non-finite margin."""
    if margin <= 0:
        return -math.inf
    return math.ceil(math.log2(margin) * STEPS_PER_OCTAVE) if margin < math.inf else math.inf


def _are_reals(values: Iterable[Any]) -> bool:
    return all(
        (isinstance(value, (str, type(None))) and value in _OTHER_REALS)
        or (isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 <= value <= 1e300)
        for value in values
    )
