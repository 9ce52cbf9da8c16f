"""Time several implementations in turns (A B C, A B C, ...), so that the machine's load affects all of them alike."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from tal_conformance.benchmarks.intervals import Ratio, paired_ratio
from tal_conformance.benchmarks.operations import Operation
from tal_conformance.benchmarks.plans import Plan
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.guards.exceptions import exceptions_as_failures


class Clock(Protocol):
    """Interface of a clock that times work on one device."""

    def settle(self) -> None:
        """Wait until the device is idle."""

    def mark(self) -> Any:
        """Return a mark: the device's current point in time, read without waiting for the device."""

    def seconds(self, since: Any, until: Any) -> float:
        """Wait until the device has reached two marks, and return the seconds between them."""


class WallClock:
    """Clock for the CPU, where a call returns when its work is finished."""

    def settle(self) -> None:
        """Do nothing: the CPU is idle after every call."""

    def mark(self) -> float:
        """Return the current time in seconds."""
        return time.perf_counter()

    def seconds(self, since: float, until: float) -> float:
        """Return the difference of two times in seconds."""
        return until - since


class CudaClock:
    """Clock for CUDA. It uses events in the stream, so that a timed call is not synchronised."""

    def settle(self) -> None:
        """Wait until all queued work is finished."""
        torch.cuda.synchronize()

    def mark(self) -> torch.cuda.Event:
        """Return a CUDA event that the device reaches when the work queued so far is finished."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, since: torch.cuda.Event, until: torch.cuda.Event) -> float:
        """Wait for the later of two events, and return the seconds between them."""
        until.synchronize()
        return since.elapsed_time(until) / 1000


def clock_of(device: str) -> Clock:
    """Return the clock for "cpu" or "cuda"."""
    return CudaClock() if device == "cuda" else WallClock()


@dataclass
class Timings:
    """Times of several operations, measured in turns ("rounds").

    Attributes:
        rounds: for each operation's name one tuple per round: seconds from the start to the end of each step.
        failures: failures by the operation's name; a failed operation has no rounds.
    """

    rounds: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    failures: dict[str, ImplementationFailed] = field(default_factory=dict)

    def seconds(self, name: str, lap: int) -> list[float]:
        """Return for each round the seconds from the start of an operation to the end of step `lap`."""
        return [times[lap] for times in self.rounds[name]]

    def ratio(self, name: str, baseline: str | None, lap: int) -> Ratio | None:
        """Return the ratio of an operation's times to a baseline's, or None if the baseline has no times."""
        if baseline is None or not self.rounds.get(baseline) or not self.rounds.get(name):
            return None
        return paired_ratio(self.seconds(name, lap), self.seconds(baseline, lap))

    def all_narrow(self, baseline: str | None, width: float) -> bool:
        """Return True if every ratio to the baseline has an interval narrower than `width` times the ratio.

        Return False if a ratio is missing because the baseline has no times.
        """
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

    An operation that raises is not called again, while the others continue. Before the first round each operation runs
    once untimed, and its result is checked.

    Args:
        operations: operations by name, in the order of a round.
        clock: clock of the device.
        plan: numbers of rounds and time limits.
        baseline: name of the operation whose ratios the plan's `width` refers to.
        now: clock of the plan's time budget, in seconds.
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
        with exceptions_as_failures():
            yield
    except ImplementationFailed as failure:
        timings.rounds.pop(name, None)
        timings.failures[name] = failure


def _time(operation: Operation, clock: Clock) -> tuple[float, ...]:
    """Run an operation, and return the seconds from its start to the end of each step."""
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
    """Disable Python's garbage collector while the block runs."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
