"""From what stands behind `--implementation` to an implementation."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tal_conformance.implementations.errors import UnknownImplementation
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


def _rearranged() -> Any:
    from tal_conformance.implementations.adapters.reordered import ReorderedAdapter

    return ReorderedAdapter()


def _rearranged_in_float64() -> Any:
    import torch

    from tal_conformance.implementations.adapters.reordered import ReorderedAdapter

    return ReorderedAdapter(torch.float64)


REGISTERED: dict[str, Callable[[], Any]] = {
    "ultralytics": _ultralytics,
    "article": _article,
    "reference": _reference,
    "rearranged": _rearranged,
    "rearranged-float64": _rearranged_in_float64,
}
"""Names that need no path. Each entry imports its adapter only when it is asked for."""
OTHER_PROJECTS = ("yolo9", "libreyolo", "coreyolo", "doclayout-yolo")
"""Names of projects that are fetched, with or without `==X.Y.Z`."""


def find(name: str, isolate: bool = False) -> Implementation:
    """The implementation called `name`: registered, a project or release on PyPI, or an object of one's own.

    Args:
        name: also `package.module:object` or `path/to/file.py:object`.
        isolate: run an object of one's own in a process of its own.

    Raises:
        UnknownImplementation: there is none.
        ProtocolViolation: there is an object, but it is no adapter.
    """
    if name in REGISTERED:
        return implementation_from(REGISTERED[name](), name)
    if "==" in name or name in OTHER_PROJECTS:
        return implementation_from(_fetched(name), name)
    if isolate and ":" in name:
        return implementation_from(_isolated(name), name)
    where, colon, attribute = name.rpartition(":")
    if not colon and Path(name).is_file() and name.endswith(".py"):
        raise UnknownImplementation(
            f"{name!r} is a file: say which of its objects, {name}:OBJECT; "
            f"they are {_public_names(_module_from_file(Path(name)))}"
        )
    if not colon or not where or not attribute:
        raise UnknownImplementation(
            f"{name!r} is no registered implementation ({', '.join((*REGISTERED, *OTHER_PROJECTS))}); "
            "write package.module:object or path/to/file.py:object for your own, ultralytics==X.Y.Z for a release"
        )
    module = _module_from_file(Path(where)) if where.endswith(".py") else _module(where)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise UnknownImplementation(
                f"{where} has no {attribute!r}: its objects are {_public_names(module)}"
            )
        target = getattr(target, part)
    return implementation_from(target, name)


def _fetched(name: str) -> Any:
    """`ultralytics==X.Y.Z`, or another project with or without a version, in a process of its own."""
    from tal_conformance.implementations.errors import PackageUnavailable
    from tal_conformance.implementations.projects import project
    from tal_conformance.implementations.releases import release

    package, _, version = name.partition("==")
    try:
        if package == "ultralytics":
            return release(version)
        if package in OTHER_PROJECTS:
            return project(package, version)
    except PackageUnavailable as error:
        raise UnknownImplementation(str(error)) from error
    raise UnknownImplementation(
        f"{name!r}: only {', '.join(('ultralytics', *OTHER_PROJECTS))} can be had by version"
    )


def _isolated(name: str) -> Any:
    """An object of one's own, in a worker; it is imported there alone."""
    from tal_conformance.implementations.errors import PackageUnavailable
    from tal_conformance.implementations.workers.process import Launch, Worker
    from tal_conformance.implementations.workers.remote import RemoteAdapter

    where, _, attribute = name.rpartition(":")
    there = f"{Path(where).resolve()}:{attribute}" if where.endswith(".py") else name
    folders = [
        Path.cwd(),
        *(Path(path).resolve() for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path),
    ]
    launch = Launch("tal_conformance.implementations.registry:adapter_of", {"name": there}, folders)
    try:
        adapter = RemoteAdapter(name, Worker(launch))
    except PackageUnavailable as error:
        raise UnknownImplementation(str(error)) from error
    adapter.name = adapter.own_name if adapter.own_name != "unknown" else name
    return adapter


def adapter_of(name: str) -> Any:
    """The adapter itself; what a worker calls."""
    return find(name).adapter


def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UnknownImplementation(f"importing {name} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UnknownImplementation(f"there is no file {path}")
    name = f"implementation_under_test_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownImplementation(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it runs
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(
            str(path.parent.resolve())
        )  # as a script's: it may import what lies beside it, also later
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UnknownImplementation(f"running {path} raised {type(error).__name__}: {error}") from error
    return module


def _public_names(module: ModuleType) -> str:
    return ", ".join(name for name in vars(module) if not name.startswith("_")) or "none"
