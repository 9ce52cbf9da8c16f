"""Find implementations by the value of `--implementation`."""

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import tal_folder_names
from tal_conformance.core.names import suggestion
from tal_conformance.implementations.errors import PackageUnavailable, UnknownImplementation
from tal_conformance.implementations.guards.exceptions import (
    exception_text,
    own_traceback,
    recorded_interrupts,
)
from tal_conformance.implementations.guards.imports import import_unchanged
from tal_conformance.implementations.protocol import Implementation, implementation_from


def _reference() -> Any:
    from tal_conformance.implementations.adapters.reference import ReferenceAdapter

    return ReferenceAdapter()


def _article() -> Any:
    from tal_conformance.implementations.adapters.article import ArticleAdapter

    return ArticleAdapter()


def _ultralytics() -> Any:
    from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter

    return UltralyticsAdapter()


def _reordered() -> Any:
    from tal_conformance.implementations.adapters.reordered import ReorderedAdapter

    return ReorderedAdapter()


def _reordered_in_float64() -> Any:
    import torch

    from tal_conformance.implementations.adapters.reordered import ReorderedAdapter

    return ReorderedAdapter(torch.float64)


REGISTERED: dict[str, Callable[[], Any]] = {
    "ultralytics": _ultralytics,
    "article": _article,
    "reference": _reference,
    "rearranged": _reordered,
    "rearranged-float64": _reordered_in_float64,
}
"""Names without a path. Each entry imports its adapter only when it is selected."""
OTHER_PROJECTS = ("yolo9", "libreyolo", "coreyolo", "doclayout-yolo")
"""Names of projects that are fetched, with or without `==X.Y.Z`."""
GIVEN: dict[str, Any] = {}
"""Adapters of this process without an importable name, by the name that `find` accepts for them."""
TREE = "ultralytics@"
"""Beginning of the name of a source tree of Ultralytics; the rest is its path."""
BARE_VERSION = re.compile(r"v?(\d+(?:\.\d+)+[\w.+-]*)")
"""A version without a package name, which selects the release of Ultralytics."""


def find(name: Any, isolate: bool = False, guarded: bool = True) -> Implementation:
    """Return the implementation that a value of `--implementation`, or an object, selects.

    Args:
        name: a registered implementation or project, `package==X.Y.Z`, a version of Ultralytics, `ultralytics@PATH` for
            a source tree, `package.module:object` or `path/to/file.py:object`; or an adapter, or a class or function
            that makes one.
        isolate: run a user's object in a worker process, if `name` is a text; an object always runs in this process.
        guarded: reject a user's object whose import changes this process.

    Raises:
        UnknownImplementation: no implementation has this name, or the implementation could not be imported or
            installed, or its import changed this process.
        ProtocolViolation: the object is not an adapter.
    """
    if isinstance(name, Implementation):
        return name
    if not isinstance(name, str):
        return implementation_from(name, name_of(name))
    if name in REGISTERED:
        return implementation_from(REGISTERED[name](), name, REGISTERED[name])
    if name in GIVEN:
        return implementation_from(GIVEN[name], name)
    if version := BARE_VERSION.fullmatch(name):
        return find(f"ultralytics=={version.group(1)}")
    if "==" in name or name in OTHER_PROJECTS or name.startswith(TREE):
        return implementation_from(_fetched(name), name)
    if isolate and ":" in name:
        return implementation_from(_isolated(name), name)
    where, colon, attribute = name.rpartition(":")
    if not colon and Path(name).is_file() and name.endswith(".py"):
        raise UnknownImplementation(
            f"{name!r} is a file: append the name of one of its objects, as {name}:OBJECT. "
            f"Its objects: {', '.join(_public_names(_module_from_file(Path(name)))) or 'none'}"
        )
    if not colon or not where or not attribute:
        known = (*REGISTERED, *OTHER_PROJECTS)
        raise UnknownImplementation(
            f"unknown implementation {name!r}{suggestion(name, known) or '.'} Choose one of {', '.join(known)}; "
            "or give your own as package.module:object or path/to/file.py:object; or a release as X.Y.Z or "
            "ultralytics==X.Y.Z, or a source tree of it as ultralytics@PATH"
        )
    return import_unchanged(name, partial(_imported, name)) if guarded else _imported(name)


def _imported(name: str) -> Implementation:
    """Import a user's object and return it as an implementation.

    Args:
        name: `package.module:object` or `path/to/file.py:object`.

    Raises:
        UnknownImplementation: the object could not be imported.
        ProtocolViolation: the object is not an adapter.
    """
    return implementation_from(object_of(name), name)


def name_of(adapter: Any) -> str:
    """Return a name for messages: the name of a class or function; for any other object, the name of its class."""
    named = adapter if hasattr(adapter, "__qualname__") else type(adapter)
    return str(named.__qualname__).rpartition(".<locals>.")[2] or "adapter"


def _attribute(module: ModuleType, where: str, attribute: str) -> Any:
    """Return the object that a dotted name denotes in a module.

    Raises:
        UnknownImplementation: the module has no such object; the message suggests similar names.
    """
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            names = _public_names(target)
            raise UnknownImplementation(
                f"{where} has no object {attribute!r}{suggestion(part, names) or '.'} "
                f"Its objects: {', '.join(_public_names(module)) or 'none'}"
            )
        target = getattr(target, part)
    return target


