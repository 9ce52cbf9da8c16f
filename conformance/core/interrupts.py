"""Record Ctrl-C, so that a run ends even if Python discards the KeyboardInterrupt.

Code of an implementation can send SIGINT too, to its own process. The supervisor of a run tells the two cases apart.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType

from tal_conformance.core.supervision import supervised


class Interrupts:
    """Record of the signal SIGINT (Ctrl-C).

    Attributes:
        arrived: True once the signal has arrived, until `forget` is called.
        sent_by_code: True once a signal has arrived that code of this process sent.
    """

    def __init__(self) -> None:
        self.arrived = self.sent_by_code = False

    def record(self, during_call: bool = False) -> Callable[[], None]:
        """Record SIGINT from now on, and also call the previous handler; return a function that restores this handler.

        Outside of the main thread, and where SIGINT is ignored, nothing is recorded.

        Args:
            during_call: True while code of an implementation runs. The previous handler is then not called for a
                signal that this code sent.
        """
        previous = signal.getsignal(signal.SIGINT)
        if not callable(previous) or threading.current_thread() is not threading.main_thread():
            return lambda: None
        call_previous = previous

        def handle(number: int, frame: FrameType | None) -> None:
            if during_call and supervised.user_interrupted() is False:
                self.sent_by_code = True
                return
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
        """Raise if SIGINT has arrived; forget it if code of this process sent it, or set `arrived` itself.

        Raises:
            KeyboardInterrupt: the user interrupted the run.
        """
        if self.arrived and supervised.user_interrupted() is False:
            self.arrived, self.sent_by_code = False, True
        if self.arrived:
            raise KeyboardInterrupt


lost_interrupts = Interrupts()
"""Interrupts of the whole run, which are raised again before the next call of an implementation.

Python discards an exception that is raised in a callback of the garbage collector or in `__del__`, and thus a Ctrl-C
that arrives while the collector works. Without this record, the run would continue.
"""
