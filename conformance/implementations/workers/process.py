"""A worker process as the suite sees it: started when needed, asked, restarted when it dies, killed when it hangs."""

import contextlib
import fcntl
import hashlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from tal_conformance.core.cache import cache_folder
from tal_conformance.core.files import PACKAGES
from tal_conformance.core.processes import descendants, kill
from tal_conformance.implementations.workers.messages import (
    LIMIT_VARIABLE,
    OUT_OF_MEMORY,
    Message,
    MessageError,
    decoded,
    encoded,
)

TIMEOUT_VARIABLE = "TAL_CONFORMANCE_TIMEOUT"
"""Environment variable: seconds after which a worker that does not answer is killed."""
TIMEOUT = 120.0
"""The same, where the variable says nothing."""
MEMORY_VARIABLE = "TAL_CONFORMANCE_MEMORY"
"""Environment variable: GiB that a worker may take; by default three quarters of what the machine has."""
HANGS, DEATHS = 3, 50
"""After so many hangs or deaths a worker is given up: every further question fails without being asked."""
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Environment variables that a worker inherits, besides those of CUDA and of numeric libraries."""
KEPT_FAMILIES = ("CUDA_", "CUBLAS_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_")
PIPE = 2**20
"""Bytes that a pipe should hold."""
PART = 2**24
"""Bytes that are read at once."""
LONGEST_LOG = 2**26
"""Bytes of what a worker prints that are kept on disk."""
LAST_WORDS = 600
"""Characters of a dead worker's log that are told."""


