"""The cache of fetched packages: one folder a package and version, fetched once, verified on each use.

A package is installed by pip into a folder of its own, without its dependencies: what it imports besides is this
environment's, so that every implementation computes with the same torch. Beside the files lies a list of their hashes;
a folder that does not match its list any more is thrown away and fetched again. A file lock lets two runs that want the
same package at once wait for each other.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FOLDER_VARIABLE = "TAL_CONFORMANCE_CACHE"
"""Environment variable that names another folder for the cache."""
PATIENCE = 600
"""Seconds that pip may take for one package."""
HASHES, FILES = "hashes.json", "files"
"""What lies in the folder of a package: the list of hashes, and the files."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
"""What names and versions are made of; everything else could be an option of pip, a path or an address."""


class Unavailable(LookupError):
    """A package that cannot be had here; the message says why, and what to do."""


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
            raise Unavailable(f"{self} is no package with an exact version: write NAME==VERSION")

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def cache_folder() -> Path:
    """Where packages are kept: outside every repository, shared by all of them."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tal-conformance"


def fetched(package: Package) -> Path:
    """The folder that holds the package's modules, for `sys.path`; from the cache, or fetched into it.

    Raises:
        Unavailable: it is not in the cache, or damaged there, and cannot be fetched.
    """
    folder = cache_folder() / f"{package.name}-{package.version}-{sys.implementation.cache_tag}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock")):
            problem = damage(folder)
            if problem is not None:
                fetch(package, folder, problem)
    except OSError as error:
        raise Unavailable(
            f"{package}: the cache {cache_folder()} cannot be used: {error}; {FOLDER_VARIABLE} names another folder"
        ) from error
    return folder / FILES


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of this name; whoever wants it too waits."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def damage(folder: Path) -> str | None:
    """What keeps the folder from being used as it is; None if every file is the one that was fetched."""
    if not folder.exists():
        return "it is not in the cache"
    try:
        known = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        found = hashes(folder / FILES)
    except (OSError, ValueError, RecursionError) as error:
        return f"its copy in the cache cannot be read ({error!s:.400})"
    if not isinstance(known, dict):
        return "its copy in the cache has no list of hashes"
    changed = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
    return f"its copy in the cache is damaged ({changed[0]})" if changed else None


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def fetch(package: Package, folder: Path, because: str) -> None:
    """Let pip install the package into `folder`, which appears whole or not at all.

    Raises:
        Unavailable: pip cannot get it.
    """
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        install(package, unfinished / FILES, because)
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
        said = [line for line in done.stderr.splitlines() if line.strip()] or [
            f"exit status {done.returncode}"
        ]
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed, said = True, [f"no answer within {PATIENCE} s"]
    if failed:
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise Unavailable(
            f"{package} cannot be had: {because}, and pip could not fetch it ({errors[-1]}); is there such a version, "
            f"and a network? Once fetched, it is used from {cache_folder()} without one"
        )
