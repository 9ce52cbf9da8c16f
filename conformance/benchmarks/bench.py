"""The benchmarks of a run: which implementations are timed on which cases, and their results."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

from tal_conformance.benchmarks.intervals import Ratio
from tal_conformance.benchmarks.limits import copy_rate, least_bytes_of
from tal_conformance.benchmarks.memory import peak_bytes
from tal_conformance.benchmarks.operations import LAPS, operation
from tal_conformance.benchmarks.plans import Plan
from tal_conformance.benchmarks.timing import Timings, clock_of, interleave
from tal_conformance.benchmarks.workloads import CASES
from tal_conformance.core.task import DETECT, OBB
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_reference import Hyperparameters

OFFICIAL = "ultralytics"
BASELINES = (OFFICIAL, "reference")
"""Implementations that are timed even if they are not under test, for comparison."""
OWN_ASSIGNER = (DETECT.name, OBB.name)
"""Tasks whose assigner is timed: heads with branches, keypoints or masks have the assigner of detection."""


@dataclass(frozen=True)
class Benchmark:
    """One row of the table of benchmarks.

    Attributes:
        case: name of the batch.
        capability: "assign" or "loss".
        lap: name in `LAPS` of the part of the call at whose end the time is taken.
        name: name of the implementation.
        device: "cpu" or "cuda", on which the call runs.
    """

    case: str
    capability: str
    lap: str
    name: str
    device: str

    @property
    def title(self) -> str:
        """Title of the benchmark in the log and the report."""
        return f"{self.lap} {self.case}"


@dataclass(frozen=True)
class Cost:
    """Result of a benchmark.

    Attributes:
        seconds: time of the call in each round; empty if nothing was timed.
        ratio: ratio of the times to the times of the official release; None if the official release was not timed.
    """

    seconds: list[float]
    ratio: Ratio | None

    @property
    def median(self) -> float | None:
        """Median of the times, in seconds; None if nothing was timed."""
        return median(self.seconds) if self.seconds else None


class OutOfTime(Exception):
    """Error: the time that the benchmark plan (`Plan`) allows for all benchmarks together is used up."""


@dataclass
class Bench:
    """The benchmarks of a run. The first request for a case times all implementations on that case.

    Attributes:
        implementations: the timed implementations, by name.
        plan: cases to time, numbers of rounds and time limits.
        now: clock of the plan's time budgets, in seconds.
        spent: seconds spent on timing so far.
        dropped: titles of the benchmarks that were requested after the plan's time was used up.
    """

    implementations: Mapping[str, Implementation]
    plan: Plan
    now: Callable[[], float] = time.monotonic
    spent: float = 0
    dropped: list[str] = field(default_factory=list)
    _rates: dict[str, float] = field(default_factory=dict)
    _measured: dict[tuple[str, str, str], Timings] = field(default_factory=dict)

    def official(self, task: str = DETECT.name) -> str | None:
        """Return the name of the official Ultralytics release that computes a task; None if there is none."""
        return next((name for name, each in self._of_task(task).items() if each.spec == OFFICIAL), None)

    def _of_task(self, task: str) -> dict[str, Implementation]:
        """Return the implementations that compute a task, by name."""
        return {name: each for name, each in self.implementations.items() if task in each.tasks}

    def benchmarks(self, device: str) -> list[Benchmark]:
        """Return all benchmarks on a device; benchmarks that are timed in turns, as a group, are adjacent."""
        return [
            Benchmark(case, capability, lap, name, device)
            for case in self.plan.cases
            for capability, laps in LAPS.items()
            if capability == "loss" or CASES[case].task in OWN_ASSIGNER
            for lap in laps
            for name, each in self._of_task(CASES[case].task).items()
            if capability in each.capabilities
            and each.support.reason_against(CASES[case].head, Hyperparameters()) is None
        ]

    def cost(self, benchmark: Benchmark) -> Cost:
        """Return the times of a benchmark and their ratio; the first call measures the times.

        Raises:
            ImplementationFailed: the implementation raised, or violated the protocol.
            OutOfTime: the plan's time was used up before the benchmark was timed.
        """
        try:
            timings = self._timings(benchmark.case, benchmark.capability, benchmark.device)
        except OutOfTime:
            self.dropped += [] if benchmark.title in self.dropped else [benchmark.title]
            raise
        if benchmark.name in timings.failures:
            raise timings.failures[benchmark.name]
        lap = LAPS[benchmark.capability].index(benchmark.lap)
        return Cost(
            timings.seconds(benchmark.name, lap),
            timings.ratio(benchmark.name, self.official(CASES[benchmark.case].task), lap),
        )

    def peak(self, benchmark: Benchmark) -> int | None:
        """Return the peak memory in bytes of the benchmarked call of an assigner or a loss.

        Return None if the benchmark plan does not measure memory for this case, or if the benchmark does not time the
        whole call (its lap, or timed part, is not the last).

        Raises:
            ImplementationFailed: the implementation raised, or its process died.
            MemoryUnknown: this system does not report the memory of a process.
        """
        if benchmark.case not in self.plan.memory or benchmark.lap != LAPS[benchmark.capability][-1]:
            return None
        batch = CASES[benchmark.case].build()
        return peak_bytes(self.implementations[benchmark.name], batch, benchmark.device, benchmark.capability)

    def least_seconds(self, benchmark: Benchmark) -> float:
        """Return the lower limit of a benchmark's time: its minimum of moved bytes, at the rate of copying memory."""
        device = benchmark.device
        if device not in self._rates:
            self._rates[device] = copy_rate(device=device)
        return least_bytes_of(benchmark.case, benchmark.lap) / self._rates[device]

    def _timings(self, case: str, capability: str, device: str) -> Timings:
        key = (case, capability, device)
        if key not in self._measured:
            if self.spent >= self.plan.total:
                raise OutOfTime(
                    f"the time limit of {self.plan.total:g} s for the benchmarks of this profile is reached"
                )
            began = self.now()
            self._measured[key] = self._measure(case, capability, device)
            self.spent += self.now() - began
        return self._measured[key]

    def _measure(self, case: str, capability: str, device: str) -> Timings:
        batch, task = CASES[case].build().to(device), CASES[case].task
        operations = {
            name: operation(capability, each, batch)
            for name, each in self._of_task(task).items()
            if capability in each.capabilities
        }
        return interleave(operations, clock_of(device), self.plan, self.official(task), self.now)


def compared_implementations(
    tested: list[Implementation], beside: tuple[str, ...] = BASELINES
) -> dict[str, Implementation]:
    """Return the implementations under test and the available baselines, by name; the official release first.

    Args:
        tested: the implementations under test.
        beside: names of the baselines.
    """
    taken = {each.name for each in tested}
    everybody = {each.name: each for each in tested}
    for name in beside:
        if name in [each.spec for each in tested]:
            continue
        with suppress(
            UnknownImplementation, ProtocolViolation
        ):  # the release is not available, and the run reports that it has no ratios
            found = find(name)
            everybody[f"{found.name} (baseline)" if found.name in taken else found.name] = found
    return dict(sorted(everybody.items(), key=lambda item: _rank(item[1].spec)))


def _rank(name: str) -> int:
    return BASELINES.index(name) if name in BASELINES else len(BASELINES)
