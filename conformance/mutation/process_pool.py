"""Feed trials to a mutant in a process of its own: forked from this one, which has everything loaded already.

A mutant that hangs, dies or eats memory ends its process alone, and counts as killed.
"""

import gc
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.trials import BaselineOutcomes, GeneratedCase, attempt

MUTANT_TIMEOUT = 20
"""Seconds after which one batch is given up; the slowest takes a tenth of one."""
MEMORY = 4 * 2**30
"""Bytes that a mutant may take beyond what it was given."""

Made = Callable[[], Implementation]
After = Callable[[Subject], None]


@dataclass(frozen=True)
class MutantOutcome:
    """How it went for one mutant.

    Attributes:
        test: that killed it; None: nothing did.
        stage: the first that diverged; error, hang or death where the mutant did not answer.
        batches: number of the batch that killed it, all tests together; of those that live, how many there are.
        seconds: that took.
        said: one sentence about the difference.
    """

    test: str | None
    stage: str | None
    batches: int
    seconds: float
    said: str = ""


def tried(
    make: Made,
    trials: Sequence[GeneratedCase],
    after: After | None = None,
    judged: Callable[[int], None] = lambda _: None,
    known: BaselineOutcomes | None = None,
    numbers: Sequence[int] | None = None,
) -> MutantOutcome:
    """Feed trial after trial until one fails.

    Args:
        make: puts the mutant in place and makes the implementation that runs it.
        trials: the batches.
        after: what is tried at last; it raises Failure.
        judged: told the number of each batch before it is judged.
        known: what the unchanged implementation made of the batches.
        numbers: which of the batches, from 1; None: all.
    """
    began = time.perf_counter()
    number, test = 0, "making it"
    try:
        subject = Subject(make(), "cpu")
        for number in range(1, len(trials) + 1) if numbers is None else numbers:
            trial = trials[number - 1]
            test = trial.test
            judged(number)
            if known is not None:
                known.number = id(trial)
            attempt(subject, trial, trial.build(), known)
        if after is not None:
            test = "test_every_image"
            judged(len(trials))
            after(subject)
    except Failure as failure:
        stage = failure.stage or "error"
        return MutantOutcome(test, stage, max(number, 1), time.perf_counter() - began, failure.summary)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        return MutantOutcome(test, "error", max(number, 1), time.perf_counter() - began, said[:300])
    return MutantOutcome(None, None, len(trials), time.perf_counter() - began)


@dataclass
class Child:
    """A process that tries one mutant."""

    pid: int
    answers: int
    place: mmap.mmap
    began: float

    def ended(self, status: int, trials: Sequence[GeneratedCase]) -> MutantOutcome:
        """What it said, or how it died."""
        with os.fdopen(self.answers, "rb") as pipe:
            said = pipe.read()
        number = max(int.from_bytes(self.place[:8], "little"), 1)
        self.place.close()
        if said:
            return MutantOutcome(**json.loads(said))
        seconds = time.perf_counter() - self.began
        hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        how = f"no answer within {MUTANT_TIMEOUT} s" if hung else f"the process ended with status {status}"
        test = trials[min(number, len(trials)) - 1].test if trials else ""
        return MutantOutcome(test, "hang" if hung else "death", number, seconds, how)


def start(
    make: Made,
    trials: Sequence[GeneratedCase],
    after: After | None = None,
    known: BaselineOutcomes | None = None,
    patience: int = MUTANT_TIMEOUT,
    numbers: Sequence[int] | None = None,
) -> Child:
    """Fork a process that tries a mutant."""
    reads, writes = os.pipe()
    place = mmap.mmap(-1, 8)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writes)
        return Child(pid, reads, place, time.perf_counter())
    status = 1
    try:
        os.close(reads)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        limit_memory()

        def judged(number: int) -> None:
            place[:8] = number.to_bytes(8, "little")
            signal.alarm(patience if number < len(trials) or after is None else 60 * patience)

        signal.alarm(patience)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        answer = tried(make, trials, after, judged, known, numbers)
        signal.alarm(0)
        with os.fdopen(writes, "wb") as pipe:
            pipe.write(json.dumps(asdict(answer)).encode())
        status = 0
    finally:
        os._exit(status)  # nothing of the parent is cleaned up twice


def limit_memory() -> None:
    """Allow so much more than there is."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 (a process's own, in pages)
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def in_processes(
    jobs: Iterator[tuple[Any, Made, Sequence[int] | None]],
    trials: Sequence[GeneratedCase],
    after: After | None,
    known: BaselineOutcomes | None,
    processes: int,
) -> Iterator[tuple[Any, MutantOutcome]]:
    """Try mutants, each on those batches that are numbered, so many at once; each with its end, as they end."""
    running: dict[int, tuple[Any, Child]] = {}
    gc.collect()
    gc.freeze()  # what is loaded is shared with every process, and copied where a collector writes to it
    try:
        for key, make, numbers in jobs:
            child = start(make, trials, after, known, numbers=numbers)
            running[child.pid] = key, child
            if len(running) >= processes:
                yield _next(running, trials)
        while running:
            yield _next(running, trials)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        gc.unfreeze()


def _next(
    running: dict[int, tuple[Any, Child]], trials: Sequence[GeneratedCase]
) -> tuple[Any, MutantOutcome]:
    """Wait for one to end, whichever it is."""
    while True:
        for pid in running:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                key, child = running.pop(pid)
                return key, child.ended(status, trials)
        time.sleep(0.005)
