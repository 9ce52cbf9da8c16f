"""Imports by an old name, such as `conformance` for `tal_conformance`, give the same module and a warning.

Each test starts new interpreters, because imports cannot be undone.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"conformance": "tal_conformance", "reference": "tal_reference", "reports": "tal_reports"}
SUBMODULES = {"conformance": "core.names", "reference": "eras", "reports": "log.schemas"}


def python(*arguments: str, cwd: Path = ROOT, path: Path = ROOT / "src") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def check(code: str, cwd: Path = ROOT) -> str:
    """Run code in a new interpreter, assert that it succeeds, and return its standard error."""
    done = python("-c", code, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(("old", "new"), FOLDERS.items())
def test_the_package_and_its_modules_are_the_same_objects(old: str, new: str):
    name = SUBMODULES[old]
    errors = check(f"""
import sys
import {old}, {old}.{name}
import {new}, {new}.{name}
assert {old} is {new} and sys.modules['{old}'] is sys.modules['{new}']
assert sys.modules['{old}.{name}'] is sys.modules['{new}.{name}']
assert {new}.__name__ == {new}.__spec__.name == '{new}'
assert {new}.{name}.__spec__.name == '{new}.{name}'
names = [name for name in sys.modules if name.partition('.')[0] == '{new}']
files = [sys.modules[name].__file__ for name in names]
assert len(files) == len(set(files)), 'a module was imported twice'
for name in names:
    assert sys.modules[name].__spec__.name == name
""")
    for module in (old, f"{old}.{name}"):
        warning = f"<string>:3: DeprecationWarning: import {module.replace(old, new, 1)} instead of {module}"
        assert errors.count(warning) == 1, errors


def test_what_adapters_imported_before_has_its_old_place():
    errors = check("""
import conformance
from conformance.batches.batch import Batch
from conformance.implementations.article import ArticleAdapter
from conformance.implementations.protocol import Assigner, AssignerInputs, Assignment, Loss, ProtocolViolation, Stages
from conformance.implementations.reference import ReferenceAdapter
from conformance.implementations.ultralytics import UltralyticsAdapter
from conformance.recorder import recording
""")
    assert "import tal_conformance.core.batch instead of conformance.batches.batch" in errors


def test_the_new_name_first():
    """If `tal_reference` is imported first, `reference` is the same module, with a DeprecationWarning."""
    assert "DeprecationWarning" in check("""
import tal_reference.eras
import reference.eras
assert reference.eras is tal_reference.eras
assert tal_reference.eras.__spec__.name == 'tal_reference.eras'
""")


def test_one_old_name_makes_the_others_importable(tmp_path: Path):
    """After `tal_folder_names.install()`, all three old names can be imported outside the repository."""
    check(
        """
import tal_folder_names
tal_folder_names.install()
import conformance.core.names, reference.eras, reports.log
import tal_reference.eras, tal_reports.log
assert reference.eras is tal_reference.eras and reports.log is tal_reports.log
""",
        cwd=tmp_path,
    )


def test_a_module_that_does_not_exist():
    check("""
import reference
try:
    import reference.nothing
except ModuleNotFoundError as error:
    assert error.name == 'reference.nothing', error
else:
    raise AssertionError
""")


@pytest.mark.parametrize("module", ["conformance", "reports"])
def test_run_as_a_program_without_a_warning(module: str):
    done = python("-W", "error::DeprecationWarning", "-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {module} " in done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("old", FOLDERS)
@pytest.mark.parametrize("installed", [True, False], ids=["installed", "not installed"])
def test_another_package_of_the_name_wins(old: str, installed: bool, tmp_path: Path):
    folder = tmp_path / old
    folder.mkdir()
    (folder / "__init__.py").write_text("MINE = 1\n", encoding="utf-8")
    (folder / "core.py").write_text("MINE = 2\n", encoding="utf-8")
    install = "import tal_folder_names; tal_folder_names.install()" if installed else "import tal_reports"
    errors = check(
        f"{install}\nimport {old}.core\nassert ({old}.MINE, {old}.core.MINE) == (1, 2)", cwd=tmp_path
    )
    assert "DeprecationWarning" not in errors


def test_a_folder_without_init_wins_too(tmp_path: Path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "mine.py").write_text("MINE = 1\n", encoding="utf-8")
    check("import tal_folder_names; tal_folder_names.install()\nimport reports.mine", cwd=tmp_path)


def test_two_copies_of_the_project_are_an_error(tmp_path: Path):
    """`import conformance` fails if folder and installed package belong to two copies of the project."""
    (tmp_path / "conformance").mkdir()
    source = (ROOT / "conformance" / "__init__.py").read_text(encoding="utf-8")
    (tmp_path / "conformance" / "__init__.py").write_text(source, encoding="utf-8")
    done = python("-c", "import conformance", cwd=tmp_path)
    assert done.returncode == 1
    assert "is another copy of it" in done.stderr.splitlines()[-1]


def test_the_warning_names_the_importing_line_of_a_file(tmp_path: Path):
    adapter = tmp_path / "adapter.py"
    adapter.write_text("# an adapter\nfrom conformance.core.names import suggestion\n", encoding="utf-8")
    done = python("-c", f"import conformance, sys; sys.path.append({str(tmp_path)!r}); import adapter")
    assert done.returncode == 0, done.stderr
    assert (
        f"{adapter}:2: DeprecationWarning: import tal_conformance.core instead of conformance.core"
        in done.stderr
    )
