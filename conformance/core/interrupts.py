"""Record Ctrl-C, so that a run ends even if Python discards the KeyboardInterrupt."""

import signal
import threading
from collections.abc import Callable
from types import FrameType


class Interrupts:
    """Record of the signal SIGINT (Ctrl-C).

    Attributes:
        arrived: True once the signal has arrived, until `forget` is called.
    """

    def __init__(self) -> None:
        self.arrived = False

    def record(self) -> Callable[[], None]:
        """Record SIGINT from now on, and also call the previous handler; return a function that restores this handler.

        Outside of the main thread, and where SIGINT is ignored, nothing is recorded.
        """
        previous = signal.getsignal(signal.SIGINT)
        if not callable(previous) or threading.current_thread() is not threading.main_thread():
            return lambda: None
        call_previous = previous

        def handle(number: int, frame: FrameType | None) -> None:
            self.arrived = True
            call_previous(number, frame)

        signal.signal(signal.SIGINT, handle)

        def restore() -> None:
            signal.signal(signal.SIGINT, previous)

        return restore

    def forget(self) -> None:
        """Forget the signal, because the run is ending."""
        self.arrived = False

    def raise_if_arrived(self) -> None:
        """Raise if SIGINT has arrived.

        Raises:
            KeyboardInterrupt: the user interrupted the run.
        """
        if self.arrived:
            raise KeyboardInterrupt


lost_interrupts = Interrupts()
"""Interrupts of the whole run, which are raised again before the next call of an implementation.

Python discards an exception that is raised in a callback of the garbage collector or in `__del__`, and thus a Ctrl-C
that arrives while the collector works. Without this record, the run would continue.
"""
