"""Source releases are refused unless the user allows them, and their build scripts see neither network nor secrets."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tal_conformance.core.cache import FOLDER_VARIABLE, cache_folder
from tal_conformance.implementations.errors import PackageUnavailable
from tal_conformance.implementations.workers import confine, source_builds
from tal_conformance.implementations.workers.packages import Package, ensure_package
from tal_conformance.implementations.workers.pip_process import PipFailed
from tal_conformance.implementations.workers.source_builds import SOURCES_VARIABLE, build_requirements

SOURCE = Package("tal-conformance-test-source", "1.0")
FOLDER = "tal_conformance_test_source-1.0"
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
METADATA = "Metadata-Version: 2.1\nName: tal-conformance-test-source\nVersion: 1.0\n"
BACKEND = '''
import json, os, pathlib, socket, zipfile

def tried(host, port):
    """Return the error of a connection, or "" if it was made."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return type(error).__name__
    return ""

def build_wheel(folder, config_settings=None, metadata_directory=None):
    pathlib.Path(MARK).touch()
    found = {
        "environment": dict(os.environ),
        "home": os.listdir(pathlib.Path.home()),
        "here": tried("127.0.0.1", PORT),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "away": tried("192.0.2.1", 80),
    }
    name = "FOLDER-py3-none-any.whl"
    info = "FOLDER.dist-info/"
    files = {
        "built_from_source.py": f"found = {found!r}",
        info + "METADATA": METADATA,
        info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    record = "".join(f"{file},,\\n" for file in files) + info + "RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for file, content in (files | {info + "RECORD": record}).items():
            wheel.writestr(file, content)
    return name
'''
"""A build backend that tries to use the network and writes what it found into the module that it builds."""


def archive(index: Path, files: dict[str, str]) -> None:
    """Write a source release into the folder of a package index."""
    with tarfile.open(index / f"{FOLDER}.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return the path of a file that the build script creates; the file exists if the script has run."""
    return tmp_path / "ran"


@pytest.fixture
def index(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide pip with an index of one source release, an empty cache, and a home folder with secrets."""
    import socket

    folder = tmp_path / "index"
    folder.mkdir()
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    constants = f"PORT, MARK, METADATA = {port}, {str(mark)!r}, {METADATA!r}\n"
    backend = constants + BACKEND.replace("FOLDER", FOLDER)
    archive(folder, {"PKG-INFO": METADATA, "pyproject.toml": PYPROJECT, "backend.py": backend})
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine x login y password secret\n", encoding="utf-8")
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "HOME": str(home),
        "SECRET_OF_THE_USER": "secret",
        "PIP_INDEX_URL": "https://user:secret@index.invalid/simple",
        "HTTPS_PROXY": "http://user:secret@proxy.invalid",
        FOLDER_VARIABLE: str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(SOURCES_VARIABLE, raising=False)
    monkeypatch.setattr(
        source_builds, "_test_server", server, raising=False
    )  # keeps listening while the test runs
    return folder


def built() -> dict[str, Any]:
    """Install the source release, and return the values that its build script recorded."""
    text = (ensure_package(SOURCE) / "built_from_source.py").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    exec(text, found)
    result: dict[str, Any] = found["found"]
    return result


def namespaces() -> bool:
    """Return True if a process can enter a network namespace on this system."""
    import subprocess

    script = f"import runpy; print(runpy.run_path({confine.__file__!r})['leave_network']())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip() == confine.NAMESPACE


def test_a_source_release_is_refused_unless_asked_for(index: Path, mark: Path):
    with pytest.raises(PackageUnavailable, match="cannot install tal-conformance-test-source"):
        ensure_package(SOURCE)
    assert not mark.exists()


def test_no_code_of_a_release_runs_while_it_is_downloaded(index: Path, mark: Path, tmp_path: Path):
    unpacked = source_builds.fetched(str(SOURCE), tmp_path / "download")
    assert (unpacked / "backend.py").is_file()
    assert not mark.exists()


@pytest.mark.parametrize("reviewed", [False, True])
def test_a_build_has_no_network_and_no_secrets(
    index: Path, mark: Path, reviewed: bool, monkeypatch: pytest.MonkeyPatch
):
    """The build script sees no network interfaces and no secrets; without network namespaces, the build is refused."""
    if not reviewed:
        monkeypatch.setenv(SOURCES_VARIABLE, "1")
    if not namespaces():
        with pytest.raises(PackageUnavailable, match="no process enter a network namespace"):
            ensure_package(SOURCE)
        assert not mark.exists()
        return
    package = Package(SOURCE.name, SOURCE.version, source=reviewed)
    text = (ensure_package(package) / "built_from_source.py").read_text(encoding="utf-8")
    assert mark.exists()
    found = built()
    assert "secret" not in text
    assert ".netrc" not in found["home"]  # pip asks rustc for its version, which may leave a file
    assert found["environment"]["HOME"] != str(Path.home())
    assert found["interfaces"] in ([], ["lo"])
    assert found["here"]
    assert found["away"]
    allowed = {*source_builds.BUILD_KEEPS, "HOME", "TMPDIR", "PIP_CONFIG_FILE"}
    set_by_pip = {
        name for name in found["environment"] if name.startswith(("PEP517_", "_PYPROJECT_HOOKS", "PIP_"))
    }
    assert set(found["environment"]) <= allowed | set_by_pip | {"PYTHONNOUSERSITE", "PYTHONPATH", "LC_CTYPE"}


def test_a_build_is_refused_where_no_namespace_can_be_made(
    index: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without network namespaces, as on macOS, a build is refused unless the variable is "with-network"."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "confine.py").write_text(
        "NAMESPACE = 'namespace'\nleave_network = lambda: 'audit hooks'\n", encoding="utf-8"
    )
    script = folder / "build_offline.py"
    script.write_text(
        Path(source_builds.build_offline.__file__).read_text(encoding="utf-8"), encoding="utf-8"
    )
    monkeypatch.setattr(source_builds.build_offline, "__file__", str(script))
    monkeypatch.setenv(SOURCES_VARIABLE, "1")
    with pytest.raises(PackageUnavailable) as caught:
        ensure_package(SOURCE)
    assert not mark.exists()
    assert "lets no process enter a network namespace. Install a wheel" in str(caught.value)
    assert f"set {SOURCES_VARIABLE}=with-network" in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(SOURCES_VARIABLE, "with-network")
    found = built()
    assert found["here"] == ""
    assert "secret" not in json.dumps(found)


def test_a_build_that_fails_leaves_nothing(index: Path, mark: Path, monkeypatch: pytest.MonkeyPatch):
    script = f"open({str(mark)!r}, 'w').close()\nraise SystemExit('no build')\n"
    archive(index, {"PKG-INFO": METADATA, "pyproject.toml": PYPROJECT, "backend.py": script})
    monkeypatch.setenv(SOURCES_VARIABLE, "with-network")
    with pytest.raises(PackageUnavailable, match="cannot install"):
        ensure_package(SOURCE)
    assert mark.exists()
    assert [path.name for path in cache_folder().iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[build-system]\nrequires = ["x @ file:///etc"]\n', "expected only packages of the index"),
        ('[build-system]\nrequires = ["--editable=."]\n', "cannot be read: InvalidRequirement"),
        ("[build-system]\nrequires = 3\n", "cannot be read: TypeError"),
        ("build-system = 3\n", "cannot be read: TypeError"),
        ("[", "cannot be read: TOMLDecodeError"),
        ("#" * (source_builds.LARGEST_PYPROJECT + 1), "cannot be read: ValueError: larger than"),
    ],
)
def test_build_requirements_that_are_refused(text: str, message: str, tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(PipFailed, match=message):
        build_requirements(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["setuptools>=40.8.0", "wheel"]),
        ("[tool.x]\n", ["setuptools>=40.8.0", "wheel"]),
        ('[build-system]\nrequires = ["flit_core<4"]\n', ["flit_core<4"]),
    ],
)
def test_build_requirements(text: str | None, expected: list[str], tmp_path: Path):
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    assert build_requirements(tmp_path) == expected
