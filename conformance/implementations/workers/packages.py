"""The cache of installed packages: one folder per package and version, installed once and verified on each use.

pip installs a package into a separate folder, without dependencies: these come from this environment, so that every
implementation computes with the same torch. A list of hashes beside the files detects a damaged folder, which is
removed and installed again. A file lock ensures that concurrent runs install a package only once.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tal_conformance.core.cache import FILES, FOLDER_VARIABLE, HASHES, cache_folder, damage, hashes
from tal_conformance.core.progress import progress
from tal_conformance.implementations.errors import PackageUnavailable

INSTALL_TIMEOUT = 600
"""Time limit in seconds for pip to install one package."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
"""Pattern of names and versions; any other text could be an option of pip, a path or an address."""


@dataclass(frozen=True)
class Package:
    """One version of one package on PyPI.

    Attributes:
        name: name on PyPI.
        version: an exact version.

    Raises:
        PackageUnavailable: the name or the version is not valid.
    """

    name: str
    version: str

    def __post_init__(self) -> None:
        if not PLAIN.match(self.name) or not PLAIN.match(self.version):
            raise PackageUnavailable(f"'{self}' does not name an exact version; use NAME==VERSION")

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def ensure_package(package: Package) -> Path:
    """Return the folder of the package's modules, for `sys.path`, installing the package if it is not in the cache.

    Raises:
        PackageUnavailable: the package is missing or damaged in the cache, and cannot be installed.
    """
    folder = cache_folder() / f"{package.name}-{package.version}-{sys.implementation.cache_tag}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            problem = damage(folder)
            if problem is not None:
                fetch(package, folder, problem)
    except OSError as error:
        raise PackageUnavailable(
            f"{package}: cannot use the cache {cache_folder()}: {error}. {FOLDER_VARIABLE} can name another folder"
        ) from error
    return folder / FILES


def fetch(package: Package, folder: Path, because: str) -> None:
    """Install the package into `folder` with pip, atomically.

    Raises:
        PackageUnavailable: pip failed.
    """
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        with progress(f"Installing {package}") as advance:
            install(package, unfinished / FILES, because)
            advance("installed")
        list_of_hashes = json.dumps(hashes(unfinished / FILES), indent=0)
        (unfinished / HASHES).write_text(list_of_hashes, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def install(package: Package, target: Path, because: str) -> None:
    """Run pip to install a package.

    Args:
        package: the package to install.
        target: folder for its modules.
        because: reason why the cached copy is not used, for the message.

    Raises:
        PackageUnavailable: pip failed; the message contains its last error.
    """
    command = [
        *(sys.executable, "-m", "pip", "install", "--target", str(target), "--no-deps", "--no-compile"),
        *("--disable-pip-version-check", "--no-input", "--quiet", str(package)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)  # noqa: S603
        said = [line for line in done.stderr.splitlines() if line.strip()] or [
            f"exit status {done.returncode}"
        ]
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed, said = True, [f"no answer within {INSTALL_TIMEOUT} s"]
    if failed:
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise PackageUnavailable(
            f"cannot install {package}: {because}. pip said: {errors[-1]}. Check the version number and the network "
            f"connection. Installed packages are cached in {cache_folder()} and then used offline"
        )
