"""The cache that all repositories of a user share: its folder, and hashes that show whether an entry is undamaged."""

import hashlib
import json
import os
from pathlib import Path

import platformdirs

FOLDER_VARIABLE = "TAL_CONFORMANCE_CACHE"
"""Environment variable that names another folder for the cache."""
HASHES, FILES = "hashes.json", "files"
"""Names in an entry's folder: the list of its files' hashes, and the folder of the files."""


def cache_folder() -> Path:
    """Return the folder of the cache: the environment variable's, or the user's cache folder on this system."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else platformdirs.user_cache_path("tal-conformance", appauthor=False)


def damage(folder: Path) -> str | None:
    """Return the reason why an entry cannot be used as it is, or None if every file still has its hash."""
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
    """Return the SHA-256 of every file below the folder, by its path relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
