"""Settings of the process and of the interpreter that an implementation can change: how they are read and restored."""

import _locale
import _signal  # type: ignore[import-not-found]  # has no stub; `signal` converts to enums, which is slow
import ctypes
import decimal
import faulthandler
import gc
import logging
import os
import resource
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import is_
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np

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
SYS_FUNCTIONS, WARNING_FUNCTIONS = (
    tuple(name for name, value in vars(module).items() if callable(value) and name not in others)
    for module, others in ((sys, HOOKS), (warnings, ("showwarning", "_showwarnmsg_impl")))
)
"""Names of the other functions of `sys` and `warnings`, which `code_state` does not compare."""
STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
OWN_VARIABLES = ("TAL_CONFORMANCE_", "PYTHON", "LD_")
"""Beginnings of the names of environment variables that an implementation may not add: later processes read them."""


def same(first: Any, second: Any) -> bool:
    """Return True if two values of a setting are equal.

    Elements of tuples and dicts are compared by identity or as numbers, texts and bytes. Values of subclasses are not
    equal: they could have methods that lie.
    """
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, tuple):
        return len(first) == len(second) and (all(map(is_, first, second)) or all(map(same, first, second)))
    if isinstance(first, dict):
        return len(first) == len(second) and all(map(same, first.values(), map(second.get, first)))
    return isinstance(first, (int, float, str, bytes, set)) and bool(first == second)


@dataclass(frozen=True)
class Setting:
    """A setting of the process.

    Attributes:
        name: name of the setting, which messages append to "changed".
        read: returns the present value.
        restore: sets a value that `read` returned earlier.
        lasts: True if a change is an error; False if it is undone without an error.
        at_import: True if a change by an import is an error too.
        equal: returns True if two values are equal.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    lasts: bool = True
    at_import: bool = False
    equal: Callable[[Any, Any], bool] = same


def _handlers() -> tuple[Any, ...]:
    return tuple(map(_signal.getsignal, SIGNALS))


def _set_handlers(handlers: tuple[Any, ...]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler, now in zip(SIGNALS, handlers, _handlers(), strict=True):
            if handler is not now:
                _signal.signal(number, _signal.SIG_DFL if handler is None else handler)


ACTION = 256
"""Bytes reserved for the `struct sigaction` of the C library, which is smaller on every platform."""
HANDLER = 16
"""Bytes at its start that are compared: the address of the handler, and the set of the signals that it blocks."""
get_action: Any = getattr(ctypes.CDLL(None), "sigaction", None)
_actions = (ctypes.c_char * ACTION * len(SIGNALS))()
PLACES = tuple(zip(SIGNALS, _actions, strict=True)) if get_action is not None else ()
"""Each signal's number, and the place in memory into which its action is read."""


def _native_handlers() -> tuple[bytes, ...]:
    """Return each signal's action as the C library stores it: code can set handlers that Python does not know."""
    for number, place in PLACES:
        get_action(number, None, place)
    return tuple([place.raw for _, place in PLACES])


def _same_handlers(first: tuple[bytes, ...], second: tuple[bytes, ...]) -> bool:
    return first == second or all(
        now[:HANDLER] == before[:HANDLER] for now, before in zip(first, second, strict=True)
    )


def _set_native_handlers(actions: tuple[bytes, ...]) -> None:
    for (number, _), action, now in zip(PLACES, actions, _native_handlers(), strict=True):
        if action[:HANDLER] != now[:HANDLER]:
            get_action(number, ctypes.create_string_buffer(action, ACTION), None)


class FaultHandler:
    """Python's handler of fatal errors: its file and its timer can be set, but not read.

    Attributes:
        file: descriptor of the file into which pytest lets the handler write; None if unknown.
        keeps_timer: True if pytest itself sets the timer, which then is not cancelled.
    """

    def __init__(self) -> None:
        self.file: int | None = None
        self.keeps_timer = False

    def reset(self) -> None:
        """Cancel the timer, which could end the process during the call of another implementation; restore the file."""
        if not self.keeps_timer:
            faulthandler.cancel_dump_traceback_later()
        if self.file is not None and faulthandler.is_enabled():
            faulthandler.enable(self.file)

    def switch(self, enabled: bool) -> None:
        """Enable or disable the handler."""
        if not enabled:
            faulthandler.disable()
        elif self.file is not None:
            faulthandler.enable(self.file)


fault_handler = FaultHandler()
"""Handler of fatal errors of this process."""


def _do_nothing() -> None:
    pass


def _functions_at_fork() -> tuple[list[Any], ...]:
    """Return Python's lists of the functions that run at a fork, which only the garbage collector can find.

    The collector finds the lists as the objects that refer to a function that was added to them. Where the lists cannot
    be found, nothing is returned.
    """
    os.register_at_fork(before=_do_nothing, after_in_child=_do_nothing, after_in_parent=_do_nothing)
    return tuple(found for found in gc.get_referrers(_do_nothing) if type(found) is list)


AT_FORK = _functions_at_fork() if hasattr(os, "register_at_fork") else ()


def _at_fork() -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, AT_FORK))


def _same_at_fork(now: tuple[tuple[Any, ...], ...], before: tuple[tuple[Any, ...], ...]) -> bool:
    return all(map(same, now, map(_with_libraries, now, before)))


