"""Plans of the benchmarks by profile: which cases are timed, how often, and for how long."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import inf

from tal_conformance.benchmarks.workloads import (
    CASES,
    CROWDED,
    SMALL,
    SMALL_OF_TASKS,
    TRAINING,
    TRAINING_OF_TASKS,
)


@dataclass(frozen=True)
class Plan:
    """The amount of benchmarking in one run: the cases to time, numbers of rounds, and time limits.

    Attributes:
        cases: names of cases.
        rounds: minimum number of rounds of each benchmark.
        most: maximum number of rounds.
        seconds: time limit of one benchmark: after the minimum number of rounds, no new round begins later.
        width: relative width of the confidence interval; no new round begins when all ratios have narrower intervals.
        total: time limit in seconds of all benchmarks together: no new case begins later.
        memory: names of the cases whose peak memory is measured too.
    """

    cases: tuple[str, ...]
    rounds: int
    most: int
    seconds: float
    width: float | None = None
    total: float = inf
    memory: tuple[str, ...] = ()

    def untimed(self) -> "Plan":
        """A plan of the same cases in which every operation is called once without timing."""
        return replace(self, rounds=0, most=0, memory=())

    def of_tasks(self, tasks: Collection[str]) -> "Plan":
        """A plan of the cases of these tasks alone."""
        return replace(self, cases=tuple(name for name in self.cases if CASES[name].task in tasks))

    def fulfilled(self, count: int, spent: float, narrow: Callable[[float], bool]) -> bool:
        """Return True if no more rounds are needed after `count` rounds, which took `spent` seconds.

        Args:
            count: rounds so far.
            spent: seconds so far.
            narrow: returns True if all intervals are narrower than a share of their ratios; called only if needed.
        """
        if count < self.rounds:
            return False
        return count >= self.most or spent >= self.seconds or (self.width is not None and narrow(self.width))


SMALLEST = (SMALL.name, *(case.name for case in SMALL_OF_TASKS))
LARGE = tuple(case.name for case in (*TRAINING, CROWDED, *TRAINING_OF_TASKS))

PLANS = {
    "dev": Plan(SMALLEST, rounds=5, most=30, seconds=0.5),
    "ci": Plan((*SMALLEST, TRAINING[0].name), rounds=2, most=50, seconds=0.75, total=12),
    "nightly": Plan((*SMALLEST, *LARGE), rounds=10, most=400, seconds=60, width=0.05, memory=LARGE),
}
"""The plan of each profile."""


def plan_for(profile: str, rounds: int | None) -> Plan:
    """Return the profile's plan; if `rounds` is given, a plan of all cases, with memory, in this number of rounds."""
    if rounds is None:
        return PLANS[profile]
    return Plan(tuple(CASES), rounds, most=rounds, seconds=inf, memory=LARGE)