def _fetched(name: str) -> Any:
    """Return the adapter of a release, of a source tree, or of another project, in a worker process.

    Args:
        name: `ultralytics==X.Y.Z`, `ultralytics@PATH`, or the name of another project with or without a version.

    Raises:
        UnknownImplementation: the package is unknown, or could not be installed or started.
    """
    from tal_conformance.implementations.checkouts import checkout
    from tal_conformance.implementations.projects import project
    from tal_conformance.implementations.releases import release

    package, _, version = name.partition("==")
    try:
        if name.startswith(TREE):
            return checkout(name, Path(name.removeprefix(TREE)))
        if package == "ultralytics":
            return release(version)
        if package in OTHER_PROJECTS:
            return project(package, version)
    except PackageUnavailable as error:
        raise UnknownImplementation(str(error), error.details) from error
    known = ("ultralytics", *OTHER_PROJECTS)
    raise UnknownImplementation(
        f"unknown package in {name!r}{suggestion(package, known) or '.'} "
        f"Packages that can be selected by version: {', '.join(known)}"
    )


def _isolated(name: str) -> Any:
    """Return the adapter of a user's object in a worker process, so that only the worker imports it.

    Raises:
        UnknownImplementation: the worker could not import the object.
    """
    from tal_conformance.implementations.workers.process import Launch, Worker
    from tal_conformance.implementations.workers.remote import RemoteAdapter

    where, _, attribute = name.rpartition(":")
    name_in_worker = f"{Path(where).resolve()}:{attribute}" if where.endswith(".py") else name
    folders = [
        Path.cwd(),
        *(Path(path).resolve() for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path),
    ]
    launch = Launch("tal_conformance.implementations.registry:adapter_of", {"name": name_in_worker}, folders)
    try:
        adapter = RemoteAdapter(name, Worker(launch))
    except PackageUnavailable as error:
        raise UnknownImplementation(str(error), error.details) from error
    adapter.name = adapter.own_name if adapter.own_name != "unknown" else name
    return adapter


def in_new_process(implementation: Implementation) -> Implementation | None:
    """Return the implementation in a new worker process, without earlier calls. The caller must close the worker.

    Returns:
        None if another process cannot make the implementation: it was not selected by a name, or could not be made.
    """
    try:
        if implementation.in_subprocess:
            adapter = implementation.adapter.in_new_worker()
        elif implementation.spec in REGISTERED or ":" in implementation.spec:
            adapter = _isolated(implementation.spec)
        else:
            return None
    except (PackageUnavailable, UnknownImplementation):
        return None
    return replace(implementation, adapter=adapter, in_subprocess=True, factory=None)


def object_of(name: str) -> Any:
    """Return the object that `package.module:object` or `path/to/file.py:object` names, of any type.

    Raises:
        UnknownImplementation: the name has neither form, or the object could not be imported.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise UnknownImplementation(f"{name!r}: expected package.module:object or path/to/file.py:object")
    module = _module_from_file(Path(where)) if where.endswith(".py") else _module(where)
    return _attribute(module, where, attribute)


def adapter_of(name: str) -> Any:
    """Return the adapter that `name` selects, as an object of this process; called in a worker."""
    return find(name, guarded=False).adapter


def _module(name: str) -> ModuleType:
    """Import a user's module, which may be in the working directory.

    Raises:
        UnknownImplementation: the import raised.
    """
    tal_folder_names.install()
    sys.path.insert(0, str(Path.cwd()))
    with recorded_interrupts() as interrupts:
        try:
            return importlib.import_module(name)
        except BaseException as error:
            interrupts.raise_if_arrived()
            raise UnknownImplementation(
                f"importing {name} raised {exception_text(error)}{_similar_modules(name, error)}",
                own_traceback(error),
            ) from error
        finally:
            sys.path.pop(0)


def _similar_modules(name: str, error: BaseException) -> str:
    """Return a suggestion of similar modules if the error says that the named module does not exist; else ""."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if not missing or not f"{name}.".startswith(f"{missing}."):
        return ""
    package, _, last = missing.rpartition(".")
    folders = getattr(sys.modules.get(package), "__path__", ()) if package else [str(Path.cwd())]
    return suggestion(last, [module.name for module in pkgutil.iter_modules(list(folders))])


def _module_from_file(path: Path) -> ModuleType:
    """Run a user's Python file as a module.

    Raises:
        UnknownImplementation: the file does not exist, is not a Python file, or raised.
    """
    if not path.is_file():
        raise UnknownImplementation(_file_not_found(path))
    name = f"implementation_under_test_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownImplementation(f"cannot import {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module while it runs
    if str(path.parent.resolve()) not in sys.path:
        # as for a script: the file may import modules of its folder, also later
        sys.path.append(str(path.parent.resolve()))
    tal_folder_names.install()
    with recorded_interrupts() as interrupts:
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            interrupts.raise_if_arrived()
            raise UnknownImplementation(
                f"running {path} raised {exception_text(error)}", own_traceback(error)
            ) from error
    return module


def _file_not_found(path: Path) -> str:
    """Return the message for a file that does not exist, with similar file names in its folder."""
    try:
        neighbours = [file.name for file in path.parent.glob("*.py")]
    except OSError:
        neighbours = []
    similar = suggestion(path.name, neighbours)
    return f"implementation file not found: {path} (looked in {path.parent.resolve()}){similar}"


def _public_names(target: Any) -> list[str]:
    return [name for name in vars(target) if not name.startswith("_")] if hasattr(target, "__dict__") else []