def _with_libraries(now: Iterable[Any], before: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the functions in `before`, followed by the functions in `now` that libraries added."""
    known = set(map(id, before))
    return *before, *(added for added in now if id(added) not in known and is_of_a_library(added))


def _set_at_fork(functions: tuple[tuple[Any, ...], ...]) -> None:
    for present, before in zip(AT_FORK, functions, strict=True):
        present[:] = _with_libraries(present, before)


def is_of_a_library(function: Any) -> bool:
    """Return True for functions and methods of installed packages and of the standard library, and methods of locks.

    When such modules are first imported, they add functions that run at a fork.
    """
    name = getattr(function, "__name__", "")
    module = str(getattr(function, "__module__", None)).partition(".")[0]
    if not isinstance(function, (FunctionType, MethodType)):
        return name in ("release", "_at_fork_reinit", "_acquire_restore", "acquire")
    return module in sys.stdlib_module_names - {"__main__"} or is_installed(function)


def _decimal_context() -> tuple[Any, ...]:
    context = decimal.getcontext()
    fixed = context.prec, context.rounding, context.Emin, context.Emax, context.capitals, context.clamp
    return *fixed, tuple(context.traps.values())


def _set_decimal_context(values: tuple[Any, ...]) -> None:
    precision, rounding, lowest, highest, capitals, clamp, traps = values
    signals = [signal for signal, trapped in zip(decimal.Context().traps, traps, strict=True) if trapped]
    decimal.setcontext(
        decimal.Context(precision, rounding, lowest, highest, capitals, clamp, flags=[], traps=signals)
    )


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


def _list(holder: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Return two functions: the first reads a list in an attribute and its elements, the second restores both."""

    def read() -> tuple[Any, ...]:
        present = vars(holder)[name]
        return present, tuple(present)

    def restore(values: tuple[Any, ...]) -> None:
        before, elements = values
        before[:] = elements
        setattr(holder, name, before)

    return read, restore


def _in_front(holder: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Return two functions as `_list` does, but the second moves elements that libraries added to the list's end.

    Libraries add import finders when they are first imported, and need them later. Other additions are removed.
    """
    read, restore_all = _list(holder, name)

    def restore(values: tuple[Any, ...]) -> None:
        before, elements = values
        known, present = set(map(id, elements)), getattr(holder, name, None)
        added = [value for value in present if id(value) not in known] if isinstance(present, list) else []
        restore_all((before, [*elements, *filter(is_installed, added)]))

    return read, restore


def is_installed(value: Any) -> bool:
    """Return True for a str, and for a class or function of an installed package or an object of such a class."""
    owner = value if hasattr(value, "__qualname__") else type(value)
    file = getattr(sys.modules.get(str(owner.__module__)), "__file__", None) or ""
    return isinstance(value, str) or "site-packages" in Path(file).parts


def _set_filters(filters: tuple[Any, ...]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]  # a list, though declared as a sequence
    getattr(warnings, "_filters_mutated", lambda: None)()


ENVIRONMENT = os.environ
"""The object with the environment variables, which an implementation can replace by another one."""


def _variables() -> dict[Any, Any]:
    """Return the environment variables as the system encodes them, which is 50 times faster than as text."""
    if os.environ is not ENVIRONMENT:
        os.environ = ENVIRONMENT  # noqa: B003 - an implementation replaced the object itself
    encoded: dict[Any, Any] = vars(ENVIRONMENT)["_data"]
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
    Setting("the fault handler", faulthandler.is_enabled, fault_handler.switch, lasts=False),
    Setting("the signal handlers in C", _native_handlers, _set_native_handlers, equal=_same_handlers),
    Setting("the trace function of new threads", threading.gettrace, threading.settrace, at_import=True),
    Setting("the profile function of new threads", threading.getprofile, threading.setprofile, at_import=True),
    Setting("the interval of thread switches", sys.getswitchinterval, sys.setswitchinterval),
    Setting("the garbage collection", gc.isenabled, _set_collection),
    Setting("the thresholds of the garbage collection", gc.get_threshold, lambda value: gc.set_threshold(*value)),
    Setting("the callbacks of the garbage collection", *_list(gc, "callbacks")),
    Setting("the debugging of the garbage collection", gc.get_debug, gc.set_debug),
    Setting("the functions that run at a fork", _at_fork, _set_at_fork, equal=_same_at_fork),
    Setting("the functions of sys", *_attributes(sys, SYS_FUNCTIONS)),
    Setting("the functions of warnings", *_attributes(warnings, WARNING_FUNCTIONS)),
    Setting("the stack size of new threads", threading.stack_size, threading.stack_size),
    Setting("the hooks of asynchronous generators", sys.get_asyncgen_hooks,
            lambda value: sys.set_asyncgen_hooks(*value)),
    Setting("the context of decimal numbers", _decimal_context, _set_decimal_context),
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
    Setting("the handlers of logging", *_list(logging.root, "handlers"), lasts=False),
    Setting("the level of logging", *_attributes(logging.root, ("level", "disabled")), lasts=False),
    Setting("the level at which logging is disabled", *_attributes(logging.root.manager, ("_disable",)), lasts=False),
    Setting("the folder of temporary files", *_attributes(tempfile, ("tempdir", "template")), lasts=False),
    Setting("the arguments of the process", *_attributes(sys, ("argv", "dont_write_bytecode")), lasts=False),
    Setting("the import path", *_in_front(sys, "path"), lasts=False),
    Setting("the finders of imports", *_in_front(sys, "meta_path"), lasts=False),
    Setting("the hooks of the import path", *_in_front(sys, "path_hooks"), lasts=False),
)  # fmt: skip
"""All settings. Those that interrupt code come first, because they are restored first."""
