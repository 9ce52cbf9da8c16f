"""Time that benchmarks may take, by profile."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from tal_conformance.benchmarks.workloads import CASES, CROWDED, SMALL, TRAINING


@dataclass(frozen=True)
class Plan:
    """Cases that are timed, and the number of rounds.

    Attributes:
        cases: names of cases.
        rounds: least number of rounds of each benchmark.
        most: largest number of rounds.
        seconds: time after which, beyond the least rounds, no new round of a benchmark begins.
        width: relative width of the interval below which, for every ratio, no new round begins.
        total: time of all benchmarks together after which no new case begins.
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
        """The same cases, each called once without timing."""
        return replace(self, rounds=0, most=0, memory=())

    def fulfilled(self, count: int, spent: float, narrow: Callable[[float], bool]) -> bool:
        """Return True if no more rounds are needed after `count` rounds, which took `spent` seconds.

        Args:
            count: rounds so far.
            spent: seconds so far.
            narrow: returns True if all intervals are narrower than a share; called only if it matters.
        """
        if count < self.rounds:
            return False
        return count >= self.most or spent >= self.seconds or (self.width is not None and narrow(self.width))


SIZES = (SMALL.name, *(case.name for case in TRAINING))
LARGE = (*(case.name for case in TRAINING), CROWDED.name)

PLANS = {
    "dev": Plan((SMALL.name,), rounds=5, most=30, seconds=0.5),
    "ci": Plan(SIZES, rounds=2, most=50, seconds=1.5, total=12),
    "nightly": Plan((*SIZES, CROWDED.name), rounds=10, most=400, seconds=60, width=0.05, memory=LARGE),
}
"""By profile."""


def plan_for(profile: str, rounds: int | None) -> Plan:
    """Return the profile's plan; with `rounds`, exactly that many rounds of every case, and memory."""
    if rounds is None:
        return PLANS[profile]
    return Plan(tuple(CASES), rounds, most=rounds, seconds=inf, memory=LARGE)
