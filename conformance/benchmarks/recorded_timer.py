"""The bridge to pytest-benchmark."""

from collections.abc import Callable, Sequence


class RecordedTimer:
    """A stopwatch for pytest-benchmark that shows times which were taken before.

    pytest-benchmark times one callable a test, from its first round to its last, before the next. Where a
    machine does other things too, ratios of such times mean little. So implementations are timed in turns
    (`timing`), and each test replays one implementation's times for pytest-benchmark's tables and JSON.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """What the stopwatch shows, in seconds."""
        return self._now

    def of(self, seconds: Sequence[float]) -> Callable[[], None]:
        """What pytest-benchmark is to time: every call takes the next of these times, then none at all."""
        remaining = iter(seconds)

        def replay() -> None:
            self._now = next(remaining, 0.0)

        return replay

    def reset(self) -> None:
        """Show 0: what a round begins with, so that no time is rounded by those before it."""
        self._now = 0.0
