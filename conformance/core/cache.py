"""TODO tal_conformance.core.cache."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_VARIABLE = "TAL_CONFORMANCE_CACHE"
"""Environment variable that names another folder for the cache."""


HASHES, FILES = "hashes.json", "files"
"""What lies in the folder of a package: the list of hashes, and the files."""


HASHES, FILES = "hashes.json", "files"
"""What lies in the folder of a package: the list of hashes, and the files."""


def cache_folder() -> Path:
    """Where packages are kept: outside every repository, shared by all of them."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tal-conformance"


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
