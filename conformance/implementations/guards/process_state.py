"""Detect changes of the process and of the interpreter that a call leaves behind, and undo them.

An implementation in this process can replace `len`, leave a trace function set, redirect standard output, ignore Ctrl-C
or change the working directory. Everything is restored right after the call, before any other code runs: the guards and
the judge use the same built-in functions, and a trace function would be called for them too.

Changes that are complete once they are undone, and that libraries make when they are first used, are undone without an
error: environment variables, warning filters, locale, the handlers of logging, the order of the import path.
"""

import builtins
import sys
from bdb import Bdb
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from sys import getprofile, getrecursionlimit, gettrace, setprofile, setrecursionlimit, settrace
from typing import Any, ParamSpec, TypeVar

from tal_conformance.core.supervision import supervised
from tal_conformance.implementations.guards.open_files import open_files
from tal_conformance.implementations.guards.process_settings import SETTINGS, Setting, fault_handler
from tal_conformance.implementations.guards.torch_state import StateChanged

P = ParamSpec("P")
T = TypeVar("T")

BUILTINS = vars(builtins)
copy_builtins, update_builtins = BUILTINS.copy, BUILTINS.update
"""Methods in C, which need no built-in function."""
ATTEMPTS = (1, 2, 3)
"""Attempts to restore the process: a timer or a profile function of the implementation can raise in the first one."""
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
LOADED = sys.modules
"""The dict of loaded modules: an implementation can replace it by another one, which the import system ignores."""


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
        parts: list[Callable[[], list[str]]] = [
            *(
                partial(restored, setting, value, importing)
                for setting, value in zip(SETTINGS, self.settings, strict=True)
            ),
            self._restore_fault_handler,
            self._replaced_modules,
            lambda: open_files.repair(self.streams),
        ]
        for part in parts:
            for attempt in ATTEMPTS:
                try:
                    found += part()
                except BaseException as error:
                    # raised by the implementation's timer, or by an object of its own
                    if attempt == ATTEMPTS[-1]:
                        found.append(f"a setting that cannot be read ({type(error).__name__})")
                    continue
                break
        return list(dict.fromkeys(found))

    def _restore_fault_handler(self) -> list[str]:
        fault_handler.reset()
        return []

    def _replaced_modules(self) -> list[str]:
        """Restore replaced or removed entries of `sys.modules`; return a list with their description, empty if none."""
        if sys.modules is not LOADED:
            sys.modules = LOADED
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


def restored(setting: Setting, value: Any, importing: bool) -> list[str]:
    """Restore a setting, and return a list with its name if its change is an error, else an empty list.

    A setting whose present value cannot be read is restored too, and is an error.
    """
    is_error, keeps = (setting.at_import, not setting.at_import) if importing else (setting.lasts, False)
    try:
        if setting.equal(setting.read(), value):
            return []
    except Exception:
        is_error, keeps = True, False
    if not keeps:
        setting.restore(value)
    return [setting.name] if is_error else []


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
