"""Detect changes of the process and of the interpreter that a call leaves behind, and undo them.

An implementation in this process can replace `len`, leave a trace function set, redirect standard output, ignore Ctrl-C
or change the working directory. Everything is restored right after the call, before any other code runs: the guards and
the judge use the same built-in functions, and a trace function would be called for them too.

Changes that are complete once they are undone, and that libraries make when they are first used, are undone without an
error: environment variables, warning filters, locale, the handlers of logging, the order of the import path.
"""

import _locale
import _signal  # type: ignore[import-not-found]  # has no stub; `signal` converts to enums, which is slow
import builtins
import gc
import logging
import os
import resource
import sys
import threading
import warnings
from bdb import Bdb
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from sys import getprofile, getrecursionlimit, gettrace, setprofile, setrecursionlimit, settrace
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tal_conformance.core.supervision import supervised
from tal_conformance.implementations.guards.open_files import open_files
from tal_conformance.implementations.guards.torch_state import StateChanged

P = ParamSpec("P")
T = TypeVar("T")

BUILTINS = vars(builtins)
copy_builtins, update_builtins = BUILTINS.copy, BUILTINS.update
"""Methods in C, which need no built-in function."""
SIGNALS = tuple(sorted(int(number) for number in _signal.valid_signals() if number <= 31))
"""Numbers of the signals that are not real-time signals."""
TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
LIMITS = tuple(
    getattr(resource, name)
    for name in ("RLIMIT_FSIZE", "RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_NPROC")
    if hasattr(resource, name)
)
HOOKS = ("excepthook", "unraisablehook", "displayhook", "breakpointhook")
"""Functions of `sys` that Python calls for exceptions and values without a handler."""
STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
OWN_VARIABLES = ("TAL_CONFORMANCE_", "PYTHON", "LD_")
"""Beginnings of the names of environment variables that an implementation may not add: later processes read them."""
ATTEMPTS = (1, 2, 3)
"""Attempts to restore the process: a timer or a profile function of the implementation can raise in the first one."""


@dataclass(frozen=True)
class Setting:
    """A setting of the process.

    Attributes:
        name: name of the setting, which messages append to "changed".
        read: returns the present value.
        restore: sets a value that `read` returned earlier.
        lasts: True if a change is an error; False if it is undone without an error.
        at_import: True if a change by an import is an error too.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    lasts: bool = True
    at_import: bool = False


def _handlers() -> tuple[Any, ...]:
    return tuple(map(_signal.getsignal, SIGNALS))


def _set_handlers(handlers: tuple[Any, ...]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler, now in zip(SIGNALS, handlers, _handlers(), strict=True):
            if handler is not now:
                _signal.signal(number, _signal.SIG_DFL if handler is None else handler)


def _timers() -> tuple[tuple[float, bool], ...]:
    """Return each timer's interval, and True if it is set; not its remaining time, which decreases by itself."""
    return tuple((interval, left > 0) for left, interval in map(_signal.getitimer, TIMERS))


def _set_timers(timers: tuple[tuple[float, bool], ...]) -> None:
    for timer, (interval, was_set), now in zip(TIMERS, timers, _timers(), strict=True):
        if (interval, was_set) != now:
            _signal.setitimer(timer, interval if was_set else 0.0, interval)


def _mask() -> int:
    """Return the umask of this process, which the system reveals only when another umask is set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (read twice a batch)
    except OSError:  # the folder was deleted
        return None


def _go_to(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _limits() -> tuple[tuple[int, int], ...]:
    return tuple(map(resource.getrlimit, LIMITS))


def _set_limits(limits: tuple[tuple[int, int], ...]) -> None:
    """Restore the soft limits; a hard limit that was lowered can be raised with root's rights only."""
    for limit, (soft, hard), now in zip(LIMITS, limits, _limits(), strict=True):
        if now != (soft, hard):
            try:
                resource.setrlimit(limit, (soft, hard))
            except (ValueError, OSError):
                resource.setrlimit(limit, (min(soft, now[1]) if soft >= 0 else now[1], now[1]))


def _attributes(module: Any, names: tuple[str, ...]) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Return two functions: the first reads the attributes `names` of a module, the second sets these attributes."""

    def read() -> tuple[Any, ...]:
        values = vars(module)
        return tuple([values.get(name) for name in names])

    def restore(values: tuple[Any, ...]) -> None:
        vars(module).update(zip(names, values, strict=True))

    return read, restore


def _list(of: Callable[[], list[Any]]) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Return two functions: the first reads the elements of a list, the second restores the elements in place."""

    def read() -> tuple[Any, ...]:
        return tuple(of())

    def restore(values: tuple[Any, ...]) -> None:
        of()[:] = values

    return read, restore


