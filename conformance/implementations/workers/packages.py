"""The cache of installed packages: one folder per package and version, installed once and verified on each use.

pip installs a package into a separate folder, without its dependencies, which come from this environment, so that every
implementation computes with the same torch. A list of hashes beside the files detects a damaged folder, which is
removed and installed again. A file lock ensures that concurrent runs install a package only once.
"""

import compileall
import json
import os
import py_compile
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tal_conformance.core.cache import (
    FILES,
    FOLDER_VARIABLE,
    HASHES,
    cache_folder,
    damage,
    hashes,
    others_can_write,
)
from tal_conformance.core.names import suggestion
from tal_conformance.core.progress import progress
from tal_conformance.implementations.errors import PackageUnavailable
from tal_conformance.implementations.workers.pip_process import QUIET, PipFailed, run_pip
from tal_conformance.implementations.workers.source_builds import allowed, install_source

SHARED_VARIABLE = "TAL_CONFORMANCE_SHARED_CACHE"
"""Environment variable: 1 allows a cache that other users can write to."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
"""Pattern of names and versions; any other text could be an option of pip, a path or an address."""


@dataclass(frozen=True)
class Package:
    """One version of one package on PyPI.

    Attributes:
        name: name on PyPI.
        version: an exact version.
        source: True if pip may build the package from source: no wheel exists, and the source was reviewed.

    Raises:
        PackageUnavailable: the name or the version is not valid.
    """

    name: str
    version: str
    source: bool = False

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
    try:
        cache = cache_folder()
        folder = cache / f"{package.name}-{package.version}-{sys.implementation.cache_tag}"
        lock = folder.with_name(f"{folder.name}.lock")
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_shared(cache)
        if lock.is_symlink():
            raise OSError(f"{lock} is a link, expected a regular file")
        with FileLock(lock):
            if folder.exists():
                refuse_shared(folder)
            problem = damage(folder)
            if problem is not None:
                fetch(package, folder, problem)
    except OSError as error:
        raise PackageUnavailable(
            f"{package}: cannot use the cache: {error}. {FOLDER_VARIABLE} can name another folder"
        ) from error
    return folder / FILES


def refuse_shared(folder: Path) -> None:
    """Raise if other users can change files in the cache, because code from the cache runs with this user's rights.

    Raises:
        OSError: other users can change files, and the variable `SHARED_VARIABLE` does not allow it.
    """
    reason = None if os.environ.get(SHARED_VARIABLE) == "1" else others_can_write(folder)
    if reason is not None:
        raise OSError(
            f"{reason}; make it private (chmod go-w), or set {SHARED_VARIABLE}=1 to trust its owners"
        )


def fetch(package: Package, folder: Path, because: str) -> None:
    """Install the package into `folder` with pip, atomically.

    `because` is the reason why the cached copy is not used, for the message.

    Raises:
        PackageUnavailable: pip failed.
    """
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        with progress(f"Installing {package}") as advance:
            install(package, unfinished / FILES, because)
            compile_bytecode(unfinished / FILES)
            advance("installed")
        list_of_hashes = json.dumps(hashes(unfinished / FILES), indent=0)
        (unfinished / HASHES).write_text(list_of_hashes, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def compile_bytecode(folder: Path) -> None:
    """Compile all modules in a package folder, so that the hashes of the cache entry cover the bytecode too.

    Python does not compare the bytecode with the source when it is loaded, because the hashes were verified.
    """
    compileall.compile_dir(
        str(folder), quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, workers=1
    )


def install(package: Package, target: Path, because: str) -> None:
    """Run pip to install a package.

    Args:
        package: the package to install.
        target: folder for its modules.
        because: reason why the cached copy is not used, for the message.

    Raises:
        PackageUnavailable: pip failed; the message contains its last error.
    """
    try:
        if package.source:
            install_source(str(package), target)
        else:
            install_wheel(package, target)
    except PipFailed as error:
        published = re.findall(r"from versions: ([^)]*)\)", str(error))
        nearest = suggestion(package.version, ", ".join(published).split(", "))
        raise PackageUnavailable(
            f"cannot install {package}: {because}. pip said: {error}{nearest}. Check the version number and the "
            f"network connection. Installed packages are cached in {cache_folder()} and then used offline"
        ) from error


def install_wheel(package: Package, target: Path) -> None:
    """Run pip to install a package from a wheel or, if no wheel exists and the user allows it, from its source.

    Raises:
        PipFailed: pip failed.
    """
    options = ["--target", str(target), "--no-deps", "--no-compile", "--only-binary", ":all:"]
    try:
        run_pip(["install", *options, *QUIET, str(package)])
    except PipFailed:
        if not allowed():
            raise
        install_source(str(package), target)
