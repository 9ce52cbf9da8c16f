"""Times of several implementations taken in turns, A B C, A B C, ...: all meet the machine's same moods."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from tal_conformance.benchmarks.intervals import Ratio, paired_ratio
from tal_conformance.benchmarks.operations import Operation, failing_clearly
from tal_conformance.benchmarks.plans import Plan
from tal_conformance.implementations.errors import ImplementationFailed


class Clock(Protocol):
    """How times are taken on a device."""

    def settle(self) -> None:
        """Wait until the device has nothing left to do."""

    def mark(self) -> Any:
        """A point in time, taken without waiting for anything."""

    def seconds(self, since: Any, until: Any) -> float:
        """Time between two marks, once the device has reached both."""


class WallClock:
    """For the CPU, whose calls return when they are done."""

    def settle(self) -> None:
        """Nothing runs on after a call."""

    def mark(self) -> float:
        """Now."""
        return time.perf_counter()

    def seconds(self, since: float, until: float) -> float:
        """The difference."""
        return until - since


class CudaClock:
    """For CUDA: events in the stream of work, so that nothing waits while a call is timed."""

    def settle(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()

    def mark(self) -> torch.cuda.Event:
        """An event behind what is queued so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, since: torch.cuda.Event, until: torch.cuda.Event) -> float:
        """Time between two events, when the later one has happened."""
        until.synchronize()
        return since.elapsed_time(until) / 1000


def clock_of(device: str) -> Clock:
    """The clock for "cpu" or "cuda"."""
    return CudaClock() if device == "cuda" else WallClock()


@dataclass
class Timings:
    """What interleaved rounds took.

    Attributes:
        rounds: for each name one tuple a round: seconds from the start to the end of each step.
        failures: those that raised; they have no rounds.
    """

    rounds: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    failures: dict[str, ImplementationFailed] = field(default_factory=dict)

    def seconds(self, name: str, lap: int) -> list[float]:
        """Seconds to the end of a step, one a round."""
        return [times[lap] for times in self.rounds[name]]

    def ratio(self, name: str, baseline: str | None, lap: int) -> Ratio | None:
        """Time of one relative to another; None where the other has no times."""
        if baseline is None or not self.rounds.get(baseline) or not self.rounds.get(name):
            return None
        return paired_ratio(self.seconds(name, lap), self.seconds(baseline, lap))

    def all_narrow(self, baseline: str | None, width: float) -> bool:
        """Whether every ratio to the baseline has an interval narrower than `width` of itself."""
        others = [
            (name, lap)
            for name, rounds in self.rounds.items()
            if name != baseline
            for lap in range(len(rounds[0]))
        ]
        ratios = [self.ratio(name, baseline, lap) for name, lap in others]
        return all(ratio is not None and ratio.narrower_than(width) for ratio in ratios)


def interleave(
    operations: Mapping[str, Operation],
    clock: Clock,
    plan: Plan,
    baseline: str | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Timings:
    """Run all operations in turns, round after round, until the plan is fulfilled.

    One that raises is left out from then on; the others go on. Before the first round each runs once untimed,
    and what it returns is looked at.

    Args:
        operations: by name, in the order of a round.
        clock: takes the times.
        plan: how many rounds.
        baseline: the ratios to this one are what the plan's `width` is about.
        now: seconds on the clock of the plan's time budget.
    """
    timings = Timings()
    for name, operation in operations.items():
        with _noting(timings, name):
            operation.run()
            timings.rounds[name] = []
    began, count = now(), 0
    while timings.rounds and not plan.fulfilled(
        count, now() - began, lambda width: timings.all_narrow(baseline, width)
    ):
        for name in list(timings.rounds):
            with _noting(timings, name):
                timings.rounds[name].append(_time(operations[name], clock))
        count += 1
    return timings


@contextmanager
def _noting(timings: Timings, name: str) -> Iterator[None]:
    try:
        with failing_clearly():
            yield
    except ImplementationFailed as failure:
        timings.rounds.pop(name, None)
        timings.failures[name] = failure


def _time(operation: Operation, clock: Clock) -> tuple[float, ...]:
    """Seconds from the start to the end of each step."""
    state = operation.prepare()
    clock.settle()
    with _no_collection():
        marks = [clock.mark()]
        for step in operation.steps:
            state = step(state)
            marks.append(clock.mark())
    return tuple(clock.seconds(marks[0], mark) for mark in marks[1:])


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector from running just now."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
