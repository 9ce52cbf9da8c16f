"""Public names of the package are importable, known to type checkers, and listed in the documentation."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tal_conformance
import tal_reference

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def names_for_type_checkers() -> set[str]:
    """Return the names that `if TYPE_CHECKING` imports in the package's `__init__`."""
    tree = ast.parse((ROOT / "conformance" / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname or alias.name
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", tal_conformance.__all__)
def test_a_public_name_can_be_imported(name: str):
    assert getattr(tal_conformance, name) is not None


def test_type_checkers_see_the_same_names():
    assert names_for_type_checkers() == set(tal_conformance.__all__)


@pytest.mark.parametrize(
    ("package", "name"),
    [("tal_conformance", name) for name in tal_conformance.__all__]
    + [("tal_reference", name) for name in tal_reference.__all__],
)
def test_the_documentation_lists_it(package: str, name: str):
    assert re.search(rf"{package}\.{name}\b|\b{name}\b", PAGE)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = tal_conformance.nonsense


def test_importing_the_package_brings_no_torch():
    code = "import sys, tal_conformance, tal_conformance.plugin; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
