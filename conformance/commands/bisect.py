"""`tal-conformance bisect A..B`: find the release of Ultralytics that changed the assigner or the loss.

The behaviour of a release (its dialect) consists of choices, such as CIoU instead of IoU as the overlap.
"""

import argparse
from math import ceil, log2
from typing import Any

from tal_conformance.commands.compared_task import with_task
from tal_conformance.commands.program import CommandError, prepare_judging
from tal_conformance.commands.results import set_result
from tal_conformance.core.names import suggestion
from tal_conformance.core.progress import progress
from tal_conformance.core.task import DETECT
from tal_conformance.dialects.bisection import behaves_as_before, close_worker, first_changed_release
from tal_conformance.dialects.choices import CLAUSES, Choice, choices_between
from tal_conformance.dialects.distinguishing import RELEASE_CHOICES_BY_TASK
from tal_conformance.dialects.releases import published, range_of, version_text
from tal_conformance.implementations.registry import find
from tal_reference.eras import Version
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """Print, for each choice that differs between two releases, the first release with the new behaviour.

    Returns:
        0 if nothing changed, 1 otherwise.

    Raises:
        CommandError: a release does not have the task, no dialects differ in the clause of `--clause`, or no batch can
            show the difference.
        UnknownImplementation: the range is invalid, or a release could not be found or installed.
    """
    prepare_judging()
    first, last = range_of(options.releases)
    set_result(first=version_text(first), last=version_text(last), changes=[])
    ends = [find(f"ultralytics=={version_text(release)}") for release in (first, last)]
    older, newer = with_task(ends, options.task)
    task = older.task
    if options.clause is not None:
        check_clause(options.clause, task)
    for implementation in (older, newer):
        close_worker(implementation)  # the dialects are known now
    changed = [
        choice
        for choice in choices_between(older.dialect, newer.dialect, task)
        if choice.recipe is not None and options.clause in (None, choice.clause)
    ]
    if not changed:
        subject = f"clause {options.clause}" if options.clause else "assigner and loss"
        subject = subject if task == DETECT.name else f"task {task}, {subject}"
        say(f"{subject}: the same in {version_text(first)} and {version_text(last)}")
        return 0
    releases = published(first, last)
    steps = len(changed) * (2 + ceil(log2(max(2, len(releases)))))  # upper limit
    with progress(f"Bisecting {len(releases)} releases", steps) as advance:
        edges = [
            first_changed_release(releases, behaves_as_before(older.dialect, choice, advance, task))
            for choice in changed
        ]
    say("\n".join(map(format_choice, changed, edges)))
    set_result(changes=list(map(choice_fields, changed, edges)))
    return 1


def check_clause(clause: str, task: str = DETECT.name) -> None:
    """Raise CommandError unless some dialects differ in the clause, and a batch can show the difference.

    Raises:
        CommandError: no dialects differ in the clause, or the specification leaves the clause's behaviour undefined.
    """
    known = sorted({CLAUSES[name] for name in RELEASE_CHOICES_BY_TASK[task]})
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


def format_choice(choice: Choice, edge: tuple[Version, Version] | None) -> str:
    """Return one line about a choice; `edge` is the last release before its change, and the first release after it."""
    if edge is None:
        return f"{choice.clause}: no release changed the results on the batch {choice.recipe}"
    before, after = map(version_text, edge)
    return (
        f"{choice.clause}: {after} (until {before}: {choice.before}; now: {choice.after}), on {choice.recipe}"
    )


def choice_fields(choice: Choice, edge: tuple[Version, Version] | None) -> dict[str, Any]:
    """Return a choice's clause, values and batch, and the releases around its change; None if no release changed it."""
    until, since = (None, None) if edge is None else map(version_text, edge)
    return {
        "clause": choice.clause,
        "choice": choice.name,
        "before": choice.before,
        "after": choice.after,
        "until": until,
        "since": since,
        "batch": str(choice.recipe),
    }
