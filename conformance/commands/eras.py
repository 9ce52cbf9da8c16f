"""`python -m conformance eras`: releases of Ultralytics, held to the dialect that the table of eras gives them.

Releases whose assigner, loss and metrics are the same files are judged once: those files are all that the suite tests.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tal_conformance.batches.sample import some
from tal_conformance.commands.bisect import published, text
from tal_conformance.core.cache import cache_folder
from tal_conformance.dialects.choices import differ, failure, lanes_of
from tal_conformance.dialects.evidence import distinguishing_recipe, distinguishing_recipes
from tal_conformance.implementations.adapters.ultralytics_release import Version, parsed
from tal_conformance.implementations.errors import PackageUnavailable, UnknownImplementation
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.releases import OLDEST
from tal_conformance.implementations.workers.packages import Package, ensure_package
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference.eras import ERAS, Era, era_of

PER_LANE = 3
"""Batches of each lane on which a source is judged."""
FAR = (10**6, 0, 0)
"""Later than every release."""
SOURCES = ("tal.py", "loss.py", "metrics.py", "ops.py")
"""Files of `utils` that assigner and loss are computed by."""
CHOICES = ("cached", "each", "edges")
"""Which releases: those in the cache; the first of each era; both sides of every edge, and the newest on PyPI today."""


@dataclass
class Checked:
    """One distinct source.

    Attributes:
        era: of its releases.
        hash: of its files.
        releases: that have it.
        problem: what its first release does otherwise than the era's dialect; "" if nothing.
        batches: on how many it was judged.
    """

    era: Era
    hash: str
    releases: list[Version]
    problem: str = ""
    batches: int = 0


def eras(which: str = "cached", tell: Callable[[str], None] | None = None) -> int:
    """Check the table of eras, and print how each distinct source stands.

    Args:
        which: of `CHOICES`.
        tell: hears of each source as it is settled; None: stderr does.

    Returns:
        0 if every release conforms to the dialect of its era and leaves that of the era before, else 1.

    Raises:
        UnknownImplementation: which releases there are cannot be found out, or one of them cannot be fetched.
    """
    say = tell or (lambda line: print(f"... {line}", file=sys.stderr, flush=True))
    checked = []
    for source in distinct_sources(select_releases(which)):
        check(source)
        say(line_of(source))
        checked.append(source)
    print("\n".join(format_eras(checked)))
    return int(not checked or any(source.problem for source in checked))


def select_releases(which: str) -> list[Version]:
    """The releases to look at, the oldest first.

    Raises:
        UnknownImplementation: the package index cannot be asked.
    """
    if which == "cached":
        return cached_releases()
    if which == "each":
        return [era.first for era in ERAS]
    spans = ranges(published(OLDEST, FAR))
    return sorted({release for span in spans for release in (span[0], span[-1])})


def cached_releases() -> list[Version]:
    """Every release in the cache."""
    folder = cache_folder()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    own = re.compile(rf"ultralytics-(\d+\.\d+\.\d+)-{re.escape(sys.implementation.cache_tag)}\Z")
    return sorted(parsed(match[1]) for match in map(own.match, names) if match)


def ranges(releases: Iterable[Version]) -> Iterator[list[Version]]:
    """The published releases of each era; the last of the last era is the newest that there is."""
    every = sorted(releases)
    ends = [*(era.first for era in ERAS[1:]), FAR]
    for era, end in zip(ERAS, ends, strict=True):
        span = [release for release in every if era.first <= release < end]
        if span:
            yield span


def distinct_sources(releases: Sequence[Version]) -> list[Checked]:
    """Releases by the hash of what they compute with, within each era; they are fetched if they must be.

    Raises:
        UnknownImplementation: one of them cannot be had.
    """
    found: dict[tuple[Version, str], Checked] = {}
    for release in releases:
        try:
            folder = ensure_package(Package("ultralytics", text(release)))
        except PackageUnavailable as error:
            raise UnknownImplementation(str(error)) from error
        era, source = era_of(release), source_of(folder)
        found.setdefault((era.first, source), Checked(era, source, [])).releases.append(release)
    return list(found.values())


def source_of(folder: Path) -> str:
    """A hash of assigner, loss and metrics below a package folder.

    The loss of releases to 8.0.110 stands in the trainer.
    """
    files = [
        *(folder / "ultralytics" / house / name for house in ("utils", "yolo/utils") for name in SOURCES),
        folder / "ultralytics/yolo/v8/detect/train.py",
    ]
    whole = hashlib.sha256()
    for file in files:
        if file.is_file():
            whole.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def check(source: Checked) -> None:
    """Judge a source by its first release: as its era says, and not as the era before says."""
    try:
        implementation = find(f"ultralytics=={text(source.releases[0])}")
    except UnknownImplementation as error:
        source.problem = str(error)
        return
    subject = Subject(implementation, "cpu")
    try:
        for recipe in [
            *distinguishing_recipes(),
            *(each for lane in lanes_of(implementation) for each in some(lane, PER_LANE)),
        ]:
            if not implementation.dialect.rows_sorted or not recipe.shuffled:
                source.batches += 1
                found = failure(subject, recipe)
                if found is not None:
                    source.problem = format_failure(found)
                    return
        source.problem = as_before(subject, source.era)
    finally:
        implementation.adapter.worker.close()


def as_before(subject: Subject, era: Era) -> str:
    """What is wrong where a release still does on the era's evidence what the era before did; "" if it does not.

    What was an order of rows that need not hold, and now must, is nothing that can be judged.
    """
    number = ERAS.index(era)
    if not number:
        return ""
    before, recipe = ERAS[number - 1].dialect, distinguishing_recipe(era)
    if not differ(before, era.dialect, recipe):
        return ""
    held = replace(subject, implementation=replace(subject.implementation, dialect=before))
    return "" if failure(held, recipe) else f"on {recipe} it still does what {before.name} says"


def format_failure(found: Failure) -> str:
    """A failure in one line."""
    return f"{found.clause + ': ' if found.clause else ''}{found.summary}, on {found.batch.origin}"


def line_of(source: Checked) -> str:
    """One line about one source."""
    names = format_releases(source.releases)
    if source.problem:
        return f"{names}: not {source.era.dialect.name}: {source.problem}"
    return f"{names}: {source.era.dialect.name}, {source.batches} batches"


def format_releases(releases: Sequence[Version]) -> str:
    """Releases in few words."""
    first, last = text(releases[0]), text(releases[-1])
    return first if first == last else f"{first} .. {last} ({len(releases)})"


def format_eras(checked: Sequence[Checked]) -> list[str]:
    """What is printed: a table of eras, the sources that leave theirs, and one line that counts."""
    lines = [f"{'from':8} {'dialect':22} {'releases':>8} {'sources':>8}  last looked at"]
    for era in ERAS:
        own = [source for source in checked if source.era is era]
        releases = [release for source in own for release in source.releases]
        last = text(max(releases)) if releases else "none"
        lines.append(f"{era.begins:8} {era.dialect.name:22} {len(releases):>8} {len(own):>8}  {last}")
    lines += [f"  {line_of(source)}" for source in checked if source.problem]
    releases = [release for source in checked for release in source.releases]
    wrong = sum(bool(source.problem) for source in checked)
    unseen = [f"{text(one)} and {text(other)}" for one, other in edges_unseen(releases)]
    sources = len({source.hash for source in checked})
    lines.append(
        f"{len(releases)} releases, {sources} distinct sources; {wrong} leave the dialect of their era"
    )
    if unseen:
        lines.append(f"edges that lie between releases that were not looked at: {', '.join(unseen)}")
    return lines


def edges_unseen(releases: Sequence[Version]) -> list[tuple[Version, Version]]:
    """Neighbours of different eras among the releases looked at, of which the later is not the first of its era."""
    pairs = pairwise(sorted(releases))
    return [
        (one, other) for one, other in pairs if era_of(one) != era_of(other) and era_of(other).first != other
    ]
