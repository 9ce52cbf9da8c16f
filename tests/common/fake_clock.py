"""Operations that take just as long as they say, on a clock that they move themselves."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tal_conformance.benchmarks.operations import Operation


@dataclass
class FakeClock:
    """A clock that stands still unless somebody moves it; it notes what was done."""

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
    """An operation whose steps take `seconds` of the number of its call, counted from the untimed one, 0."""
    calls = iter(range(10**9))

    def prepare() -> int:
        clock.pass_(1000)  # must not be in any time
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
