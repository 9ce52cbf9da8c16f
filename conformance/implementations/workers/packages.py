"""The cache of fetched packages: one folder a package and version, fetched once, verified on each use.

A package is installed by pip into a folder of its own, without its dependencies: what it imports besides is this
environment's, so that every implementation computes with the same torch. Beside the files lies a list of their hashes;
a folder that does not match its list any more is thrown away and fetched again. A file lock lets two runs that want the
same package at once wait for each other.
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
"""Seconds that pip may take for one package."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
"""What names and versions are made of; everything else could be an option of pip, a path or an address."""


@dataclass(frozen=True)
class Package:
    """One version of one package on PyPI.

    Attributes:
        name: as pip knows it.
        version: the exact one.

    Raises:
        Unavailable: name or version cannot be one.
    """

    name: str
    version: str

    def __post_init__(self) -> None:
        if not PLAIN.match(self.name) or not PLAIN.match(self.version):
            raise PackageUnavailable(f"{self} is no package with an exact version: write NAME==VERSION")

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def ensure_package(package: Package) -> Path:
    """The folder that holds the package's modules, for `sys.path`; from the cache, or fetched into it.

    Raises:
        Unavailable: it is not in the cache, or damaged there, and cannot be fetched.
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
            f"{package}: the cache {cache_folder()} cannot be used: {error}; {FOLDER_VARIABLE} names another folder"
        ) from error
    return folder / FILES


def fetch(package: Package, folder: Path, because: str) -> None:
    """Let pip install the package into `folder`, which appears whole or not at all.

    Raises:
        Unavailable: pip cannot get it.
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
    """Run pip.

    Raises:
        Unavailable: with what pip said last.
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
            f"{package} cannot be had: {because}, and pip could not fetch it ({errors[-1]}); is there such a version, "
            f"and a network? Once fetched, it is used from {cache_folder()} without one"
        )
