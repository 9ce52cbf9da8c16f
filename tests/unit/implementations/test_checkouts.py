"""Source trees of Ultralytics as implementations: `ultralytics@PATH`."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from tests.common.source_trees import EXCHANGED

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.cache import FILES, damage
from tal_conformance.dialects.choices import failure_on
from tal_conformance.implementations import checkouts
from tal_conformance.implementations.checkouts import copy_package, package_in, version_of
from tal_conformance.implementations.errors import PackageUnavailable, UnknownImplementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_reference import NEWEST

BATCH = Recipe(images=((Truth("ordinary"), Truth("huge")),), strides=(8, 16), predictions="near")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small source tree with a package that cannot be imported."""
    package = tmp_path / "tree" / "ultralytics"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text("import nowhere\n\n__version__ = '8.4.190'\n")
    (package / "utils" / "tal.py").write_text("A = 1\n")
    (package / "weights.pt").write_bytes(b"large")
    (package / "link.py").symlink_to("/etc/passwd")
    return package.parent


def test_the_tree_or_its_package_is_given(tree: Path):
    assert package_in(tree) == package_in(tree / "ultralytics") == tree / "ultralytics"


def test_the_version_is_read_without_executing_the_package(tree: Path):
    assert version_of(tree / "ultralytics") == "8.4.190"


@pytest.mark.parametrize("folder", [".", "nowhere", "tree/ultralytics/utils"])
def test_a_folder_without_the_package_is_refused(tree: Path, folder: str):
    with pytest.raises(
        UnknownImplementation, match=r"expected a folder that contains ultralytics/__init__.py"
    ):
        find(f"ultralytics@{tree.parent / folder}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("version = 8", "has no line such as __version__"),
        ("__version__ = 'main'", "__version__ is 'main', expected a version from 8.0.0 on"),
        ("__version__ = '7.0.1'", "__version__ is '7.0.1', expected a version from 8.0.0 on"),
    ],
)
def test_a_tree_without_a_known_version_is_refused(tree: Path, line: str, message: str):
    (tree / "ultralytics" / "__init__.py").write_text(f"{line}\n")
    with pytest.raises(UnknownImplementation, match=message):
        find(f"ultralytics@{tree}")


def test_source_files_are_copied_without_links(tree: Path, tmp_path: Path):
    copy_package(tree / "ultralytics", tmp_path / "copy")
    copied = {path.name for path in (tmp_path / "copy" / FILES).rglob("*.*") if path.suffix != ".pyc"}
    assert copied == {"__init__.py", "tal.py"}
    assert damage(tmp_path / "copy") is None


def test_the_hash_is_that_of_the_content(tree: Path, tmp_path: Path):
    package = tree / "ultralytics"
    first, same = (copy_package(package, tmp_path / name) for name in "ab")
    (package / "utils" / "tal.py").write_text("A = 2\n")
    assert first == same != copy_package(package, tmp_path / "c")


def test_a_tree_that_is_too_large_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkouts, "MAX_BYTES", 8)
    with pytest.raises(UnknownImplementation, match="source files have more than 8 bytes"):
        find(f"ultralytics@{tree}")


def test_a_package_that_cannot_be_imported_is_refused_with_its_error(tree: Path):
    with pytest.raises(UnknownImplementation, match=r"ModuleNotFoundError.*nowhere") as raised:
        find(f"ultralytics@{tree}")
    assert isinstance(raised.value.__cause__, PackageUnavailable)


@pytest.mark.slow
def test_a_changed_tree_is_found_and_an_unchanged_one_conforms(tmp_path: Path):
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    shutil.copytree(Path(spec.origin).parent, tmp_path / "pr" / "ultralytics")
    unchanged = find(f"ultralytics@{tmp_path / 'pr'}")
    with (tmp_path / "pr" / "ultralytics" / "utils" / "tal.py").open("a") as file:
        file.write(EXCHANGED)
    changed = find(f"ultralytics@{tmp_path / 'pr'}")
    assert unchanged.dialect == changed.dialect == NEWEST
    version, _, digest = unchanged.version.partition("+")
    assert changed.version.startswith(f"{version}+")
    assert changed.version != unchanged.version
    assert len(digest) == checkouts.DIGITS
    assert failure_on(Subject(unchanged, "cpu"), BATCH) is None  # the copy was made before the edit
    found = failure_on(Subject(changed, "cpu"), BATCH)
    assert found is not None
    assert (found.stage, found.clause) == ("metric", "TAL-MET-1")
