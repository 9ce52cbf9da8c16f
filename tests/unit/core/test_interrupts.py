"""A Ctrl-C ends the run even if Python discards the KeyboardInterrupt."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from tal_conformance.core.interrupts import Interrupts, lost_interrupts
from tal_conformance.core.supervision import supervised
from tal_conformance.implementations.errors import ImplementationFailed, ProtocolViolation
from tal_conformance.implementations.guards.exceptions import exceptions_as_failures, recorded_interrupts


@pytest.fixture(autouse=True)
def python_handles_interrupts() -> Iterator[None]:
    """Install Python's handler of SIGINT, because background processes of a shell ignore the signal."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


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


@pytest.fixture
def not_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the supervisor say that it received no SIGINT."""
    monkeypatch.setattr(supervised, "user_interrupted", lambda: False)


def send() -> None:
    signal.raise_signal(signal.SIGINT)


def pretend() -> None:
    lost_interrupts.arrived = True


def send_and_raise() -> None:
    send()
    raise KeyboardInterrupt("pretends")


@pytest.mark.usefixtures("not_the_user")
@pytest.mark.parametrize(
    ("attack", "message"),
    [(send, "it sent SIGINT"), (pretend, "it sent SIGINT"), (send_and_raise, "KeyboardInterrupt: pretends")],
)
def test_a_signal_of_an_implementation_is_its_error(
    attack: Callable[[], None], message: str, recording: Interrupts
):
    with pytest.raises(ImplementationFailed, match=message), exceptions_as_failures():
        attack()
    assert not recording.arrived
    with recorded_interrupts():
        pass


@pytest.mark.usefixtures("not_the_user")
def test_a_signal_of_an_import_is_a_violation(recording: Interrupts):
    with pytest.raises(ProtocolViolation, match="it sent SIGINT"), recorded_interrupts():
        send()


@pytest.mark.usefixtures("not_the_user")
def test_a_discarded_interrupt_that_code_sent_is_forgotten(recording: Interrupts):
    InterruptedWhenDeleted()
    assert recording.arrived
    with recorded_interrupts():
        pass
    assert not recording.arrived


def test_the_record_of_an_unsupervised_process_counts(recording: Interrupts):
    assert supervised.user_interrupted() is None
    with pytest.raises(KeyboardInterrupt), exceptions_as_failures():
        send()
