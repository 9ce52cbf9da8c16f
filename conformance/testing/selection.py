"""Name an adapter so that another process can import it."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


def importable_name(target: Any) -> str | None:
    """Return the value of `--implementation` that imports a class or function in another process.

    Returns:
        `package.module:Name` if the module is found on `sys.path`, else `path/to/file.py:Name`; None if the object is
        not a class or function at the top of a file, for example an instance, or a class inside a function.
    """
    module = sys.modules.get(str(getattr(target, "__module__", None)))
    qualname = getattr(target, "__qualname__", None)
    file = getattr(module, "__file__", None)
    if module is None or not isinstance(qualname, str) or file is None or not file.endswith(".py"):
        return None
    if _attribute(module, qualname) is not target:
        return None
    found = _spec(module.__name__)
    if (
        found is not None
        and found.origin is not None
        and Path(found.origin).resolve() == Path(file).resolve()
    ):
        return f"{module.__name__}:{qualname}"
    return f"{Path(file).resolve()}:{qualname}"


def _attribute(module: ModuleType, qualname: str) -> Any:
    """Return the object that a dotted name denotes in a module; None if there is no such object."""
    target: Any = module
    for part in qualname.split("."):
        target = getattr(target, part, None)
    return target


def _spec(name: str) -> ModuleSpec | None:
    """Return the spec that a new interpreter with the same `sys.path` finds for a module, or None.

    `importlib.util.find_spec` would return the spec of the module that is imported already.
    """
    parent, _, _ = name.rpartition(".")
    path: Sequence[str] | None = None
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(name, path) if find is not None else None
        if spec is not None:
            return spec
    return None
