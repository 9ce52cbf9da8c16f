"""Detect replaced or changed code of torch, of the official modules and of this suite.

An implementation in this process can replace `torch.topk`, a method of the official assigner or a function of the
judge, and every later implementation would compute with the replacement. Therefore a `CodeState` is taken before the
first implementation is imported. After every import and call the code is compared with this state and restored, and a
change is reported as an error of the implementation that ran.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

from tal_conformance.implementations.guards.torch_state import OFFICIAL, StateChanged

TORCH = (
    *("torch", "torch.functional", "torch.nn.functional", "torch._C._nn", "torch.special", "torch.autograd"),
    "torch.nn.modules.loss",
)
"""Modules of torch whose functions and classes an implementation or the reference may use."""
SHALLOW = ("torch", "torch.autograd", "torch._C._nn")
"""Modules of torch whose names are compared, but not the methods of their classes."""
REPLACED_BY_LIBRARIES = {"torch.load", "torch.save", "torch.manual_seed"}
"""Functions that importing Ultralytics or `torch._dynamo` replaces; none of them computes."""
INTERNALS = ("__code__", "__defaults__", "__kwdefaults__")
"""Attributes of a function that change its behaviour in place."""
LISTED = 3
"""Number of changed names that a message lists."""
MISSING = object()


@dataclass(frozen=True)
class Change:
    """One changed attribute.

    Attributes:
        label: dotted name of the attribute.
        holder: module, class or function that has the attribute.
        name: name of the attribute.
        before: its former value; `MISSING` if it did not exist.
    """

    label: str
    holder: Any
    name: str
    before: Any

    def undo(self) -> None:
        """Set the attribute to its former value."""
        if self.before is MISSING:
            with suppress(AttributeError):
                delattr(self.holder, self.name)
        else:
            setattr(self.holder, self.name, self.before)


class Names:
    """The names that a module or class defines, with their values.

    Attributes:
        label: dotted name of the module or class.
        holder: the module or class.
        shadows: True if an added name that hides an inherited name counts as a change.
    """

    def __init__(self, label: str, holder: Any, values: dict[str, Any]) -> None:
        self.label, self.holder = label, holder
        self.shadows = isinstance(holder, type)
        self._names, self._values = tuple(values), tuple(values.values())
        self._count = len(vars(holder))

    def changes(self) -> Iterator[Change]:
        """Yield every name that has another value than before, and every added name that hides an inherited name."""
        now = vars(self.holder)
        if not all(map(is_, map(now.get, self._names), self._values)):
            for name, value in zip(self._names, self._values, strict=True):
                if now.get(name, MISSING) is not value:
                    yield Change(f"{self.label}.{name}", self.holder, name, value)
        if self.shadows and len(now) != self._count:
            inherited = {name for base in self.holder.__mro__[1:] for name in vars(base)}
            for name in [name for name in now if name in inherited and name not in self._names]:
                if callable(now[name]) or isinstance(now[name], property):
                    yield Change(f"{self.label}.{name}", self.holder, name, MISSING)


SET_BY_STATE = ("torch.Storage",)
"""Names that `torch.set_default_dtype` sets; the default dtype is compared with the rest of torch's state."""


class CodeState:
    """The code of modules at one moment, for a later comparison.

    Args:
        modules: names of modules; modules that are not loaded are left out.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self.modules = [name for name in modules if name in sys.modules]
        self._names: list[Names] = []
        self._seen: set[int] = set()
        self._functions: list[tuple[str, FunctionType, tuple[Any, ...]]] = []
        for name in self.modules:
            self._add_module(name, sys.modules[name])
        if "torch" in self.modules:
            self._add_class("torch.Tensor", sys.modules["torch"].Tensor)

    def changes(self) -> list[Change]:
        """Return all changes of the code since the state was taken."""
        found = [change for names in self._names for change in names.changes()]
        for label, function, internals in self._functions:
            now = function.__code__, function.__defaults__, function.__kwdefaults__
            if not all(map(is_, now, internals)):
                found += [
                    Change(f"{label}.{name}", function, name, value)
                    for name, value, current in zip(INTERNALS, internals, now, strict=True)
                    if current is not value
                ]
        return [change for change in found if change.label not in REPLACED_BY_LIBRARIES]

    def restore(self) -> list[str]:
        """Undo all changes, and return the names of the changed attributes."""
        changes = self.changes()
        for change in changes:
            change.undo()
        return [change.label for change in changes]

    def _add_module(self, label: str, module: ModuleType) -> None:
        everything = not label.startswith("torch")
        values = {
            name: value
            for name, value in vars(module).items()
            if (everything or callable(value))
            and not name.startswith("__")
            and not isinstance(value, ModuleType)
            and f"{label}.{name}" not in SET_BY_STATE
        }
        self._names.append(Names(label, module, values))
        for name, value in values.items():
            if label in SHALLOW:
                continue
            if isinstance(value, type) and value.__module__ == module.__name__:
                self._add_class(f"{label}.{name}", value)
            elif everything:
                self._add_function(f"{label}.{name}", value)

    def _add_class(self, label: str, kind: type) -> None:
        values = {
            name: value for name, value in vars(kind).items() if callable(value) or isinstance(value, METHODS)
        }
        self._names.append(Names(label, kind, values))
        if not label.startswith("torch"):
            for name, value in values.items():
                self._add_function(f"{label}.{name}", getattr(value, "__func__", value))

    def _add_function(self, label: str, value: Any) -> None:
        if isinstance(value, FunctionType) and id(value) not in self._seen:
            self._seen.add(id(value))
            self._functions.append((label, value, (value.__code__, value.__defaults__, value.__kwdefaults__)))


METHODS = (property, staticmethod, classmethod)
"""Types of attributes of a class that are not callable themselves."""


def computing_code() -> CodeState:
    """Return the current code of torch, of `math` and of the loaded official modules."""
    return CodeState((*TORCH, math.__name__, *OFFICIAL))


def own_code() -> CodeState:
    """Return the current code of the reference and of this suite."""
    ours = ("tal_reference", "tal_conformance")
    return CodeState([name for name in list(sys.modules) if name.partition(".")[0] in ours])


def raise_if_changed(state: CodeState) -> None:
    """Raise if the current code differs from an earlier state, after restoring that state.

    Raises:
        StateChanged: code was changed.
    """
    changed = state.restore()
    if changed:
        more = f" and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
        raise StateChanged(
            f"changed code of torch, official modules or this suite: {', '.join(changed[:LISTED])}{more}"
        )


class Baseline:
    """Code of this process before the first implementation was imported.

    Attributes:
        computing: code that implementations compute with; None before `take`, when `check` compares nothing.
    """

    def __init__(self) -> None:
        self.computing: CodeState | None = None

    def take(self) -> None:
        """Store the current code of torch, official modules and this suite as the baseline."""
        self.computing = computing_code()

    def forget(self) -> None:
        """Discard the baseline, so that later code is not compared with it."""
        self.computing = None

    def check(self) -> None:
        """Raise if the code of torch, official modules or this suite differs from the baseline, after restoring it.

        Raises:
            StateChanged: code was changed.
        """
        if self.computing is not None:
            raise_if_changed(self.computing)


baseline = Baseline()
"""Code of this process."""
