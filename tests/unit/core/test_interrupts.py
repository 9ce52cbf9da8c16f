"""A Ctrl-C ends the run even if Python discards the KeyboardInterrupt."""

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from tal_conformance.core.interrupts import Interrupts, lost_interrupts
from tal_conformance.implementations.guards.exceptions import recorded_interrupts


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupts]:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    restore = lost_interrupts.record()
    yield lost_interrupts
    restore()
    lost_interrupts.forget()


class InterruptedWhenDeleted:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_python_discards_is_raised_at_the_next_call(recording: Interrupts):
    InterruptedWhenDeleted()
    with pytest.raises(KeyboardInterrupt), recorded_interrupts():
        raise AssertionError("the call was made")


def test_an_interrupt_by_which_the_run_ends_is_not_raised_again(recording: Interrupts):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    recording.forget()
    with recorded_interrupts():
        pass


def test_the_previous_handler_is_called_and_restored():
    previous = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    restore = interrupts.record()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    restore()
    assert interrupts.arrived
    assert signal.getsignal(signal.SIGINT) is previous


def test_nothing_is_recorded_in_another_thread():
    previous = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=Interrupts().record)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is previous
