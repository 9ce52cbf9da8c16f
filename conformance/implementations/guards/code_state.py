"""Detect replaced or changed code of torch, of the official modules, of the standard library and of this suite.

An implementation in this process can replace `torch.topk`, `math.sqrt`, a method of the official assigner or a function
of the judge, and every later implementation would compute with the replacement. Therefore a `CodeState` is taken before
the first implementation is imported. After every import and call the code is compared with this state and restored, and
a change is reported as an error of the implementation that ran.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter, is_, itemgetter
from types import FunctionType, ModuleType
from typing import Any

from tal_conformance.implementations.guards.torch_state import OFFICIAL, StateChanged

TORCH = (
    *("torch", "torch.functional", "torch.nn.functional", "torch._C._nn", "torch.special", "torch.autograd"),
    "torch.nn.modules.loss",
)
"""Modules of torch whose functions and classes an implementation or the reference may use."""
STANDARD = (
    *(
        "math",
        "operator",
        "time",
        "functools",
        "itertools",
        "collections",
        "copy",
        "os",
        "posixpath",
        "io",
        "stat",
    ),
    *("pathlib", "resource", "signal", "_signal", "threading", "gc", "weakref", "struct", "re", "traceback"),
    "contextlib",
)
"""Modules that the guards, the judge and the log call on every batch, and that are therefore compared after each."""
SERIALIZERS = ("json", "json.encoder", "json.decoder")
"""Modules whose classes and functions are compared too: the run log consists of their results."""
LIBRARIES = sys.stdlib_module_names - {"warnings", "sys", "builtins"} | {
    *("numpy", "hypothesis", "pytest", "_pytest", "pluggy"),
}
"""Packages that are compared after each test. `process_state` compares the modules that are left out here."""
SHALLOW = ("torch", "torch.autograd", "torch._C._nn")
"""Modules of torch whose names are compared, but not the methods of their classes."""
ONLY_CALLABLES = LIBRARIES | {"torch"}
"""Packages of whose modules only classes and functions are compared, not other values."""
REPLACED_BY_LIBRARIES = {
    *("torch.load", "torch.save", "torch.manual_seed"),
    *(
        "_pytest.assertion.util._reprcompare",
        "_pytest.assertion.util._assertion_pass",
        "threading.excepthook",
    ),
}
"""Functions that importing Ultralytics or `torch._dynamo` replaces, or pytest at each test; none of them computes."""
INTERNALS = ("__code__", "__defaults__", "__kwdefaults__")
"""Attributes of a function that change its behaviour in place."""
GET_INTERNALS: tuple[Callable[[FunctionType], Any], ...] = tuple(map(attrgetter, INTERNALS))
"""Functions that return one of these attributes each."""
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
        self._get = itemgetter(*values) if len(values) > 1 else self._each
        self._count = len(vars(holder))

    def changes(self) -> Iterator[Change]:
        """Yield a change for every name with a new value, and for every added name that hides an inherited name."""
        now = vars(self.holder)
        if not self._same(now):
            for name, value in zip(self._names, self._values, strict=True):
                if now.get(name, MISSING) is not value:
                    yield Change(f"{self.label}.{name}", self.holder, name, value)
        if self.shadows and len(now) != self._count:
            inherited = {name for base in self.holder.__mro__[1:] for name in vars(base)}
            for name in [name for name in now if name in inherited and name not in self._names]:
                if callable(now[name]) or isinstance(now[name], property):
                    yield Change(f"{self.label}.{name}", self.holder, name, MISSING)

    def _same(self, now: Any) -> bool:
        """Return True if all names have their former values, compared by identity."""
        try:
            return all(map(is_, self._get(now), self._values))
        except KeyError:
            return False

    def _each(self, now: Any) -> tuple[Any, ...]:
        return tuple(now[name] for name in self._names)


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
        self._functions: list[FunctionType] = []
        self._labels: list[str] = []
        for name in self.modules:
            self._add_module(name, sys.modules[name])
        if "torch" in self.modules:
            self._add_class("torch.Tensor", sys.modules["torch"].Tensor)
        self._internals = [list(map(get, self._functions)) for get in GET_INTERNALS]

    def changes(self) -> list[Change]:
        """Return all changes of the code since the state was taken."""
        found = [change for names in self._names for change in names.changes()]
        for name, get, before in zip(INTERNALS, GET_INTERNALS, self._internals, strict=True):
            if not all(map(is_, map(get, self._functions), before)):
                found += [
                    Change(f"{label}.{name}", function, name, value)
                    for label, function, value in zip(self._labels, self._functions, before, strict=True)
                    if get(function) is not value
                ]
        return [change for change in found if change.label not in REPLACED_BY_LIBRARIES]

    def restore(self) -> list[str]:
        """Undo all changes, and return the names of the changed attributes."""
        changes = self.changes()
        for change in changes:
            change.undo()
        return [change.label for change in changes]

    def _add_module(self, label: str, module: ModuleType) -> None:
        everything = label.partition(".")[0] not in ONLY_CALLABLES
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
            if label in SHALLOW or (label.partition(".")[0] in LIBRARIES and label not in SERIALIZERS):
                continue
            if isinstance(value, type) and value.__module__ == module.__name__:
                self._add_class(f"{label}.{name}", value)
            elif not label.startswith("torch"):
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
            self._functions.append(value)
            self._labels.append(label)


METHODS = (property, staticmethod, classmethod)
"""Types of attributes of a class that are not callable themselves."""


def computing_code() -> CodeState:
    """Return the current code of torch, of the standard library's `STANDARD` part and of the official modules."""
    return CodeState((*TORCH, *STANDARD, *SERIALIZERS, *OFFICIAL))


def own_code() -> CodeState:
    """Return the current code of this project, and of the libraries that run its tests."""
    packages = {"tal_reference", "tal_conformance", "tal_reports", "tal_text", *LIBRARIES}
    return CodeState([name for name in list(sys.modules) if name.partition(".")[0] in packages])


def raise_if_changed(state: CodeState) -> None:
    """Raise if the current code differs from an earlier state, after restoring that state.

    Raises:
        StateChanged: code was changed.
    """
    changed = state.restore()
    if changed:
        more = f" and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
        raise StateChanged(
            "changed code of torch, official modules, the standard library or this suite: "
            f"{', '.join(changed[:LISTED])}{more}"
        )


class Baseline:
    """Code of this process before the first call of an implementation.

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

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Compare the code with the baseline after the block, and restore it, also if the block raises.

        Raises:
            StateChanged: code was changed. It replaces an exception of the block, which is likely a consequence: after
                the change, functions of the suite may raise too.
        """
        try:
            yield
        finally:
            self.check()


baseline = Baseline()
"""Code of this process."""
