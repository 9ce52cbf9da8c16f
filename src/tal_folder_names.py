"""The folders' names as import names, for one release: `import conformance` gives `tal_conformance`.

Before 0.2 the three packages were imported under the names of their folders (`conformance`, `reference`, `reports`),
which collide with folders of other repositories. In the clone, and in adapters that the suite loads, an old name still
gives the same module object as the new name, submodules included, with a DeprecationWarning: there is never a second
copy. Another package of the same name always wins. This module and its callers will be removed in 0.3.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FrameType, ModuleType

NAMES = {"conformance": "tal_conformance", "reference": "tal_reference", "reports": "tal_reports"}
"""New name of each package by its old name."""
MOVED = {
    "conformance.batches.batch": "tal_conformance.core.batch",
    "conformance.batches.casefile": "tal_conformance.core.case_file",
    "conformance.implementations.article": "tal_conformance.implementations.adapters.article",
    "conformance.implementations.outcome": "tal_conformance.core.outcome",
    "conformance.implementations.reference": "tal_conformance.implementations.adapters.reference",
    "conformance.implementations.ultralytics": "tal_conformance.implementations.adapters.ultralytics",
    "conformance.recorder": "tal_conformance.training.recorder",
}
"""New name of each module that adapters and trainings import and that has moved, by its old name."""
IMPORTERS_BY_FOLDER = {"runpy", "_pytest"}
"""Packages that import by the names of folders for `python -m conformance` and `pytest conformance`: no warning."""
IMPORT_SYSTEM = {"importlib", "_frozen_importlib", "_frozen_importlib_external", __name__, *NAMES}
"""Packages whose frames lie between an import statement and this module."""


def hand_over(name: str) -> None:
    """Replace the package that is being imported under its old name by the package with the new name.

    Args:
        name: the old name. The caller is that package's own `__init__`.

    Raises:
        ImportError: the new name belongs to another copy of the project.
    """
    file = sys.modules[name].__file__
    package = importlib.import_module(NAMES[name])
    if not _is_same_file(file, package.__file__):
        raise ImportError(
            f"{name!r} is {file}, but {NAMES[name]!r} is another copy of it: {package.__file__}. "
            "Install this copy (pip install -e .), or put its src folder first on PYTHONPATH"
        )
    _warn(name, NAMES[name])
    install()
    sys.modules[name] = package


def install() -> None:
    """Make the old names importable, wherever no other package has them."""
    if not any(isinstance(finder, FolderNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, FolderNames())


class FolderNames(MetaPathFinder):
    """Finder of the packages under their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec that loads the module with the new name, or None if the old name belongs to another package."""
        old, _, rest = fullname.partition(".")
        new = NAMES.get(old)
        if new is None or not (self._is_ours(old, new) if rest else self._is_free(old, new)):
            return None
        real = importlib.util.find_spec(MOVED.get(fullname, new + fullname[len(old) :]))
        if real is None:
            return None
        _warn(fullname, real.name)
        is_package = real.submodule_search_locations is not None
        return ModuleSpec(fullname, SameModule(real), origin=real.origin, is_package=is_package)

    def _is_ours(self, old: str, new: str) -> bool:
        """Return True if the old name is already imported and is the package with the new name."""
        return old in sys.modules and sys.modules[old] is sys.modules.get(new)

    def _is_free(self, old: str, new: str) -> bool:
        """Return True if no other package has the old name; this project's own folder is not another package."""
        others = (finder for finder in sys.meta_path if finder is not self)
        found = next((spec for finder in others if (spec := finder.find_spec(old, None))), None)
        if found is None:
            return True
        real = importlib.util.find_spec(new)
        return real is not None and _is_same_file(found.origin, real.origin)


class SameModule(InspectLoader):
    """Loader that returns the module with the new name and executes nothing.

    Attributes:
        real: spec of that module.
    """

    def __init__(self, real: ModuleSpec) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module with the new name, and import it if necessary."""
        return importlib.import_module(self.real.name)

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec, which the import system has just replaced. The module was executed before."""
        module.__spec__ = self.real

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the module's code, for `python -m`."""
        return self._loader.get_code(self.real.name)

    def get_source(self, fullname: str) -> str | None:
        """Return the module's source."""
        return self._loader.get_source(self.real.name)

    @property
    def _loader(self) -> InspectLoader:
        loader = self.real.loader
        assert isinstance(loader, InspectLoader)
        return loader


def _is_same_file(first: str | None, second: str | None) -> bool:
    """Return True if two paths lead to one file; a namespace package has no file."""
    return first is not None and second is not None and Path(first).resolve() == Path(second).resolve()


def _warn(old: str, new: str) -> None:
    """Warn about an import under an old name, at the import statement."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _package_of(frame) in IMPORT_SYSTEM:
        frame = frame.f_back
    if _package_of(frame) not in IMPORTERS_BY_FOLDER:
        warned = frame.f_globals.setdefault("__warningregistry__", {})
        where = frame.f_code.co_filename, frame.f_lineno, str(frame.f_globals.get("__name__"))
        warnings.warn_explicit(f"import {new} instead of {old}", DeprecationWarning, *where, warned)


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
