"""The folders' names as import names, for one release: `import conformance` gives `tal_conformance`.

Before 0.2 the three packages were imported under the names of their folders (`conformance`, `reference`, `reports`),
which collide with folders of other repositories. Under an old name a package is now the same object as under its new
one, submodules included, with a DeprecationWarning: there is never a second copy. Another package of the same name
always wins. This module and its three callers go in 0.3.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

NAMES = {"conformance": "tal_conformance", "reference": "tal_reference", "reports": "tal_reports"}
"""Old name of each package with its present one."""


def hand_over(name: str) -> None:
    """Let the package that is being imported under its folder's name be the one with the present name.

    Args:
        name: the old name; the caller is that package's own `__init__`.
    """
    install()
    sys.modules[name] = importlib.import_module(NAMES[name])


def install() -> None:
    """Let old names be found, wherever no other package has them."""
    if not any(isinstance(finder, FolderNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, FolderNames())


class FolderNames(MetaPathFinder):
    """Finds modules under their old names: the same modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the module of the present name, or None if the old name belongs to another package."""
        top, _, rest = fullname.partition(".")
        present = NAMES.get(top)
        if present is None or not (self._is_ours(top, present) if rest else self._is_free(top, present)):
            return None
        real = importlib.util.find_spec(present + fullname[len(top) :])
        if real is None:
            return None
        if rest not in ("__main__", "conftest"):  # python -m, and pytest, go by folders
            warnings.warn(f"import {real.name} in place of {fullname}", DeprecationWarning, stacklevel=2)
        packaged = real.submodule_search_locations is not None
        return ModuleSpec(fullname, SameModule(real), origin=real.origin, is_package=packaged)

    def _is_ours(self, top: str, present: str) -> bool:
        return top in sys.modules and sys.modules[top] is sys.modules.get(present)

    def _is_free(self, top: str, present: str) -> bool:
        """True if nobody else has a package of this name, or the one found is this project's own folder."""
        others = (finder for finder in sys.meta_path if finder is not self)
        found = next((spec for finder in others if (spec := finder.find_spec(top, None))), None)
        if found is None or found.origin is None:
            return found is None
        real = importlib.util.find_spec(present)
        return real is not None and Path(found.origin).resolve() == Path(str(real.origin)).resolve()


class SameModule(InspectLoader):
    """Loads nothing: it hands out the module of the present name."""

    def __init__(self, real: ModuleSpec) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module of the present name, imported if it was not yet."""
        return importlib.import_module(self.real.name)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back its own spec, which the import system has just replaced; it has been executed."""
        module.__spec__ = self.real

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the module's code, for `python -m`."""
        loader = self.real.loader
        assert isinstance(loader, InspectLoader)
        return loader.get_code(self.real.name)

    def get_source(self, fullname: str) -> str | None:
        """Return the module's source."""
        loader = self.real.loader
        assert isinstance(loader, InspectLoader)
        return loader.get_source(self.real.name)
