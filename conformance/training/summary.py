"""The summary of a recording in words: nothing that was seen is left out silently."""

import contextlib
from collections.abc import Iterator
from functools import wraps
from pathlib import Path

from tal_conformance.training import recorder
from tal_conformance.training.recorder import EVERY, LIMIT_MB, Recording, print_message
from tal_conformance.training.selection import RAISED

NOT_STORED = "the size limit is reached, or a case file cannot hold them"


@wraps(recorder.recording)
@contextlib.contextmanager
def recording(folder: Path | str, every: int = EVERY, limit_mb: float = LIMIT_MB) -> Iterator[Recording]:
    """Record as `recorder.recording`, and print the summary at the end, also if the training raised."""
    recorded = None
    try:
        with recorder.recording(folder, every, limit_mb) as recorded:
            yield recorded
    finally:
        if recorded is not None:
            print_summary(recorded)


def print_summary(recorded: Recording) -> None:
    """Print the summary of a recording to standard error, after the messages about single batches."""
    for line in summary_lines(recorded):
        print_message(line.removeprefix("conformance recorder: "))


def summary_lines(recorded: Recording) -> list[str]:
    """Return the numbers of captured, stored and wrong batches as lines of text."""
    kept = len(recorded.shelf.cases)
    where = f"{recorded.shelf.folder} ({recorded.shelf.size / 1e6:.1f} MB)"
    files = f"{kept} batch{'' if kept == 1 else 'es'} of {recorded.calls:,} recorded in {where}"
    lines = [f"conformance recorder: {files}", *(f"  {line}" for line in anomaly_lines(recorded))]
    if recorded.first_finding:
        lines.append(f"  first finding: {recorded.first_finding}")
    if recorded.lost:
        lines.append(f"  {recorded.lost:,} selected but not stored: {NOT_STORED}")
    return lines


def anomaly_lines(recorded: Recording) -> list[str]:
    """Return for each anomaly the number of batches that have it, as lines of text."""
    lines = []
    for anomaly, count in recorded.counts().items():
        what = f"raised: {recorded.raised}" if anomaly == RAISED else anomaly
        stored = sum(any(reason == anomaly for _, reason in case.reasons) for case in recorded.shelf.cases)
        lines.append(f"{count:,} {what}, first at step {recorded.first_step(anomaly)} ({stored} stored)")
    return lines
