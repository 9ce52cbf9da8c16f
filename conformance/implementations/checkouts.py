"""Test a source tree of Ultralytics, such as the checkout of a pull request: `ultralytics@PATH`.

The package is copied when it is found, so that edits during a run do not change the tested code. The version of the
implementation ends with a hash of the copied files, which distinguishes two states of the same tree.
"""

import hashlib
import json
import re
import shutil
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path

from tal_conformance.core.cache import FILES, HASHES, hashes
from tal_conformance.core.files import TemporaryFolder
from tal_conformance.implementations.adapters.ultralytics_losses import parsed
from tal_conformance.implementations.errors import PackageUnavailable
from tal_conformance.implementations.releases import IMPORTS, OLDEST, STAND_INS, chosen, dialects_by_task
from tal_conformance.implementations.workers.packages import compile_bytecode, ensure_package
from tal_conformance.implementations.workers.process import Launch, Worker
from tal_conformance.implementations.workers.remote import RemoteAdapter
from tal_reference.eras import dialect_of

PACKAGE = "ultralytics"
SUFFIXES = (".py", ".yaml", ".yml", ".json", ".txt")
"""Suffixes of the files that are copied; the package needs no others to import its assigner and loss."""
MAX_BYTES = 64 * 2**20
"""Largest total size in bytes of the copied files; the package of a release has less than 4 MiB of them."""
DIGITS = 10
"""Number of hexadecimal digits of the hash in the version."""
VERSION = re.compile(r"""^__version__\s*(?::[^=]+)?=\s*["']([^"']+)["']""", re.MULTILINE)


def checkout(name: str, folder: Path) -> RemoteAdapter:
    """Return the loss and the assigner of a source tree of Ultralytics, in a worker process.

    The tree is judged by the dialect of the release that its `__version__` names.

    Args:
        name: name of the implementation.
        folder: the tree: the folder that contains `ultralytics/`, or `ultralytics/` itself.

    Raises:
        PackageUnavailable: the folder has no such package, or the package could not be copied or started.
    """
    package = package_in(folder.expanduser())
    version = version_of(package)
    try:
        numbers = parsed(".".join(re.findall(r"\d+", version)[:3]))
        dialect = dialect_of(numbers)
    except (ValueError, LookupError) as error:
        raise PackageUnavailable(
            f"{package / '__init__.py'}: __version__ is {version!r}, expected a version from "
            f"{'.'.join(map(str, OLDEST))} on"
        ) from error
    copy = TemporaryFolder("tal-conformance-checkout-")
    try:
        digest = copy_package(package, copy.path)
    except OSError as error:
        copy.remove()
        raise PackageUnavailable(f"{name}: cannot copy the package: {error}") from error
    installed = [ensure_package(needed) for needed in chosen(IMPORTS, numbers)]
    launch = Launch(
        "tal_conformance.implementations.adapters.ultralytics:UltralyticsAdapter",
        {"version": version},
        [copy.path / FILES, *installed],
        STAND_INS,
        [copy.path, *(folder.parent for folder in installed)],
    )
    weakref.finalize(launch, copy.remove)  # the adapter's worker, and any new one, has the same launch
    adapter = RemoteAdapter(name, Worker(launch), dialect, dialects_by_task(numbers))
    adapter.version = f"{version}+{digest[:DIGITS]}"
    return adapter


def package_in(folder: Path) -> Path:
    """Return the folder of the package in a source tree.

    Raises:
        PackageUnavailable: the tree has no package `ultralytics`.
    """
    for package in (folder / PACKAGE, folder):
        if package.resolve().name == PACKAGE and (package / "__init__.py").is_file():
            return package
    raise PackageUnavailable(
        f"{folder}: expected a folder that contains {PACKAGE}/__init__.py"
        + ("" if folder.exists() else "; the folder does not exist")
    )


def version_of(package: Path) -> str:
    """Return the value that a package's source assigns to `__version__`; does not execute the source.

    Raises:
        PackageUnavailable: the source does not assign a string to `__version__`.
    """
    path = package / "__init__.py"
    try:
        found = VERSION.search(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise PackageUnavailable(f"cannot read {path}: {error}") from error
    if found is None:
        raise PackageUnavailable(f"{path} has no line such as __version__ = '8.4.190'")
    return found[1]


def copy_package(package: Path, folder: Path) -> str:
    """Copy a package into `folder` as an entry of the package cache, with hashes and bytecode.

    Returns:
        The hash of all copied files, as hexadecimal digits.

    Raises:
        OSError: a file cannot be copied, or the files have more than `MAX_BYTES`.
    """
    target, total = folder / FILES / PACKAGE, 0
    for path in source_files(package):
        total += path.stat().st_size
        if total > MAX_BYTES:
            raise OSError(f"its source files have more than {MAX_BYTES} bytes")
        place = target / path.relative_to(package)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    digest = hashlib.sha256(json.dumps(hashes(folder / FILES)).encode()).hexdigest()
    compile_bytecode(folder / FILES)
    (folder / HASHES).write_text(json.dumps(hashes(folder / FILES)), encoding="utf-8")
    return digest


def source_files(package: Path) -> Iterator[Path]:
    """Yield the files of a package that are to be copied, without links, which may lead out of the source tree."""
    for path in sorted(package.rglob("*")):
        if path.suffix in SUFFIXES and stat.S_ISREG(path.lstat().st_mode):
            yield path
