"""The three packages import only permitted third-party packages.

Imports between the three packages are checked by import-linter.
"""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"tal_reference": "reference", "tal_conformance": "conformance", "tal_reports": "reports"}
PACKAGES = tuple(FOLDERS)
RUNS_CODE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
RUNS_CODE_CALLS = {"torch.load", "torch.save", "numpy.load", "np.load", "yaml.load"}
IMPORTING = {"__import__", "import_module", "importorskip"}
PYTEST_PLUGINS = {"pytest-benchmark", "pytest-xdist"}  # loaded by pytest; no module imports these


def imported(source: str, package: str = "") -> set[str]:
    """Return the dotted names that a module's source imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            names |= {".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTING:
            names |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return names


def modules(package: str, root: Path = ROOT) -> Iterator[tuple[Path, set[str]]]:
    """Yield the path, relative to the root, and the imported names of every module of a package."""
    folder = root / FOLDERS[package]
    for path in sorted(folder.rglob("*.py")):
        if "runs" not in path.parts:
            parts = (package, *path.relative_to(folder).parent.parts)
            yield path.relative_to(root), imported(path.read_text(encoding="utf-8"), ".".join(parts))


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def strangers(package: str, allowed: set[str], root: Path = ROOT) -> list[str]:
    """Return `path: package` for every import outside the standard library and the set `allowed`."""
    return [
        f"{path}: {name}"
        for path, names in modules(package, root)
        for name in sorted(tops(names) - set(sys.stdlib_module_names) - allowed)
    ]


def code_runners(root: Path = ROOT) -> list[str]:
    """Return `path: name` for every import or call that could execute code from a file."""
    found: list[str] = []
    for package in PACKAGES:
        for path, names in modules(package, root):
            found += [f"{path}: {name}" for name in sorted(tops(names) & RUNS_CODE)]
            tree = ast.parse((root / path).read_text(encoding="utf-8"))
            used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            found += [f"{path}: {name}" for name in sorted(used & RUNS_CODE_CALLS)]
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn, os", {"torch.nn", "os"}),
        ("from torch import Tensor", {"torch.Tensor"}),
        ("def f():\n    if x:\n        import pickle", {"pickle"}),
        ("from . import log", {"a.b.log"}),
        ("from ..c.d import e", {"a.c.d.e"}),
        ("importlib.import_module('torch')", {"torch"}),
        ("__import__('torch')", {"torch"}),
        ("'import torch'", set()),
    ],
)
def test_imports_are_seen_wherever_they_stand(source: str, expected: set[str]):
    assert imported(source, "a.b") == expected


def test_a_planted_stranger_is_named(tmp_path: Path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "page.py").write_text(
        "import json, jinja2\nfrom tal_conformance import batches\n"
    )
    assert strangers("tal_reports", {"tal_reports", "jinja2"}, tmp_path) == [
        "reports/page.py: tal_conformance"
    ]


@pytest.mark.parametrize("line", ["import pickle", "from pickle import loads", "x = torch.load(path)"])
def test_a_planted_code_runner_is_named(tmp_path: Path, line: str):
    (tmp_path / "conformance").mkdir()
    (tmp_path / "conformance" / "case.py").write_text(f"import torch\n\ndef read(path):\n    {line}\n")
    assert len(code_runners(tmp_path)) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_there_and_typed(package: str):
    assert (ROOT / FOLDERS[package] / "py.typed").is_file()
    assert (ROOT / FOLDERS[package] / "__init__.py").is_file()
    assert list(modules(package))


def test_reference_imports_torch_alone():
    assert (
        strangers("tal_reference", {"tal_reference", "tal_folder_names", "tal_text", "torch", "jaxtyping"})
        == []
    )


def test_only_reference_shapes_imports_jaxtyping():
    assert [path for path, names in modules("tal_reference") if "jaxtyping" in tops(names)] == [
        Path("reference/shapes.py")
    ]


def test_reference_works_where_jaxtyping_is_absent():
    run("import sys; sys.modules['jaxtyping'] = None; import tal_reference")


def test_importing_reference_brings_neither_tests_nor_official_code():
    run("import tal_reference, sys; assert not {'ultralytics', 'hypothesis', 'pytest'} & set(sys.modules)")


def test_reports_imports_neither_torch_nor_the_suite():
    assert (
        strangers(
            "tal_reports",
            {"tal_reports", "tal_folder_names", "tal_text", "jinja2", "markupsafe", "jsonschema"},
        )
        == []
    )


def test_importing_reports_brings_no_torch():
    modules_of_reports = sorted(
        "tal_" + ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path, _ in modules("tal_reports")
        if path.stem != "__main__"
    )
    names = ", ".join(modules_of_reports)
    run(f"import {names}, sys; assert not {{'torch', 'tal_conformance', 'tal_reference'}} & set(sys.modules)")


def test_the_suite_knows_only_the_public_face_of_reports():
    face = {f"tal_reports.{name}" for name in importlib.import_module("tal_reports").__all__}
    known = {
        name for _, names in modules("tal_conformance") for name in names if "tal_reports" in tops({name})
    }
    assert known
    assert known <= face


def test_nothing_that_reads_files_could_run_code_from_them():
    assert code_runners() == []


def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower() for line in project["dependencies"]}
    used = set().union(*(tops(names) for package in PACKAGES for _, names in modules(package)))
    used -= set(sys.stdlib_module_names) | set(PACKAGES) | {"tal_folder_names", "tal_text"}
    imported_as = {"xdist": "pytest-xdist"}
    used = {imported_as.get(name, name) for name in used}
    optional = {"jaxtyping", "cosmic_ray", "_typeshed"}  # _typeshed exists only for type checkers
    assert used - optional <= declared
    assert declared - PYTEST_PLUGINS <= used


def run(code: str) -> None:
    """Run code in a new interpreter, from the repository's root, and raise if it fails."""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
