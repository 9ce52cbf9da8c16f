"""Releases of Ultralytics by number: published and cached releases, and ranges of them by era."""

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

from tal_conformance.core.cache import cache_folder
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.adapters.ultralytics_losses import parsed
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.releases import OLDEST
from tal_reference.eras import ERAS, Era, Version
from tal_reference.eras_of_tasks import ERAS_BY_TASK

INDEX_TIMEOUT = 120
"""Time limit in seconds for pip to list the releases."""
AFTER_ALL_RELEASES: Version = (10**6, 0, 0)


def version_text(release: Version) -> str:
    """Return a release as text: "8.4.0"."""
    return ".".join(map(str, release))


def range_of(releases: str) -> tuple[Version, Version]:
    """Parse a range of releases `A..B`, and return both ends; each end may begin with "ultralytics==".

    Raises:
        UnknownImplementation: the text is not a range of two releases, the older one first.
    """
    try:
        first, last = (parsed(end.removeprefix("ultralytics==")) for end in releases.split(".."))
    except ValueError as error:
        raise UnknownImplementation(
            f"{releases!r} is not a range of releases: expected two releases, such as 8.3.236..8.4.6"
        ) from error
    if not first < last:
        raise UnknownImplementation(
            f"{releases!r} is not a range of releases: expected two different releases, the older release first"
        )
    return first, last


def published(first: Version, last: Version) -> list[Version]:
    """Return every release on the package index from `first` to `last` inclusive, oldest first.

    Raises:
        UnknownImplementation: pip could not list the releases.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", "ultralytics", "--disable-pip-version-check"]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=INDEX_TIMEOUT,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise UnknownImplementation(
            f"cannot list the releases of ultralytics: {error}. Check that pip runs and can reach the package index"
        ) from error
    return sorted(release for release in parse_releases(done.stdout) if first <= release <= last)


def parse_releases(output: str) -> list[Version]:
    """Return the distinct releases in the output of `pip index versions`, in no particular order."""
    return [parsed(version) for version in set(re.findall(r"\b\d+\.\d+\.\d+\b", output))]


def select_releases(selection: str, task: str = DETECT.name) -> list[Version]:
    """Return the releases to check, oldest first.

    Args:
        selection: "cached" for the releases in the cache, "each" for the first of each era, or "edges" for both sides
            of every edge between eras and the newest on PyPI.
        task: name of the task whose eras count; releases without this task are left out.

    Raises:
        UnknownImplementation: the published releases are needed and pip could not list them.
    """
    eras = ERAS_BY_TASK[task]
    if selection == "cached":
        return [release for release in cached_releases() if release >= eras[0].first]
    if selection == "each":
        return [era.first for era in eras]
    ranges = releases_by_era(published(OLDEST, AFTER_ALL_RELEASES), eras)
    return sorted({release for releases in ranges for release in (releases[0], releases[-1])})


def cached_releases() -> list[Version]:
    """Return every release in the cache, oldest first."""
    folder = cache_folder()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    pattern = re.compile(rf"ultralytics-(\d+\.\d+\.\d+)-{re.escape(sys.implementation.cache_tag)}\Z")
    return sorted(parsed(match[1]) for match in map(pattern.match, names) if match)


def releases_by_era(releases: Iterable[Version], eras: Sequence[Era] = ERAS) -> list[Sequence[Version]]:
    """Return the releases of each era, oldest first, leaving out eras without releases."""
    ordered = sorted(releases)
    ends = [*(era.first for era in eras[1:]), AFTER_ALL_RELEASES]
    members = [
        [release for release in ordered if era.first <= release < end]
        for era, end in zip(eras, ends, strict=True)
    ]
    return [releases for releases in members if releases]
