"""A clock that tests advance by hand, and operations to be timed that advance the clock by given times."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tal_conformance.benchmarks.operations import Operation


@dataclass
class FakeClock:
    """A clock that only `pass_` advances.

    `calls` lists, in order, the names of all calls that settle the clock or are timed.
    """

    now: float = 0.0
    calls: list[str] = field(default_factory=list)

    def settle(self) -> None:
        self.calls.append("settle")

    def mark(self) -> float:
        return self.now

    def seconds(self, since: float, until: float) -> float:
        return until - since

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def taking(
    clock: FakeClock, name: str, *seconds: Callable[[int], float], raises_in: int | None = None
) -> Operation:
    """Return an operation to be timed, whose steps advance the clock by given times.

    Args:
        clock: the clock that the operation advances.
        name: name of the operation.
        seconds: for each step, a function from the number of the call (0: the untimed call) to the step's seconds.
        raises_in: number of the call that raises; None if no call does.
    """
    calls = iter(range(10**9))

    def prepare() -> int:
        clock.pass_(1000)  # must not count in any measured time
        return next(calls)

    def step(lasts: Callable[[int], float]) -> Callable[[int], int]:
        def run(call: int) -> int:
            clock.calls.append(name)
            if call == raises_in:
                raise RuntimeError(f"{name} had enough")
            clock.pass_(lasts(call))
            return call

        return run

    return Operation(prepare, tuple(step(lasts) for lasts in seconds), lambda _: None)
