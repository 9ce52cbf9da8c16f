"""The package cache: packages are installed once, verified on each use, and safe for concurrent processes."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tal_conformance.core.cache import FOLDER_VARIABLE, cache_folder, damage
from tal_conformance.implementations.errors import PackageUnavailable, UnknownImplementation
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.workers import packages
from tal_conformance.implementations.workers.packages import Package, ensure_package
from tal_conformance.implementations.workers.pip_process import pip_environment

SMALL = Package("tal-conformance-test-package", "1.2.3")
FILES = {
    "small_package/__init__.py": "answer = 42\n",
    "tal_conformance_test_package-1.2.3.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: tal-conformance-test-package\nVersion: 1.2.3\n"
        "Requires-Dist: a-package-that-nobody-has\n"
    ),
    "tal_conformance_test_package-1.2.3.dist-info/WHEEL": (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ),
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide pip with a local index that has one wheel, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    records = "".join(f"{name},,\n" for name in FILES)
    record = "tal_conformance_test_package-1.2.3.dist-info/RECORD"
    with zipfile.ZipFile(folder / "tal_conformance_test_package-1.2.3-py3-none-any.whl", "w") as wheel:
        for name, content in {**FILES, record: records + f"{record},,\n"}.items():
            wheel.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return folder


def test_fetched_once_and_used_without_the_index_after(index: Path):
    """A package is installed once, without its dependencies. Later uses need no package index."""
    folder = ensure_package(SMALL)
    assert (folder / "small_package/__init__.py").read_text(encoding="utf-8") == "answer = 42\n"
    shutil.rmtree(index)
    assert ensure_package(SMALL) == folder
    assert folder.is_relative_to(cache_folder())


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["changed", "removed", "added", "list"])
def test_a_damaged_copy_is_fetched_again(index: Path, harm: str):
    folder = ensure_package(SMALL)
    module = folder / "small_package/__init__.py"
    match harm:
        case "changed":
            module.write_text("answer = 43\n", encoding="utf-8")
        case "removed":
            module.unlink()
        case "added":
            (folder / "small_package/other.py").write_text("", encoding="utf-8")
        case "list":
            (folder.parent / packages.HASHES).write_text("{", encoding="utf-8")
    assert damage(folder.parent) is not None
    assert ensure_package(SMALL) == folder
    assert module.read_text(encoding="utf-8") == "answer = 42\n"
    assert not (folder / "small_package/other.py").exists()
    assert damage(folder.parent) is None


@pytest.mark.slow
def test_a_damaged_copy_without_an_index(index: Path):
    """Without an index, a damaged cached package raises PackageUnavailable with the name of the damaged file."""
    folder = ensure_package(SMALL)
    (folder / "small_package/__init__.py").write_text("answer = 43\n", encoding="utf-8")
    shutil.rmtree(index)
    index.mkdir()
    with pytest.raises(PackageUnavailable, match=r"is damaged \(small_package/__init__\.py\)\. pip said"):
        ensure_package(SMALL)


@pytest.mark.slow
def test_two_at_once(index: Path):
    """Two concurrent processes that need a package get the same folder, and only one of them installs the package."""
    script = (
        "import sys; from pathlib import Path; from tal_conformance.implementations.workers import packages as p\n"
        "install = p.install\n"
        "def counted(*a):\n"
        "    Path(sys.argv[1]).open('a').write('x'); install(*a)\n"
        "p.install = counted\n"
        "print(p.ensure_package(p.Package('tal-conformance-test-package', '1.2.3')))\n"
    )
    count = index / "count"
    command = [sys.executable, "-c", script, str(count)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(said) == 1
    assert count.read_text(encoding="utf-8") == "x"


def test_nothing_is_left_of_a_fetch_that_failed(index: Path):
    with pytest.raises(
        PackageUnavailable, match=r"cannot install tal-conformance-test-package==9\.9: not found in the cache"
    ):
        ensure_package(Package(SMALL.name, "9.9"))
    left = [path.name for path in cache_folder().iterdir() if path.suffix != ".lock"]
    assert left == []


def test_a_cache_that_cannot_be_written(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(
        PackageUnavailable, match=f"cannot use the cache: .*{FOLDER_VARIABLE} can name another folder"
    ):
        ensure_package(SMALL)


@pytest.mark.parametrize(
    ("name", "version"),
    [("--index-url", "1"), ("a b", "1"), ("x", ">=1"), ("", "1"), ("x", ""), ("x", "1 --pre")],
)
def test_what_is_no_package(name: str, version: str):
    with pytest.raises(PackageUnavailable, match="does not name an exact version; use NAME==VERSION"):
        Package(name, version)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "ultralytics==8.4.99999",
            r"cannot install ultralytics==8\.4\.99999: not found in the cache\. pip said: ",
        ),
        ("ultralytics==8.4", r"expected a version of three numbers, such as ultralytics==8\.3\.236"),
        ("ultralytics==7.0.0", r"the first release with this loss is 8\.0\.0"),
        ("ultralytics==8.3.1; rm", "expected a version of three numbers"),
        ("yolov5==7.0.0", "selected by version: ultralytics, .*coreyolo"),
    ],
)
def test_a_release_that_cannot_be_had(index: Path, asked: str, message: str):
    with pytest.raises(UnknownImplementation, match=message):
        find(asked)


def test_bytecode_is_in_the_entry_and_hashed(index: Path):
    folder = ensure_package(SMALL)
    (bytecode,) = folder.glob("small_package/__pycache__/*.pyc")
    assert damage(folder.parent) is None
    bytecode.write_bytes(bytecode.read_bytes() + b"\0")
    assert "the cached copy is damaged (small_package/__pycache__" in str(damage(folder.parent))


def test_a_link_in_an_entry_is_damage(index: Path, tmp_path: Path):
    folder = ensure_package(SMALL)
    (folder / "small_package" / "link.py").symlink_to(tmp_path / "elsewhere.py")
    assert "link.py is neither a file nor a folder" in str(damage(folder.parent))


@pytest.mark.parametrize("place", ["cache", "entry"])
def test_a_cache_that_others_can_write_is_refused(index: Path, place: str, monkeypatch: pytest.MonkeyPatch):
    folder = ensure_package(SMALL)
    (cache_folder() if place == "cache" else folder.parent).chmod(0o777)
    with pytest.raises(
        PackageUnavailable, match=r"others can write to .*mode 777.*chmod go-w.*SHARED_CACHE=1"
    ):
        ensure_package(SMALL)
    monkeypatch.setenv(packages.SHARED_VARIABLE, "1")
    assert ensure_package(SMALL) == folder


def test_a_lock_that_is_a_link_is_refused(index: Path, tmp_path: Path):
    folder = ensure_package(SMALL)
    lock = folder.parent.with_name(f"{folder.parent.name}.lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(tmp_path / "victim")
    with pytest.raises(PackageUnavailable, match=r"\.lock is a link"):
        ensure_package(SMALL)
    assert not (tmp_path / "victim").exists()


def test_fetching_runs_no_code_of_the_working_directory(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("pip", "json", "sitecustomize", "usercustomize", "encodings", "compileall"):
        text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONSTARTUP", str(folder / "json.py"))
    monkeypatch.setenv("SECRET_OF_THE_USER", "secret")
    ensure_package(SMALL)
    assert not (tmp_path / "ran").exists()
    assert "SECRET_OF_THE_USER" not in pip_environment()


def test_an_entry_is_verified_again_before_its_import(index: Path):
    from tal_conformance.implementations.workers.child import made

    folder = ensure_package(SMALL)
    fields = {"adapter": "math:sqrt", "arguments": {}, "stand_ins": [], "entries": [str(folder.parent)]}
    (folder / "small_package" / "__init__.py").write_text("answer = 43\n", encoding="utf-8")
    with pytest.raises(ImportError, match="the package was changed after its hashes were verified"):
        made(fields)
