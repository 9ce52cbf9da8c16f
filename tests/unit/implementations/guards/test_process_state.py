"""Every setting of the process is restored after a call or an import, and each planted change is found."""

import builtins
import ctypes
import decimal
import faulthandler
import functools
import gc
import locale
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tal_conformance.implementations.guards import process_settings, process_state
from tal_conformance.implementations.guards.process_settings import AT_FORK, SETTINGS, fault_handler, same
from tal_conformance.implementations.guards.process_state import ProcessState, unchanged_process, watched
from tal_conformance.implementations.guards.torch_state import StateChanged


def do_nothing(*_: Any, **__: Any) -> None:
    """Do nothing; attacks install this function in many places."""


def ignore_in_c() -> None:
    """Let the C library ignore a signal, which Python does not notice."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(int(signal.SIGUSR2), 1)


def switch_fault_handler() -> None:
    (faulthandler.disable if faulthandler.is_enabled() else faulthandler.enable)()


ATTACKS: dict[str, Callable[[], Any]] = {
    "the signal handlers": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "the timers of signals": lambda: signal.setitimer(signal.ITIMER_REAL, 1000),
    "the blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]),
    "the fault handler": switch_fault_handler,
    "the signal handlers in C": ignore_in_c,
    "the trace function of new threads": lambda: threading.settrace(do_nothing),
    "the profile function of new threads": lambda: threading.setprofile(do_nothing),
    "the interval of thread switches": lambda: sys.setswitchinterval(100),
    "the garbage collection": lambda: gc.disable() if gc.isenabled() else gc.enable(),
    "the thresholds of the garbage collection": lambda: gc.set_threshold(1, 2, 3),
    "the callbacks of the garbage collection": lambda: gc.callbacks.append(do_nothing),
    "the debugging of the garbage collection": lambda: gc.set_debug(gc.DEBUG_SAVEALL),
    "the functions that run at a fork": lambda: os.register_at_fork(before=do_nothing),
    "the functions of sys": lambda: setattr(sys, "exit", do_nothing),
    "the functions of warnings": lambda: setattr(warnings, "warn", do_nothing),
    "the stack size of new threads": lambda: threading.stack_size(2**20),
    "the hooks of asynchronous generators": lambda: sys.set_asyncgen_hooks(firstiter=do_nothing),
    "the context of decimal numbers": lambda: setattr(decimal.getcontext(), "prec", 3),
    "the longest number as text": lambda: sys.set_int_max_str_digits(0),
    "the working directory": lambda: os.chdir("/"),
    "the mask of permissions": lambda: os.umask(0o123),
    "the limits of the process": lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (10**9, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    ),
    "the hooks of sys": lambda: setattr(sys, "unraisablehook", do_nothing),
    "the hook of threads": lambda: setattr(threading, "excepthook", do_nothing),
    "the streams of sys": lambda: setattr(sys, "__stderr__", None),
    "the floating-point errors of NumPy": lambda: np.seterr(under="raise"),
    "the locale": lambda: locale.setlocale(
        locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8"
    ),
    "environment variables": lambda: os.environ.update(PATH="", TAL_CONFORMANCE_X="1"),
    "the warning filters": lambda: warnings.simplefilter("error"),
    "the display of warnings": lambda: setattr(warnings, "showwarning", do_nothing),
    "the handlers of logging": lambda: logging.root.addHandler(logging.NullHandler()),
    "the level of logging": lambda: logging.root.setLevel(1),
    "the level at which logging is disabled": lambda: logging.disable(99),
    "the folder of temporary files": lambda: setattr(tempfile, "tempdir", "/nowhere"),
    "the arguments of the process": lambda: setattr(sys, "argv", ["x"]),
    "the import path": lambda: setattr(sys, "path", []),
    "the finders of imports": lambda: setattr(sys, "meta_path", []),
    "the hooks of the import path": sys.path_hooks.clear,
}
"""A change of each setting."""


@pytest.fixture(autouse=True)
def _fault_handler_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the handler of fatal errors a file, as a run does, and enable it afterwards as it was."""
    enabled = faulthandler.is_enabled()
    with (tmp_path / "faults").open("w") as file:
        faulthandler.enable(file)
        monkeypatch.setattr(fault_handler, "file", file.fileno())
        yield
    (faulthandler.enable if enabled else faulthandler.disable)()


def test_every_setting_has_an_attack():
    assert list(ATTACKS) == [setting.name for setting in SETTINGS]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_change_is_undone(setting: process_settings.Setting):
    before = setting.read()
    _, changed = watched(ATTACKS[setting.name])
    assert (setting.name in changed) == setting.lasts, changed
    assert set(changed) <= {setting.name}
    assert setting.equal(setting.read(), before)
    _, changed = watched(do_nothing)
    assert changed == []


@pytest.mark.parametrize(
    "setting", [setting for setting in SETTINGS if setting.at_import], ids=lambda setting: setting.name
)
def test_a_change_by_an_import_is_undone(setting: process_settings.Setting):
    before = setting.read()
    assert watched(ATTACKS[setting.name], importing=True)[1] == [setting.name]
    assert setting.equal(setting.read(), before)


