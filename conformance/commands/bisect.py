"""`tal-conformance bisect A..B`: find the release of Ultralytics that changed the assigner or the loss.

The behaviour of a release (its dialect) consists of choices, such as CIoU instead of IoU as the overlap.
"""

import argparse
from collections.abc import Callable, Sequence
from math import ceil, log2

from tal_conformance.commands.program import CommandError, prepare_judging
from tal_conformance.core.names import suggestion
from tal_conformance.core.progress import progress
from tal_conformance.dialects.bisection import behaves_as_before, close_worker, first_changed_release
from tal_conformance.dialects.choices import CLAUSES, RELEASE_CHOICES, Choice, choices_between
from tal_conformance.dialects.releases import published, range_of, version_text
from tal_conformance.implementations.registry import find
from tal_reference.eras import Version
from tal_text import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("releases", metavar="A..B", help="range of releases, such as 8.3.236..8.4.6")
    parser.add_argument(
        "--clause", metavar="CLAUSE", help="find changes of this clause only, such as TAL-CAND-2"
    )


def run(options: argparse.Namespace) -> int:
    """Print, for each choice that differs between two releases, the first release with the new behaviour.

    Returns:
        0 if nothing changed, 1 otherwise.

    Raises:
        CommandError: no dialects differ in the clause of `--clause`, or no batch can show the difference.
        UnknownImplementation: the range is invalid, or a release could not be found or installed.
    """
    prepare_judging()
    if options.clause is not None:
        check_clause(options.clause)
    first, last = range_of(options.releases)
    older, newer = (find(f"ultralytics=={version_text(release)}") for release in (first, last))
    for implementation in (older, newer):
        close_worker(implementation)  # the dialects are known now
    changed = [
        choice
        for choice in choices_between(older.dialect, newer.dialect)
        if choice.recipe is not None and options.clause in (None, choice.clause)
    ]
    if not changed:
        subject = f"clause {options.clause}" if options.clause else "assigner and loss"
        say(f"{subject}: the same in {version_text(first)} and {version_text(last)}")
        return 0
    releases = published(first, last)
    steps = len(changed) * (2 + ceil(log2(max(2, len(releases)))))  # upper limit
    with progress(f"Bisecting {len(releases)} releases", steps) as advance:
        lines = [
            format_choice(choice, releases, behaves_as_before(older.dialect, choice, advance))
            for choice in changed
        ]
    say("\n".join(lines))
    return 1


def check_clause(clause: str) -> None:
    """Raise CommandError unless some dialects differ in the clause, and a batch can show the difference.

    Raises:
        CommandError: no dialects differ in the clause, or the specification leaves the clause's behaviour undefined.
    """
    known = sorted({CLAUSES[name] for name in RELEASE_CHOICES})
    if clause in known:
        return
    if clause == CLAUSES["rows_sorted"]:
        raise CommandError(
            f"--clause {clause}: the release that changed the behaviour of this clause cannot be found by bisection. "
            "Older releases require sorted annotation rows and leave the results for unsorted rows undefined, so that "
            "no batch shows the change. The table that `eras` prints contains the release"
        )
    raise CommandError(
        f"--clause {clause!r}: no two dialects differ in a clause of this name{suggestion(clause, known) or '.'} "
        f"Clauses in which dialects differ: {', '.join(known)}"
    )


def format_choice(
    choice: Choice, releases: Sequence[Version], is_as_before: Callable[[Version], bool]
) -> str:
    """Find by bisection the first release with a changed choice, and return one line of text about this release."""
    edge = first_changed_release(releases, is_as_before)
    if edge is None:
        return f"{choice.clause}: no release changed the results on the batch {choice.recipe}"
    before, after = map(version_text, edge)
    return (
        f"{choice.clause}: {after} (until {before}: {choice.before}; now: {choice.after}), on {choice.recipe}"
    )
