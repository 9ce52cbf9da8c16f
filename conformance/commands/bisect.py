"""`python -m conformance bisect A..B`: the release of Ultralytics at which assigner or loss changed."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from tal_conformance.batches.recipe import Recipe
from tal_conformance.dialects.choices import Choice, choices_between, conforms_to
from tal_conformance.implementations.adapters.ultralytics_release import Version, parsed
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_reference import Dialect

INDEX_TIMEOUT = 120
"""Seconds that pip may take to list the releases."""


def bisect(releases: str, clause: str | None = None) -> int:
    """Print, for each choice that changed between two releases, the release at which it did.

    Args:
        releases: `A..B`, both as three numbers; "ultralytics==" may stand before them.
        clause: look at the choices of this clause alone.

    Returns:
        0 if nothing changed, 1 otherwise.

    Raises:
        UnknownImplementation: these are no two releases, or one of them cannot be had.
    """
    first, last = range_of(releases)
    one, other = (find(f"ultralytics=={text(release)}") for release in (first, last))
    changed = [
        choice
        for choice in choices_between(one.dialect, other.dialect)
        if choice.recipe is not None and clause in (None, choice.clause)
    ]
    if not changed:
        about = f"what {clause} asks for" if clause else "assigner and loss"
        print(f"{about}: the same in {text(first)} and {text(last)}")
        return 0
    between = published(first, last)
    for choice in changed:
        print(format_choice(choice, between, behaves_as_before(one.dialect, choice)))
    return 1


def range_of(releases: str) -> tuple[Version, Version]:
    """The two ends of `A..B`.

    Raises:
        UnknownImplementation: it is no such range.
    """
    try:
        first, last = (parsed(end.removeprefix("ultralytics==")) for end in releases.split(".."))
    except ValueError as error:
        raise UnknownImplementation(f"{releases!r}: write two releases as 8.3.236..8.4.6") from error
    if not first < last:
        raise UnknownImplementation(f"{releases!r}: the first release must be the older one")
    return first, last


def text(release: Version) -> str:
    """A release as it is written."""
    return ".".join(map(str, release))


def published(first: Version, last: Version) -> list[Version]:
    """Every release on the package index from the first to the last, both included.

    Raises:
        UnknownImplementation: the index cannot be asked.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", "ultralytics", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INDEX_TIMEOUT, check=True)  # noqa: S603
    except (subprocess.SubprocessError, OSError) as error:
        raise UnknownImplementation(f"which releases there are, pip could not find out: {error}") from error
    return sorted(release for release in parse_releases(done.stdout) if first <= release <= last)


def parse_releases(said: str) -> list[Version]:
    """The releases in what pip says."""
    return [parsed(version) for version in set(re.findall(r"\b\d+\.\d+\.\d+\b", said))]


def behaves_as_before(dialect: Dialect, choice: Choice) -> Callable[[Version], bool]:
    """Whether a release still conforms to the older dialect on the batch that shows the choice."""
    recipe = choice.recipe
    assert isinstance(recipe, Recipe)

    def as_before(release: Version) -> bool:
        implementation = find(f"ultralytics=={text(release)}")
        return conforms_to(Subject(replace(implementation, dialect=dialect), "cpu"), recipe)

    return as_before


def first_that_differs(
    releases: Sequence[Version], as_before: Callable[[Version], bool]
) -> tuple[Version, Version] | None:
    """The neighbours between which it changed; None if the last release is still as before.

    Of several changes between the ends, it is one.

    Raises:
        UnknownImplementation: the first release is not as before.
    """
    low, high = 0, len(releases) - 1
    if not as_before(releases[low]):
        raise UnknownImplementation(f"{text(releases[low])} does not do what its own dialect says")
    if as_before(releases[high]):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if as_before(releases[middle]) else (low, middle)
    return releases[low], releases[high]


def format_choice(choice: Choice, releases: Sequence[Version], as_before: Callable[[Version], bool]) -> str:
    """One line about one choice."""
    edge = first_that_differs(releases, as_before)
    if edge is None:
        return f"{choice.clause}: no release changed it, on {choice.recipe}"
    before, after = map(text, edge)
    return (
        f"{choice.clause}: {after} (until {before}: {choice.before}; now: {choice.after}), on {choice.recipe}"
    )
