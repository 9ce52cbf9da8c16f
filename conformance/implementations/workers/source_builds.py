"""Build a source release: its build script runs code of strangers, without network and without the user's secrets.

pip downloads and unpacks the release, and downloads wheels of the packages that its build needs; no code of the release
runs before the build. The build itself runs in a network namespace, with an empty home folder and an environment
without the user's variables. It is not a sandbox: the build script runs with this user's rights.
"""

import os
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tal_conformance.implementations.workers import build_offline, fetch_source
from tal_conformance.implementations.workers.pip_process import QUIET, PipFailed, pip_environment, run_pip

SOURCES_VARIABLE = "TAL_CONFORMANCE_SOURCE_RELEASES"
"""Environment variable: 1 allows source releases and builds them without network, `with-network` with it."""
OFFLINE, WITH_NETWORK = "1", "with-network"
LEGACY = ["setuptools>=40.8.0"]
"""Build requirements of a release without `pyproject.toml` (PEP 518)."""
BUILD_KEEPS = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT")
"""Environment variables that a build inherits."""
LARGEST_PYPROJECT = 2**20
"""Largest size in bytes of a `pyproject.toml` that is read."""


def allowed() -> bool:
    """Return True if the user allows source releases."""
    return os.environ.get(SOURCES_VARIABLE) in (OFFLINE, WITH_NETWORK)


def install_source(release: str, target: Path) -> None:
    """Build a source release and install it, without its dependencies.

    Args:
        release: NAME==VERSION.
        target: folder for its modules.

    Raises:
        PipFailed: pip failed, or the build cannot be separated from the network and the user did not allow
            a build with network.
    """
    with tempfile.TemporaryDirectory(prefix="tal-conformance-build-") as name:
        folder = Path(name)
        unpacked = fetched(release, folder / "download")
        wheels = folder / "wheels"
        wheels.mkdir()
        needed = build_requirements(unpacked)
        if needed:
            run_pip(["download", "--only-binary", ":all:", "--dest", str(wheels), *QUIET, "--", *needed])
        arguments = ["install", "--target", str(target), "--no-deps", "--no-compile", "--no-index"]
        arguments += ["--find-links", str(wheels), "--use-pep517", *QUIET, "--", str(unpacked)]
        if os.environ.get(SOURCES_VARIABLE) == WITH_NETWORK:
            run_pip(arguments, build_environment(folder))
            return
        try:
            run_pip(arguments, build_environment(folder), script=Path(build_offline.__file__))
        except PipFailed as error:
            if str(error) != f"exit status {build_offline.NO_NAMESPACE}":
                raise
            raise PipFailed(
                "the build script would run with access to the network, because this system lets no process enter a "
                "network namespace. Install a wheel of the release, allow user namespaces, or set "
                f"{SOURCES_VARIABLE}={WITH_NETWORK} to build it with the network"
            ) from error


def fetched(release: str, folder: Path) -> Path:
    """Download and unpack a source release, and return the folder of its files; none of its code runs.

    Raises:
        PipFailed: pip failed, or did not leave an unpacked source release.
    """
    folder.mkdir()
    arguments = [
        "download",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--dest",
        str(folder / "archive"),
        *QUIET,
        release,
    ]
    environment = pip_environment() | {"TMPDIR": str(folder)}
    run_pip(arguments, environment, Path(fetch_source.__file__), fetch_source.FETCHED)
    found = [path for path in folder.glob("pip-*/*") if path.is_dir() and is_release(path)]
    if len(found) != 1:
        raise PipFailed(f"{release} is not a source release with a setup.py or pyproject.toml")
    return found[0]


def is_release(folder: Path) -> bool:
    """Return True if a folder has the files of a source release."""
    return any((folder / name).is_file() for name in ("pyproject.toml", "setup.py"))


def build_requirements(unpacked: Path) -> list[str]:
    """Return the packages that the build of a release needs, as NAME and version specifier.

    Raises:
        PipFailed: `pyproject.toml` cannot be read, or its build requires anything other than packages of the index.
    """
    path = unpacked / "pyproject.toml"
    required = LEGACY
    if path.is_file():
        try:
            if path.stat().st_size > LARGEST_PYPROJECT:
                raise ValueError(f"larger than {LARGEST_PYPROJECT} bytes")
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            required = table.get("build-system", {"requires": LEGACY})["requires"]
            parsed = [Requirement(text) for text in required]
        except (OSError, ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
            raise PipFailed(
                f"pyproject.toml of the source release cannot be read: {type(error).__name__}: {error!s:.200}"
            ) from error
    else:
        parsed = [Requirement(text) for text in required]
    addresses = [str(requirement) for requirement in parsed if requirement.url]
    if addresses:
        raise PipFailed(f"the build requires {addresses[0]!r:.200}, expected only packages of the index")
    needs_wheel = any(requirement.name.lower() == "setuptools" for requirement in parsed)
    # setuptools before version 70.1 needs wheel
    return [
        *map(str, parsed),
        *(["wheel"] if needs_wheel else []),
    ]


def build_environment(folder: Path) -> dict[str, str]:
    """Return the environment variables of a build, with an empty home folder and without the user's variables."""
    home, scratch = folder / "home", folder / "scratch"
    for path in (home, scratch):
        path.mkdir()
    inherited = {name: value for name, value in os.environ.items() if name in BUILD_KEEPS}
    return inherited | {"HOME": str(home), "TMPDIR": str(scratch), "PIP_CONFIG_FILE": os.devnull}
