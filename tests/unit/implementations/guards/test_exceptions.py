"""Every exception that an implementation raises is reported as its error, except a real Ctrl-C."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    ProtocolViolation,
    UnknownImplementation,
)
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find

BATCH = Recipe().build()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def throw(error: BaseException) -> None:
    raise error


RAISING: dict[str, Callable[[], None]] = {
    "Skipped: not today": lambda: pytest.skip("not today"),
    "XFailed: expected": lambda: pytest.xfail("expected"),
    "Failed: on purpose": lambda: pytest.fail("on purpose"),
    "Exit: enough": lambda: pytest.exit("enough"),
    "KeyboardInterrupt: not by the user": lambda: throw(KeyboardInterrupt("not by the user")),
    "GeneratorExit: ": lambda: throw(GeneratorExit()),
    "StopIteration: ": lambda: throw(StopIteration()),
    "CancelledError: ": lambda: throw(asyncio.CancelledError()),
    "SystemExit: 0": lambda: sys.exit(0),
    "BaseException: at the root": lambda: throw(BaseException("at the root")),
    "Unprintable: (its message raised KeyboardInterrupt)": lambda: throw(Unprintable()),
}


class Double:
    """An assigner whose `assign` calls a given function, which is expected to raise."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def assign(self, inputs: AssignerInputs) -> Assignment:
        self.function()
        raise AssertionError("not reached")


@pytest.mark.parametrize("text", RAISING)
def test_what_an_implementation_raises_is_its_error(text: str):
    with pytest.raises(ImplementationFailed) as caught:
        execute(implementation_from(Double(RAISING[text]), "x"), BATCH)
    assert caught.value.what.startswith(f"raised {text}")
    assert caught.value.details is not None
    assert "Traceback" in caught.value.details
    assert "in assign" in caught.value.details


@pytest.mark.parametrize("text", RAISING)
def test_what_making_an_adapter_raises_is_its_error(text: str):
    def factory() -> None:
        RAISING[text]()

    with pytest.raises(ProtocolViolation) as caught:
        implementation_from(factory, "x")
    assert str(caught.value).startswith(f"x: making the adapter raised {text}")


@pytest.mark.parametrize("where", ["skips_when_imported:adapter", "skips_when_imported.py:adapter"])
def test_what_importing_an_adapter_raises_is_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    (tmp_path / "skips_when_imported.py").write_text(
        "import pytest\npytest.skip('no GPU', allow_module_level=True)\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownImplementation, match="raised Skipped: no GPU"):
        find(where)


def interrupt() -> None:
    """Send SIGINT to this process, as Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


def interrupt_and_hide() -> None:
    """Send SIGINT to this process, catch the KeyboardInterrupt, and raise ValueError instead."""
    try:
        interrupt()
    except KeyboardInterrupt:
        raise ValueError("hides it") from None


@pytest.fixture(autouse=True)
def _interrupts_arrive() -> Iterator[None]:
    """Install Python's handler of SIGINT, because processes in the background inherit that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("function", [interrupt, interrupt_and_hide])
def test_a_real_interrupt_ends_the_run(function: Callable[[], None]):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        execute(implementation_from(Double(function), "x"), BATCH)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_real_interrupt_ends_the_run_while_an_adapter_is_made():
    with pytest.raises(KeyboardInterrupt):
        implementation_from(interrupt_and_hide, "x")


def test_a_handler_that_an_implementation_installs_is_removed():
    before = signal.getsignal(signal.SIGINT)
    double = Double(lambda: throw(ValueError(signal.signal(signal.SIGINT, signal.SIG_IGN))))
    with pytest.raises(ImplementationFailed):
        execute(implementation_from(double, "x"), BATCH)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_no_signal_handler_is_installed():
    caught = []

    def run() -> None:
        try:
            execute(implementation_from(Double(RAISING["SystemExit: 0"]), "x"), BATCH)
        except ImplementationFailed as error:
            caught.append(error.what)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [what.startswith("raised SystemExit: 0") for what in caught] == [True]
