"""A timer through which pytest-benchmark reports times that were measured before."""

from collections.abc import Callable, Sequence


class RecordedTimer:
    """A timer for pytest-benchmark that reports times which were measured before.

    pytest-benchmark times one callable completely before the next. On a machine that does other work too, ratios of
    such times are unreliable. Therefore implementations are timed in turns (`timing`), and each test reports one
    implementation's times to pytest-benchmark for its tables and JSON.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Return the current value of the timer, in seconds."""
        return self._now

    def of(self, seconds: Sequence[float]) -> Callable[[], None]:
        """Return a function for pytest-benchmark: each call advances the timer by the next recorded time.

        After the last recorded time, calls advance the timer by 0.
        """
        remaining = iter(seconds)

        def replay() -> None:
            self._now = next(remaining, 0.0)

        return replay

    def reset(self) -> None:
        """Set the timer to 0 at the start of a round, so that large values do not cost precision."""
        self._now = 0.0