def _in_front(of: Callable[[], list[Any]]) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Return two functions as `_list` does, but the second moves elements that libraries added to the list's end.

    Libraries add import finders when they are first imported, and need them later. Other additions are removed.
    """
    read, _ = _list(of)

    def restore(values: tuple[Any, ...]) -> None:
        known = set(map(id, values))
        of()[:] = [*values, *(value for value in of() if id(value) not in known and is_installed(value))]

    return read, restore


def is_installed(value: Any) -> bool:
    """Return True for a str, and for a class or function of an installed package or an object of such a class."""
    owner = value if hasattr(value, "__qualname__") else type(value)
    file = getattr(sys.modules.get(str(owner.__module__)), "__file__", None) or ""
    return isinstance(value, str) or "site-packages" in Path(file).parts


def _set_filters(filters: tuple[Any, ...]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]  # a list, though declared as a sequence
    getattr(warnings, "_filters_mutated", lambda: None)()


def _variables() -> dict[Any, Any]:
    """Return the environment variables as the system encodes them, which is 50 times faster than as text."""
    encoded: dict[Any, Any] = vars(os.environ)["_data"]
    return encoded.copy()


def _set_variables(variables: dict[Any, Any]) -> None:
    """Restore environment variables. Variables that a library added for itself stay."""
    now = _variables()
    changed = {name: value for name, value in variables.items() if now.get(name) != value}
    os.environ.update({os.fsdecode(name): os.fsdecode(value) for name, value in changed.items()})
    for name in now:
        if name not in variables and os.fsdecode(name).startswith(OWN_VARIABLES):
            del os.environ[os.fsdecode(name)]


def _set_collection(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


SETTINGS = (
    Setting("the signal handlers", _handlers, _set_handlers, at_import=True),
    Setting("the timers of signals", _timers, _set_timers, at_import=True),
    Setting(
        "the blocked signals",
        lambda: _signal.pthread_sigmask(_signal.SIG_BLOCK, ()),
        lambda value: _signal.pthread_sigmask(_signal.SIG_SETMASK, value),
        at_import=True,
    ),
    Setting("the trace function of new threads", threading.gettrace, threading.settrace, at_import=True),
    Setting("the profile function of new threads", threading.getprofile, threading.setprofile, at_import=True),
    Setting("the interval of thread switches", sys.getswitchinterval, sys.setswitchinterval),
    Setting("the garbage collection", gc.isenabled, _set_collection),
    Setting("the thresholds of the garbage collection", gc.get_threshold, lambda value: gc.set_threshold(*value)),
    Setting("the callbacks of the garbage collection", *_list(lambda: gc.callbacks)),
    Setting("the longest number as text", sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    Setting("the working directory", _folder, _go_to, at_import=True),
    Setting("the mask of permissions", _mask, os.umask, at_import=True),
    Setting("the limits of the process", _limits, _set_limits, at_import=True),
    Setting("the hooks of sys", *_attributes(sys, HOOKS)),
    Setting("the hook of threads", *_attributes(threading, ("excepthook",))),
    Setting("the streams of sys", *_attributes(sys, STREAMS)),
    Setting("the floating-point errors of NumPy", np.geterr, lambda value: np.seterr(**value)),
    Setting("the locale", lambda: _locale.setlocale(_locale.LC_ALL, None),
            lambda value: _locale.setlocale(_locale.LC_ALL, value), lasts=False),
    Setting("environment variables", _variables, _set_variables, lasts=False),
    Setting("the warning filters", lambda: tuple(warnings.filters), _set_filters, lasts=False),
    Setting("the display of warnings", *_attributes(warnings, ("showwarning", "_showwarnmsg_impl")), lasts=False),
    Setting("the handlers of logging", *_list(lambda: logging.root.handlers), lasts=False),
    Setting("the level of logging", *_attributes(logging.root, ("level", "disabled")), lasts=False),
    Setting("the import path", *_in_front(lambda: sys.path), lasts=False),
    Setting("the finders of imports", *_in_front(lambda: sys.meta_path), lasts=False),
    Setting("the hooks of the import path", *_in_front(lambda: sys.path_hooks), lasts=False),
)  # fmt: skip
"""All settings. Those that interrupt code come first, because they are restored first."""
MODULES = sys.stdlib_module_names | {
    *(
        "torch",
        "numpy",
        "pytest",
        "_pytest",
        "pluggy",
        "hypothesis",
        "safetensors",
        "ultralytics",
        "xdist",
        "execnet",
    ),
    *("tal_conformance", "tal_reference", "tal_reports", "tal_text", "conformance"),
}
"""Packages whose loaded modules may not be replaced: imports within functions find them by name."""


@dataclass
class ProcessState:
    """The state of this process at one moment.

    Attributes:
        builtins: Python's built-in functions and types.
        trace: function of `sys.settrace`.
        profile: function of `sys.setprofile`.
        recursion: limit of recursion.
        settings: values of all `SETTINGS`.
        modules: entries of `sys.modules`.
        streams: identities of the files of standard input, output and error.
    """

    builtins: dict[str, Any] = field(default_factory=copy_builtins)
    trace: Any = field(default_factory=gettrace)
    profile: Any = field(default_factory=getprofile)
    recursion: int = field(default_factory=getrecursionlimit)
    settings: tuple[Any, ...] = field(default_factory=lambda: tuple([setting.read() for setting in SETTINGS]))
    modules: dict[str, Any] = field(default_factory=sys.modules.copy)
    streams: tuple[Any, ...] = field(default_factory=open_files.streams)

    def restore(self, importing: bool = False) -> list[str]:
        """Restore settings, modules and files, and return descriptions of the changes that are errors.

        Args:
            importing: True if an import made the changes, for which fewer of them are errors.
        """
        found: list[str] = []
        for _ in ATTEMPTS:
            try:
                self._restore(found, importing)
            except BaseException:  # noqa: S112 - raised by the implementation's timer
                continue
            break
        return list(dict.fromkeys(found))

    def _restore(self, found: list[str], importing: bool) -> None:
        for setting, value in zip(SETTINGS, self.settings, strict=True):
            if not same(setting.read(), value):
                if setting.at_import if importing else setting.lasts:
                    found.append(setting.name)
                if setting.at_import or not importing:
                    setting.restore(value)
        found += self._replaced_modules()
        found += open_files.repair(self.streams)

    def _replaced_modules(self) -> list[str]:
        """Restore replaced or removed entries of `sys.modules`; return a list with their description, empty if none."""
        now = sys.modules
        before = tuple(self.modules.values())
        if tuple(now.values())[: len(before)] == before:
            return []
        changed = [
            name
            for name, module in self.modules.items()
            if now.get(name) is not module and name.partition(".")[0] in MODULES
        ]
        now.update({name: self.modules[name] for name in changed})
        return [f"the loaded modules ({', '.join(changed[:3])})"] if changed else []


def same(first: Any, second: Any) -> bool:
    """Return True if two values of a setting are equal; elements of tuples are compared by identity or as numbers."""
    if first is second:
        return True
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return isinstance(first, (int, float, str, dict, set)) and bool(first == second)


def is_debugger(trace: Any) -> bool:
    """Return True if a trace function belongs to a debugger, which the user started in the implementation."""
    return isinstance(getattr(trace, "__self__", None), Bdb)


class Changes:
    """The first differences from a `ProcessState` that are found after a call.

    Attributes:
        profile: True if a profile function was left.
        trace: the trace function that was left, or None.
        recursion: True if the limit of recursion was lowered.
        builtins: built-in functions after the call; None if they were not compared.
    """

    def __init__(self) -> None:
        self.profile = self.recursion = False
        self.trace: Any = None
        self.builtins: dict[str, Any] | None = None

    def found(self, state: ProcessState) -> list[str]:
        """Return descriptions of these changes, after activating the trace function of a debugger again."""
        if is_debugger(self.trace):
            settrace(self.trace)
            self.trace = None
        now = state.builtins if self.builtins is None else self.builtins
        replaced = [
            name for name, value in state.builtins.items() if now.get(name) is not value and name != "_"
        ]
        settings = (
            (self.profile, "the profile function"),
            (self.trace is not None, "the trace function"),
            (self.recursion, "the limit of recursion"),
            (replaced, f"the built-in functions ({', '.join(replaced[:3])})"),
        )
        return [name for changed, name in settings if changed]


def unchanged_process(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function of an implementation, restore the state of the process, and return the result.

    Raises:
        StateChanged: the call returned and changed the state. An exception of the call is not replaced.
    """
    result, changed = watched(partial(function, *arguments, **options))
    if changed:
        raise StateChanged(f"changed the state of the process: {', '.join(changed)}")
    return result


