"""How much time benchmarks may take, by profile."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from tal_conformance.benchmarks.workloads import CASES, CROWDED, SMALL, TRAINING


@dataclass(frozen=True)
class Plan:
    """Which cases are timed, and how many rounds.

    Attributes:
        cases: names of cases.
        rounds: of each benchmark, at least.
        most: at most.
        seconds: after the least rounds, no new one is begun when this much time is spent on the benchmark.
        width: nor when every ratio's interval is narrower than this share of the ratio.
        total: no case is begun when this much time is spent on all benchmarks together.
        memory: names of the cases whose peak memory is measured as well.
    """

    cases: tuple[str, ...]
    rounds: int
    most: int
    seconds: float
    width: float | None = None
    total: float = inf
    memory: tuple[str, ...] = ()

    def untimed(self) -> "Plan":
        """The same cases, each called once and not timed."""
        return replace(self, rounds=0, most=0, memory=())

    def fulfilled(self, count: int, spent: float, narrow: Callable[[float], bool]) -> bool:
        """Whether no more rounds are needed after `count` of them, which took `spent` seconds.

        Args:
            count: rounds so far.
            spent: seconds so far.
            narrow: says whether all intervals are narrower than a share; asked only if it matters.
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
    """The profile's plan; with `rounds`, exactly so many of every case, and memory."""
    if rounds is None:
        return PLANS[profile]
    return Plan(tuple(CASES), rounds, most=rounds, seconds=inf, memory=LARGE)
