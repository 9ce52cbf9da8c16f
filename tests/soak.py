"""`python -m tests.soak --minutes 30`: run the suite again and again in one process, and watch what the process holds.

Each round is a run of the whole suite: two implementations in the process, and one in a worker process. After each
round the resident memory, the open file descriptors, the threads and the child processes of this process are counted.
The memory at the end may differ by at most 5 % from that after a third of the time; the other counts may not grow.
"""

import argparse
import contextlib
import gc
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tal_conformance.core.processes import children

MEMORY_SHARE = 0.05
"""Largest difference of the memory, as a share of the memory after a third of the time."""
WINDOW = 1 / 15
"""Share of the time around a third of it, and at its end, whose rounds are compared: two minutes of thirty."""
ARGUMENTS = (
    *("conformance", "-q", "-n", "0", "-p", "no:cacheprovider", "--isolate"),
    *("--implementation", "reference", "--implementation", "article"),
    *("--implementation", "tests.fauxmplementations.misbehaving:Right"),
)
"""Arguments of pytest in each round."""


class Sample(NamedTuple):
    """Counts after a round.

    Attributes:
        minutes: time since the beginning.
        status: exit status of the round.
        memory: resident memory in MiB.
        files: open file descriptors.
        threads: Python threads.
        processes: child processes.
    """

    minutes: float
    status: int
    memory: float
    files: int
    threads: int
    processes: int

    def __str__(self) -> str:
        return (
            f"{self.minutes:5.1f} min  status {self.status}  {self.memory:7.1f} MiB  {self.files} file descriptors  "
            f"{self.threads} threads  {self.processes} child processes"
        )


def one_round(examples: int) -> int:
    """Run the suite once in this process, with its output in a file, and return the exit status of pytest."""
    folder = tempfile.mkdtemp(prefix="tal-conformance-soak-")
    try:
        with (
            Path(folder, "output").open("w", encoding="utf-8") as output,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            runs = Path(folder, "runs")
            status = int(pytest.main([*ARGUMENTS, "--examples", str(examples), "--report-dir", str(runs)]))
        if status:
            print(Path(folder, "output").read_text(encoding="utf-8")[-3000:], file=sys.stderr)
        return status
    finally:
        shutil.rmtree(folder)


def sample(began: float, status: int) -> Sample:
    """Return the present counts of this process, after a round that ended with `status`."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    files = len(list(Path("/proc/self/fd").iterdir()))
    minutes = (time.monotonic() - began) / 60
    return Sample(minutes, status, memory, files, threading.active_count(), len(children()))


def problems(samples: Sequence[Sample], minutes: float) -> list[str]:
    """Return a sentence for each fault found in the samples of a soak; [] if there is none.

    Args:
        samples: in the order in which they were taken.
        minutes: planned length of the soak.
    """
    third, window = minutes / 3, minutes * WINDOW
    early = min(samples, key=lambda found: abs(found.minutes - third))
    before = [found for found in samples if abs(found.minutes - third) <= window] or [early]
    after = [found for found in samples if found.minutes >= samples[-1].minutes - window]
    if before[-1] is samples[-1]:
        return [f"the rounds are too long for {minutes:g} minutes: there is none after the first third"]
    first, last = (statistics.median(found.memory for found in part) for part in (before, after))
    wrong = [f"a round ended with status {found.status}" for found in samples if found.status][:1]
    if abs(last - first) > MEMORY_SHARE * first:
        wrong.append(f"the memory was {first:.1f} MiB after {third:g} minutes and {last:.1f} MiB at the end")
    late = [found for found in samples if found.minutes >= third]
    for name in ("files", "threads", "processes"):
        most, least = max(getattr(found, name) for found in late), getattr(early, name)
        if most > least:
            wrong.append(f"the number of {name} grew from {least} to {most}")
    return wrong


def main() -> int:
    """Run rounds until the time is over, and print each sample. Return 1 if a count grew, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--examples", type=int, default=2, help="batches of each test in a round")
    options = parser.parse_args()
    began, samples = time.monotonic(), list[Sample]()
    while not samples or samples[-1].minutes < options.minutes:
        samples.append(sample(began, one_round(options.examples)))
        print(samples[-1], flush=True)
    wrong = problems(samples, options.minutes)
    print(
        *(wrong or ["memory within 5 %, file descriptors, threads and child processes flat"]),
        sep="\n",
        flush=True,
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
