"""The user's cache folder, shared by all repositories, and hashes that detect damaged entries."""

import hashlib
import json
import os
from pathlib import Path

import platformdirs

FOLDER_VARIABLE = "TAL_CONFORMANCE_CACHE"
"""Environment variable that overrides the folder of the cache."""
HASHES, FILES = "hashes.json", "files"
"""Names in an entry's folder: the list of its files' hashes, and the folder of the files."""


def cache_folder() -> Path:
    """Return the folder of the cache: that of the environment variable, else the user's cache folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else platformdirs.user_cache_path("tal-conformance", appauthor=False)


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
    """Return the SHA-256 of every file below the folder, by its path relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
