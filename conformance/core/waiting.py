"""Messages about slow answers: who waits for another process reports it here, and the output of a run listens."""

from collections.abc import Callable

Listener = Callable[[str], None]
_listeners: list[Listener] = []


def add_listener(listener: Listener) -> Callable[[], None]:
    """Pass later reports to a listener, and return a function that stops that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener) if listener in _listeners else None


def report_waiting(what: str) -> None:
    """Pass a sentence about what has not ended yet to all listeners. It may be called often."""
    for listener in tuple(_listeners):
        listener(what)
