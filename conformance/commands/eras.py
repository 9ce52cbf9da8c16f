"""`tal-conformance eras`: check that releases of Ultralytics behave as the table of eras says.

An era is a range of releases with the same dialect (behaviour). Releases with equal source are judged once.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from tal_conformance.commands.program import prepare_judging
from tal_conformance.commands.results import set_result
from tal_conformance.core.progress import progress
from tal_conformance.core.task import DETECT
from tal_conformance.dialects.releases import select_releases, version_text
from tal_conformance.dialects.sources import (
    CheckedSource,
    check_source,
    distinct_sources,
    format_failure,
    unchecked_edges,
)
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_conformance.mutation.suite_checks import failures, suite_cases
from tal_reference.eras import Version
from tal_reference.eras_of_tasks import ERAS_BY_TASK
from tal_text import say

BATCHES_PER_TEST = 4
"""Number of batches of each test of the suite on which the first and last source of an era are judged."""


def run(options: argparse.Namespace) -> int:
    """Check the table of eras and print the result by era, with every problem.

    Returns:
        0 if every release follows the dialect of its era and not the dialect of the era before; 1 if a
        release does not, or if no release was found to check.

    Raises:
        UnknownImplementation: the releases could not be listed, or a release could not be installed.
    """
    prepare_judging()
    task = options.task or DETECT.name
    sources = distinct_sources(select_releases(options.releases, task), task)
    with progress("Judging sources of releases", len(sources)) as advance:
        for source in sources:
            check_source(source)
            if not source.problem and source in ends_of_eras(sources):
                check_with_suite(source)
            advance(format_source(source))
    say("\n".join(format_eras(sources, task)))
    set_result(**eras_fields(sources, task))
    return int(not sources or any(source.problem for source in sources))


def ends_of_eras(sources: Sequence[CheckedSource]) -> list[CheckedSource]:
    """Return the source codes of the first and of the last checked release of each era."""
    ends = []
    for era in dict.fromkeys(source.era for source in sources):
        of_era = [source for source in sources if source.era is era]
        if of_era:
            first = min(of_era, key=lambda source: source.releases[0])
            last = max(of_era, key=lambda source: source.releases[-1])
            ends += [first] if first is last else [first, last]
    return ends


def check_with_suite(source: CheckedSource) -> None:
    """Judge the newest release with this source by all checks of the suite; store the first failure in `problem`."""
    name = f"ultralytics=={version_text(source.releases[-1])}"
    try:
        implementation = find(name).of_task(source.task)
    except UnknownImplementation as error:
        source.problem = str(error)
        return
    try:
        assigner = "assign" in implementation.capabilities
        cases = suite_cases(source.era.dialect, BATCHES_PER_TEST, assigner, source.task)
        source.batches += len(cases)
        for case, failure in failures(Subject(implementation, "cpu"), cases):
            source.problem = f"{case.test}: {format_failure(failure)}"
            return
    finally:
        implementation.adapter.worker.close()


def format_source(source: CheckedSource) -> str:
    """Return one line about a source code: its releases, their dialect, and the number of batches or the problem."""
    releases, dialect = format_releases(source.releases), source.era.dialect.name
    if source.problem:
        return f"{releases}: not {dialect}: {source.problem}"
    return f"{releases}: {dialect}, {source.batches} batches"


def format_releases(releases: Sequence[Version]) -> str:
    """Return the first release, the last release and the number of releases as text."""
    first, last = version_text(releases[0]), version_text(releases[-1])
    return first if first == last else f"{first} .. {last} ({len(releases)})"


def format_eras(sources: Sequence[CheckedSource], task: str = DETECT.name) -> list[str]:
    """Return the result as lines: eras, sources with a problem, totals, eras whose first release is unchecked."""
    lines = [f"{'from':8} {'dialect':22} {'releases':>8} {'sources':>8}  last checked"]
    for era in ERAS_BY_TASK[task]:
        of_era = [source for source in sources if source.era is era]
        releases = [release for source in of_era for release in source.releases]
        last = version_text(max(releases)) if releases else "none"
        lines.append(f"{era.begins:8} {era.dialect.name:22} {len(releases):>8} {len(of_era):>8}  {last}")
    lines += [f"  {format_source(source)}" for source in sources if source.problem]
    releases = [release for source in sources for release in source.releases]
    distinct, problems = (
        len({source.hash for source in sources}),
        sum(bool(source.problem) for source in sources),
    )
    lines.append(
        f"{len(releases)} releases, {distinct} distinct sources; {problems} do not follow the dialect of their era"
    )
    edges = [" and ".join(map(version_text, edge)) for edge in unchecked_edges(releases, task)]
    if edges:
        lines.append(f"edges between releases that were not checked: {', '.join(edges)}")
    return lines


def eras_fields(sources: Sequence[CheckedSource], task: str = DETECT.name) -> dict[str, Any]:
    """Return the machine-readable result: every checked source, and the edges between eras that were not checked."""
    releases = [release for source in sources for release in source.releases]
    return {
        "sources": [
            {
                "releases": list(map(version_text, source.releases)),
                "dialect": source.era.dialect.name,
                "hash": source.hash,
                "batches": source.batches,
                "problem": source.problem or None,
            }
            for source in sources
        ],
        "unchecked_edges": [list(map(version_text, edge)) for edge in unchecked_edges(releases, task)],
    }