def watched(function: Callable[[], T], importing: bool = False) -> tuple[T, list[str]]:
    """Call a function and restore the state of the process after the call.

    If files of the suite were closed and could not be repaired, the process ends, and its supervisor reports why.

    Args:
        function: code of an implementation.
        importing: True if the function imports the implementation.

    Returns:
        The result, and the names of the settings whose change is an error.
    """
    state, changes = ProcessState(), Changes()
    try:
        result = function()
    finally:
        # Only functions in C are called here: a call of a Python function would call a trace or profile function of the
        # implementation, exceed a lowered limit of recursion, or find no built-in functions.
        for _ in ATTEMPTS:
            try:
                if getprofile() is not state.profile:
                    changes.profile = True
                    setprofile(state.profile)
                if gettrace() is not state.trace:
                    changes.trace = gettrace()
                    settrace(state.trace)
                if getrecursionlimit() < state.recursion:
                    changes.recursion = True
                    setrecursionlimit(state.recursion)
                changes.builtins = copy_builtins()
                update_builtins(state.builtins)
                break
            except:  # noqa: E722 - raised by a profile function or timer of the implementation
                changes.profile = True
        changed = changes.found(state) + state.restore(importing)
        if open_files.lost:
            supervised.abort(f"it changed {', '.join(open_files.lost)}, which could not be repaired")
    return result, changed