class WorkerFailed(Exception):
    """The process died, hung, or answered with something that is no answer; it will be started again.

    Attributes:
        what: one sentence.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class Launch:
    """How to start a worker.

    Attributes:
        adapter: `module:object`, imported in the worker and called there.
        arguments: what it is called with; JSON.
        folders: package folders that its imports look into first.
        stand_ins: modules that an empty one stands in for.
    """

    adapter: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folders: Sequence[Path] = ()
    stand_ins: Sequence[str] = ()


@dataclass
class Running:
    """A started process and what belongs to it."""

    process: subprocess.Popen[bytes]
    requests: int
    answers: int
    lifeline: int
    log: IO[bytes]
    home: "tempfile.TemporaryDirectory[str]"

    def last_words(self) -> str:
        """The end of what it printed, as one line."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - LAST_WORDS))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-4:] if line.strip())

    def end(self) -> None:
        """Kill the process, its group and whatever else it started, and leave nothing behind."""
        started = descendants(self.process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        kill(started)
        self.process.wait()
        for pipe in (self.requests, self.answers, self.lifeline):
            os.close(pipe)
        self.log.close()
        with contextlib.suppress(OSError):
            self.home.cleanup()


class Worker:
    """A process that answers questions about batches.

    Args:
        launch: how to start it.
        timeout: seconds that an answer may take, the start included; None: the environment's, or `TIMEOUT`.
    """

    def __init__(self, launch: Launch, timeout: float | None = None) -> None:
        self.launch = launch
        self.timeout = timeout if timeout is not None else default_timeout()
        self.hangs, self.deaths, self.starts = 0, 0, 0
        self._hung: dict[str, str] = {}
        self._running: Running | None = None
        self._about = Message({})
        self._end: Callable[[], object] = lambda: None

    def start(self) -> Message:
        """Start it, unless it runs.

        Returns:
            What it says of its adapter, or how making the adapter failed (`raised`, `message`, `traceback`).

        Raises:
            WorkerFailed: it died or hung before it said anything.
        """
        if self._running is not None and self._running.process.poll() is None:
            return self._about
        self.close()
        self._running = launched(self.launch)
        self._end = weakref.finalize(self, self._running.end)
        self.starts += 1
        fields = {
            "adapter": self.launch.adapter,
            "arguments": dict(self.launch.arguments),
            "stand_ins": list(self.launch.stand_ins),
            "threads": torch.get_num_threads(),
        }
        self._about = self._exchange(encoded(fields))
        return self._about

    def ask(
        self, questions: Sequence[tuple[dict[str, Any], Mapping[str, Tensor]]]
    ) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
        """The answers to several questions, in one round trip.

        Raises:
            WorkerFailed: there is no answer. Ask one at a time to learn which question it was.
        """
        tensors = {
            f"{number}.{name}": tensor
            for number, (_, own) in enumerate(questions)
            for name, tensor in own.items()
        }
        request = encoded({"questions": [fields for fields, _ in questions]}, tensors)
        self._refuse(request)
        about = self.start()
        if "raised" in about.fields:
            self.close()
            raise WorkerFailed(f"it could not be started again: {about.fields['message']}")
        answer = self._exchange(request)
        replies = answer.fields.get("answers")
        if not isinstance(replies, list) or len(replies) != len(questions):
            raise self._failed(f"answered {len(questions)} questions with {str(replies)[:80]}")
        return [
            (
                fields,
                {
                    name.removeprefix(f"{number}."): tensor
                    for name, tensor in answer.tensors.items()
                    if name.startswith(f"{number}.")
                },
            )
            for number, fields in enumerate(replies)
        ]

    @property
    def pid(self) -> int | None:
        """Of its process, if one runs."""
        return self._running.process.pid if self._running else None

    def close(self) -> None:
        """End the process; the next question starts another."""
        self._end()
        self._running = None

    def _refuse(self, request: bytes) -> None:
        """Do not ask again what it hung on, and nothing at all of a worker that was given up."""
        if self._hung and digest_of(request) in self._hung:
            raise WorkerFailed(self._hung[digest_of(request)])
        if self.hangs >= HANGS or self.deaths >= DEATHS:
            raise WorkerFailed(
                f"was not asked: its worker was given up after {self.hangs} hangs and {self.deaths} deaths"
            )

    def _exchange(self, request: bytes) -> Message:
        """Write a frame and read the answer.

        Raises:
            WorkerFailed: it is dead, hangs, or what came is no frame; the process is ended then.
        """
        assert self._running is not None
        if os.fstat(self._running.log.fileno()).st_size > LONGEST_LOG:
            os.truncate(self._running.log.fileno(), 0)
        deadline = time.monotonic() + self.timeout
        try:
            send(self._running.requests, request, deadline)
            return decoded(lambda count: receive(self._running.answers, count, deadline))  # type: ignore[union-attr]
        except MessageError as error:
            raise self._failed(f"answered with something that is no frame: {error}") from error
        except TimeoutError as error:
            self.hangs += 1
            failure = self._failed(f"did not answer within {self.timeout:g} s and was killed", counted=False)
            self._hung[digest_of(request)] = failure.what
            raise failure from error
        except (EOFError, BrokenPipeError, ConnectionError) as error:
            raise self._failed(f"died{self._how()}") from error

    def _how(self) -> str:
        """With which status or signal it ended."""
        assert self._running is not None
        try:
            status = self._running.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return ": it closed its pipe"
        if status < 0:
            return f" of signal {-status} ({signal.Signals(-status).name})"
        if status == OUT_OF_MEMORY:
            return f": it wanted more than {memory_limit() / 2**30:.3g} GiB of memory ({MEMORY_VARIABLE} sets how much)"
        return f" with exit status {status}"

    def _failed(self, what: str, counted: bool = True) -> WorkerFailed:
        assert self._running is not None
        self.deaths += counted
        words = self._running.last_words()
        self.close()
        return WorkerFailed(f"its process {what}" + (f"; it printed: {words}" if words else ""))


def digest_of(request: bytes) -> str:
    """What tells one request from another."""
    return hashlib.sha256(request).hexdigest()


def default_timeout() -> float:
    """Seconds that an answer may take.

    Raises:
        ValueError: the environment variable is no positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"{TIMEOUT_VARIABLE} is {text!r}, expected seconds, more than 0")
    return seconds


def memory_limit() -> int:
    """Bytes that a worker may take.

    Raises:
        ValueError: the environment variable is no positive number.
    """
    text = os.environ.get(MEMORY_VARIABLE)
    if text is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    try:
        gibibytes = float(text)
    except ValueError:
        gibibytes = 0.0
    if not 0 < gibibytes < 2**30:
        raise ValueError(f"{MEMORY_VARIABLE} is {text!r}, expected GiB, more than 0")
    return int(gibibytes * 2**30)


def launched(launch: Launch) -> Running:
    """A process of its own group, with a home of its own; its pipes are not those that it prints to."""
    home = tempfile.TemporaryDirectory(prefix="tal-conformance-worker-", ignore_cleanup_errors=True)
    work = Path(home.name) / "work"
    work.mkdir()
    log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `Running.end`
    requests, answers, lifeline = os.pipe(), os.pipe(), os.pipe()
    theirs = requests[0], answers[1], lifeline[0]
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", "tal_conformance.implementations.workers.child", *map(str, theirs)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=theirs,
        cwd=work,
        env=environment(Path(home.name), launch.folders),
        start_new_session=True,
    )
    for pipe in theirs:
        os.close(pipe)
    for pipe in (requests[1], answers[0]):
        os.set_blocking(pipe, False)
        enlarge(pipe)
    return Running(process, requests[1], answers[0], lifeline[1], log, home)


def enlarge(pipe: int) -> None:
    """Let the pipe hold more, where the system allows it: fewer changes between the two processes."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


def environment(home: Path, folders: Sequence[Path]) -> dict[str, str]:
    """A clean environment: nothing of the user's but where programs and devices are."""
    kept = {
        name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_FAMILIES)
    }
    cache = cache_folder()
    return kept | {
        LIMIT_VARIABLE: str(memory_limit()),
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([*map(str, folders), str(PACKAGES)]),
        "PYTHONPYCACHEPREFIX": str(cache / "bytecode"),
        "PYTHONNOUSERSITE": "1",
        "PIP_NO_INDEX": "1",
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "MPLBACKEND": "Agg",
        "YOLO_CONFIG_DIR": str(home),
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "YOLO_VERBOSE": "false",
        "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",
        "WANDB_MODE": "disabled",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def send(pipe: int, frame: bytes, deadline: float) -> None:
    """Write all of it before the deadline.

    Raises:
        TimeoutError: the deadline passed.
        BrokenPipeError: the process is gone.
    """
    view = memoryview(frame)
    while view:
        try:
            view = view[os.write(pipe, view) :]
        except BlockingIOError:
            wait(pipe, select.POLLOUT, deadline)


def receive(pipe: int, count: int, deadline: float) -> bytes:
    """Read exactly so many bytes before the deadline.

    Raises:
        TimeoutError: the deadline passed.
        EOFError: the other end is gone.
    """
    parts: list[bytes] = []  # not room for all at once: a frame may claim to be larger than it is
    while count:
        try:
            part = os.read(pipe, min(count, PART))
        except BlockingIOError:
            wait(pipe, select.POLLIN, deadline)
            continue
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def wait(pipe: int, event: int, deadline: float) -> None:
    """Until the pipe can be used.

    Raises:
        TimeoutError: the deadline passed.
    """
    waiting = select.poll()
    waiting.register(pipe, event)
    if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError
