"""The user's cache folder, shared by all repositories, and hashes that detect damaged entries."""

import hashlib
import json
import os
import stat
from pathlib import Path

import platformdirs

FOLDER_VARIABLE = "TAL_CONFORMANCE_CACHE"
"""Environment variable that overrides the folder of the cache."""
HASHES, FILES = "hashes.json", "files"
"""Names in an entry's folder: the list of its files' hashes, and the folder of the files."""


def cache_folder() -> Path:
    """Return the folder of the cache: the one that `FOLDER_VARIABLE` names, else the user's cache folder.

    Raises:
        OSError: the user has no home folder.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    path = Path(folder) if folder else platformdirs.user_cache_path("tal-conformance", appauthor=False)
    if not folder and not path.is_absolute():
        raise OSError(f"the user has no home folder: name a folder for the cache with {FOLDER_VARIABLE}")
    return path


def others_can_write(folder: Path) -> str | None:
    """Return the reason why other users can change files in the cache folder, or None if they cannot."""
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"{folder} is a link"
    if status.st_uid not in (os.getuid(), 0):
        return f"{folder} belongs to the user with id {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to {folder} (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def damage(folder: Path) -> str | None:
    """Return the reason why a cache entry is unusable, or None if every file matches its stored hash."""
    if not folder.exists():
        return "not found in the cache"
    try:
        known = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        found = hashes(folder / FILES)
    except (OSError, ValueError, RecursionError) as error:
        return f"the cached copy cannot be read ({error!s:.400})"
    if not isinstance(known, dict):
        return "the cached copy has no list of hashes"
    changed = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
    return f"the cached copy is damaged ({changed[0]})" if changed else None


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below the folder, by its path relative to the folder.

    Raises:
        ValueError: the folder contains something other than files and folders, such as a link.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise ValueError(f"{name} is neither a file nor a folder")
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