def test_a_setting_that_cannot_be_read_is_restored_and_the_others_too():
    path, filters = list(sys.path), list(warnings.filters)

    def attack() -> None:
        os.environ = {}  # type: ignore[assignment]  # noqa: B003
        sys.meta_path = None  # type: ignore[assignment]
        sys.path.clear()
        warnings.filters = []

    environment, finders = os.environ, sys.meta_path
    _, changed = watched(attack)
    assert changed == ["the finders of imports"]
    assert os.environ is environment
    assert sys.meta_path is finders
    assert (sys.path, warnings.filters) == (path, filters)


def test_an_error_while_restoring_does_not_keep_the_others_from_it(monkeypatch: pytest.MonkeyPatch):
    def broken(_: Any) -> None:
        raise RuntimeError("cannot be restored")

    first = process_settings.Setting("first", lambda: [time.perf_counter()], broken)
    monkeypatch.setattr(process_state, "SETTINGS", (first, *SETTINGS))
    _, changed = watched(lambda: os.umask(0o111))
    assert changed == ["a setting that cannot be read (RuntimeError)", "the mask of permissions"]


class Liar(int):
    """A number that claims to equal every other one."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (1, 1, True),
        (1, 2, False),
        (1, Liar(1), False),
        ((1, (2, "x")), (1, (2, "x")), True),
        ((1, (2, "x")), (1, (2, "y")), False),
        ((1,), (1, 2), False),
        ({"a": b"1"}, {"a": b"1"}, True),
        ({"a": b"1"}, {"a": b"2"}, False),
        ({"a": 1}, {"a": Liar(2)}, False),
        ({"a": 1}, {"b": 1}, False),
        (object(), object(), False),
    ],
)
def test_values_are_compared(first: Any, second: Any, equal: bool):
    assert same(first, second) is equal


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (lambda: setattr(builtins, "len", do_nothing), "the built-in functions (len)"),
        (lambda: delattr(builtins, "sorted"), "the built-in functions (sorted)"),
        (lambda: sys.settrace(do_nothing), "the trace function"),
        (lambda: sys.setprofile(do_nothing), "the profile function"),
        (lambda: sys.setrecursionlimit(sys.getrecursionlimit() - 1), "the limit of recursion"),
        (lambda: sys.modules.update(json=None), "the loaded modules (json)"),  # type: ignore[call-overload]
    ],
)
def test_a_change_of_the_interpreter_is_undone(attack: Callable[[], Any], name: str):
    before = ProcessState()
    assert watched(attack)[1] == [name]
    after = ProcessState()
    assert (after.trace, after.profile, after.recursion) == (before.trace, before.profile, before.recursion)
    assert after.builtins == before.builtins
    assert after.modules == before.modules


def test_a_replaced_dict_of_modules_is_undone():
    before = sys.modules
    watched(lambda: setattr(sys, "modules", {}))
    assert sys.modules is before


def test_functions_at_a_fork_stay_if_a_library_adds_them():
    assert len(AT_FORK) == 3
    before = [list(functions) for functions in AT_FORK]
    for added in (do_nothing, functools.partial(os._exit, 0), os.abort):
        attack = functools.partial(os.register_at_fork, after_in_child=added)
        assert watched(attack)[1] == ["the functions that run at a fork"]
        assert list(map(list, AT_FORK)) == before
    assert watched(lambda: os.register_at_fork(after_in_child=logging.shutdown))[1] == []
    (changed,) = [functions for functions, known in zip(AT_FORK, before, strict=True) if functions != known]
    assert changed.pop() is logging.shutdown


def test_a_timer_of_the_fault_handler_is_cancelled(tmp_path: Path):
    dumped = tmp_path / "dumped"
    with dumped.open("w") as file:
        watched(lambda: faulthandler.dump_traceback_later(0.05, file=file))
        time.sleep(0.15)
    assert dumped.read_text(encoding="utf-8") == ""


def test_the_timer_of_pytest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fault_handler, "keeps_timer", True)
    dumped = tmp_path / "dumped"
    with dumped.open("w") as file:
        faulthandler.dump_traceback_later(0.05, file=file)
        watched(do_nothing)
        time.sleep(0.15)
    assert "Timeout" in dumped.read_text(encoding="utf-8")


def test_a_registered_dump_of_the_fault_handler_is_removed(tmp_path: Path):
    with (tmp_path / "dumped").open("w") as file:
        assert watched(lambda: faulthandler.register(signal.SIGUSR1, file))[1] == ["the signal handlers in C"]
    before = signal.signal(signal.SIGUSR1, do_nothing)
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert (tmp_path / "dumped").read_text(encoding="utf-8") == ""


def test_an_error_names_the_changes_and_an_exception_of_the_call_stays():
    with pytest.raises(StateChanged, match=r"^changed the state of the process: the mask of permissions$"):
        unchanged_process(os.umask, 0o111)
    with pytest.raises(ZeroDivisionError):
        unchanged_process(lambda: os.umask(0o111) / 0)
    assert unchanged_process(divmod, 7, 2) == (3, 1)
