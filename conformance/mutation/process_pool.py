"""Judge mutants in child processes that are forked from this process, where all modules are already loaded.

A mutant that hangs, crashes or allocates too much memory ends only its child process, and counts as killed.
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
"""Time limit of a batch in seconds, after which the mutant counts as hanging; the slowest batch takes 0.1 s."""
MEMORY = 4 * 2**30
"""Number of bytes that a mutant may allocate in addition to the memory of the parent process."""

Made = Callable[[], Implementation]
After = Callable[[Subject], None]


@dataclass(frozen=True)
class MutantOutcome:
    """The result of judging one mutant.

    Attributes:
        test: name of the test that killed the mutant; None if it survived.
        stage: first diverging stage; "error", "hang" or "death" if the mutant returned no result; None if the mutant
            survived.
        batches: number of the batch that killed the mutant, from 1, counted over all tests; for a survivor,
            the number of all batches.
        seconds: time spent on judging.
        said: one sentence about the first difference; "" for a survivor.
    """

    test: str | None
    stage: str | None
    batches: int
    seconds: float
    said: str = ""


def judge_mutant(
    make: Made,
    cases: Sequence[GeneratedCase],
    after: After | None = None,
    progress: Callable[[int], None] = lambda _: None,
    baseline: BaselineOutcomes | None = None,
    numbers: Sequence[int] | None = None,
) -> MutantOutcome:
    """Judge a mutant on one case after another until it fails, and return the outcome.

    Args:
        make: function that installs the mutant and returns the implementation that runs it.
        cases: the batches with their judges.
        after: function that is called after all batches and raises Failure to kill the mutant; None for none.
        progress: called with the number of each batch before it is judged.
        baseline: outcomes of the unmutated implementation, which are not judged again; None to judge all.
        numbers: numbers of the batches to judge, from 1; None for all batches.
    """
    began = time.perf_counter()
    number, test = 0, "making the implementation"
    try:
        subject = Subject(make(), "cpu")
        for number in range(1, len(cases) + 1) if numbers is None else numbers:
            case = cases[number - 1]
            test = case.test
            progress(number)
            if baseline is not None:
                baseline.case = id(case)
            attempt(subject, case, case.build(), baseline)
        if after is not None:
            test = "test_every_image"
            progress(len(cases))
            after(subject)
    except Failure as failure:
        stage = failure.stage or "error"
        return MutantOutcome(test, stage, max(number, 1), time.perf_counter() - began, failure.summary)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return MutantOutcome(test, "error", max(number, 1), time.perf_counter() - began, text[:300])
    return MutantOutcome(None, None, len(cases), time.perf_counter() - began)


@dataclass
class Child:
    """A child process that judges one mutant.

    Attributes:
        pid: the process id.
        answers: file descriptor of the pipe from which the result is read.
        place: memory shared with the child, in which the child stores the number of the current batch.
        began: clock reading at the start of the process, in seconds.
    """

    pid: int
    answers: int
    place: mmap.mmap
    began: float

    def outcome(self, status: int, cases: Sequence[GeneratedCase]) -> MutantOutcome:
        """Return the outcome of the mutant after its process has ended, with or without a result."""
        with os.fdopen(self.answers, "rb") as pipe:
            answer = pipe.read()
        number = max(int.from_bytes(self.place[:8], "little"), 1)
        self.place.close()
        if answer:
            return MutantOutcome(**json.loads(answer))
        seconds = time.perf_counter() - self.began
        hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        how = f"no answer within {MUTANT_TIMEOUT} s" if hung else f"the process ended with status {status}"
        test = cases[min(number, len(cases)) - 1].test if cases else ""
        return MutantOutcome(test, "hang" if hung else "death", number, seconds, how)


def start(
    make: Made,
    cases: Sequence[GeneratedCase],
    after: After | None = None,
    baseline: BaselineOutcomes | None = None,
    timeout: int = MUTANT_TIMEOUT,
    numbers: Sequence[int] | None = None,
) -> Child:
    """Fork a process that judges a mutant, and return the process; the arguments are those of `judge_mutant`."""
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

        def progress(number: int) -> None:
            place[:8] = number.to_bytes(8, "little")
            signal.alarm(timeout if number < len(cases) or after is None else 60 * timeout)

        signal.alarm(timeout)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        answer = judge_mutant(make, cases, after, progress, baseline, numbers)
        signal.alarm(0)
        with os.fdopen(writes, "wb") as pipe:
            pipe.write(json.dumps(asdict(answer)).encode())
        status = 0
    finally:
        os._exit(status)  # ends without the clean-up at exit, which the parent process runs


def limit_memory() -> None:
    """Limit the memory of this process to its present size plus `MEMORY` bytes."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 (sizes of this process, in pages)
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def in_processes(
    jobs: Iterator[tuple[Any, Made, Sequence[int] | None]],
    cases: Sequence[GeneratedCase],
    after: After | None,
    baseline: BaselineOutcomes | None,
    processes: int,
) -> Iterator[tuple[Any, MutantOutcome]]:
    """Judge mutants in child processes, and yield the key and outcome of a mutant when its process ends.

    Args:
        jobs: for every mutant a key of the caller's choice, the function that installs it, and the numbers of
            its batches (None for all).
        cases: the batches with their judges.
        after: function that is called after all batches and raises Failure to kill the mutant; None for none.
        baseline: outcomes of the unmutated implementation, which are not judged again; None to judge all.
        processes: maximum number of concurrent processes.
    """
    running: dict[int, tuple[Any, Child]] = {}
    gc.collect()
    gc.freeze()  # children share the loaded objects, until the garbage collector writes to their memory
    try:
        for key, make, numbers in jobs:
            child = start(make, cases, after, baseline, numbers=numbers)
            running[child.pid] = key, child
            if len(running) >= processes:
                yield _next(running, cases)
        while running:
            yield _next(running, cases)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        gc.unfreeze()


def _next(running: dict[int, tuple[Any, Child]], cases: Sequence[GeneratedCase]) -> tuple[Any, MutantOutcome]:
    """Wait until a process ends, remove it from `running`, and return the key and outcome of its mutant."""
    while True:
        for pid in running:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                key, child = running.pop(pid)
                return key, child.outcome(status, cases)
        time.sleep(0.005)
