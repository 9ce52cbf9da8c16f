"""The bridge to pytest-benchmark."""

from collections.abc import Callable, Sequence


class RecordedTimer:
    """A timer for pytest-benchmark that replays recorded times.

    pytest-benchmark times one callable completely before the next. On a machine that does other work too, ratios of
    such times are unreliable. Therefore implementations are timed in turns (`timing`), and each test replays one
    implementation's times for pytest-benchmark's tables and JSON.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Return the timer's present value, in seconds."""
        return self._now

    def of(self, seconds: Sequence[float]) -> Callable[[], None]:
        """Return the callable for pytest-benchmark: each call advances the timer by the next time, then by zero."""
        remaining = iter(seconds)

        def replay() -> None:
            self._now = next(remaining, 0.0)

        return replay

    def reset(self) -> None:
        """Set the timer to 0 at the start of a round, so that earlier rounds do not round its time."""
        self._now = 0.0
