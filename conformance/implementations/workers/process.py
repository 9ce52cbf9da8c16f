"""The suite's side of a worker process, which is started on demand, restarted if it dies, and killed if it hangs.

A question holds the arguments of one call of the worker's adapter, or of a sequence of calls; the worker's answer to it
holds the results, or a description of an exception.
"""

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

from tal_conformance.core.files import PACKAGES, TemporaryFolder
from tal_conformance.core.processes import descendants, kill
from tal_conformance.core.waiting import report_waiting
from tal_conformance.implementations.errors import InvalidSetting
from tal_conformance.implementations.workers import confine
from tal_conformance.implementations.workers.memory import INTERVAL, used_memory
from tal_conformance.implementations.workers.messages import (
    LIMIT_VARIABLE,
    LONGEST_ANSWER_TEXT,
    LONGEST_TENSORS,
    OUT_OF_MEMORY,
    Message,
    MessageError,
    TooLong,
    decoded,
    encoded,
)

TIMEOUT_VARIABLE = "TAL_CONFORMANCE_TIMEOUT"
"""Environment variable with the time limit in seconds for an answer, after which the worker is killed."""
TIMEOUT = 120.0
"""Time limit in seconds if the variable is not set."""
MEMORY_VARIABLE = "TAL_CONFORMANCE_MEMORY"
"""Environment variable: memory limit of a worker in GiB; by default three quarters of the machine's memory."""
HANGS, DEATHS = 3, 50
"""Number of hangs and of deaths after which a worker is not restarted, so that every further question fails at once."""
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""Environment variables that a worker inherits, besides those of CUDA and of numeric libraries."""
KEPT_FAMILIES = ("CUDA_", "CUBLAS_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_")
HOME_PREFIX = "tal-conformance-worker-"
"""Beginning of the names of the workers' home folders."""
PIPE = 2**20
"""Capacity requested for a pipe, in bytes."""
PART = 2**24
"""Largest number of bytes read at once."""
LONGEST_LOG = 2**26
"""Size in bytes at which the log of a worker's output is emptied."""
LAST_WORDS = 600
"""Maximum length in bytes of the quoted end of a dead worker's log."""


class WorkerFailed(Exception):
    """Error: the worker process died, hung, or did not reply. The next request to the worker starts a new process.

    Attributes:
        what: the failure, as a sentence without a subject, such as "died with exit status 1".
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class Launch:
    """Instructions for starting a worker.

    Attributes:
        adapter: `module:object`, imported and called in the worker.
        arguments: keyword arguments of the call, as a JSON object.
        folders: package folders that come first on the worker's import path.
        stand_ins: modules that are replaced by stubs if they are missing.
        entries: entries of the package cache; the worker verifies their hashes again before it imports anything.
    """

    adapter: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folders: Sequence[Path] = ()
    stand_ins: Sequence[str] = ()
    entries: Sequence[Path] = ()


@dataclass
class Running:
    """A started worker process with its pipes, its log and its folder."""

    process: subprocess.Popen[bytes]
    requests: int
    answers: int
    lifeline: int
    log: IO[bytes]
    home: TemporaryFolder
    limit: int

    def last_words(self) -> str:
        """Return the end of the text that the process printed, as one line."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - LAST_WORDS))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-4:] if line.strip())

    def end(self) -> None:
        """Kill the process, its process group and all other processes that it started, and remove its folder."""
        started = descendants(self.process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        kill(started)
        self.process.wait()
        for pipe in (self.requests, self.answers, self.lifeline):
            os.close(pipe)
        self.log.close()
        self.home.remove()


class Worker:
    """A process that runs an adapter, and replies to requests to assign or to compute a loss.

    Args:
        launch: instructions for starting the process.
        timeout: time limit in seconds for an answer, including the start; None for `default_timeout()`.
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
        """Start the worker process, unless it is running.

        Returns:
            A description of the adapter, or of the exception that making the adapter raised (`raised`, `message`,
            `traceback`).

        Raises:
            WorkerFailed: the process died or hung before it answered.
        """
        if self._running is not None and self._running.process.poll() is None:
            return self._about
        self.close()
        try:
            self._running = launched(self.launch)
        except OSError as error:
            raise WorkerFailed(f"its worker process could not be started: {error}") from error
        self._end = weakref.finalize(self, self._running.end)
        self.starts += 1
        self._about = Message({})
        fields = {
            "adapter": self.launch.adapter,
            "arguments": dict(self.launch.arguments),
            "stand_ins": list(self.launch.stand_ins),
            "entries": [str(entry) for entry in self.launch.entries],
            "threads": torch.get_num_threads(),
        }
        self._about = self._exchange(encoded(fields))
        return self._about

    def ask(
        self,
        questions: Sequence[tuple[dict[str, Any], Mapping[str, Tensor]]],
        longest: int = LONGEST_TENSORS,
    ) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
        """Send the arguments of several calls of the adapter in one message, and return the results of all calls.

        Args:
            questions: fields and tensors of each call.
            longest: largest number of bytes that the tensors of all results together may have.

        Raises:
            WorkerFailed: the worker did not reply. The caller can send one call at a time to find the failing call.
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
            raise WorkerFailed(f"could not be restarted: {about.fields['message']}")
        answer = self._exchange(request, longest, LONGEST_ANSWER_TEXT * len(questions))
        replies = answer.fields.get("answers")
        if not isinstance(replies, list) or len(replies) != len(questions):
            raise self._failed(f"sent {str(replies)[:80]}, expected answers to {len(questions)} questions")
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
        """Process id, or None if no process runs."""
        return self._running.process.pid if self._running else None

    @property
    def limit(self) -> int:
        """Memory limit of the running process in bytes, or of the next one if no process runs."""
        return self._running.limit if self._running else memory_limit()

    def close(self) -> None:
        """End the worker process. The next request starts a new process."""
        self._end()
        self._running = None

    def _refuse(self, request: bytes) -> None:
        """Raise if the worker died or hung too often to be restarted, or hung on the same request before.

        Raises:
            WorkerFailed: the request must not be sent.
        """
        if self._hung and digest_of(request) in self._hung:
            raise WorkerFailed(self._hung[digest_of(request)])
        if self.hangs >= HANGS or self.deaths >= DEATHS:
            raise WorkerFailed(
                f"was not called: its worker is not restarted after {self.hangs} hangs and {self.deaths} deaths"
            )

    def _exchange(self, request: bytes, longest: int = 0, text: int = LONGEST_ANSWER_TEXT) -> Message:
        """Send a message and return the answer.

        Args:
            request: the message.
            longest: largest number of bytes of the answer's tensors.
            text: largest number of bytes of the answer's text.

        Raises:
            WorkerFailed: the process is dead, hangs, or sent bytes that are not a message; the process is killed.
        """
        assert self._running is not None
        if os.fstat(self._running.log.fileno()).st_size > LONGEST_LOG:
            os.truncate(self._running.log.fileno(), 0)
        began = time.monotonic()
        deadline = began + self.timeout
        try:
            send(self._running.requests, request, deadline)
            pipe, check = self._running.answers, lambda: self._check(began)
            return decoded(lambda count: receive(pipe, count, deadline, check), text, longest)
        except TooLong as error:
            raise self._failed(f"sent too long an answer: {error}") from error
        except MessageError as error:
            raise self._failed(f"sent bytes that are not a message: {error}") from error
        except TimeoutError as error:
            self.hangs += 1
            failure = self._failed(f"did not answer within {self.timeout:g} s and was killed", counted=False)
            self._hung[digest_of(request)] = failure.what
            raise failure from error
        except (EOFError, BrokenPipeError, ConnectionError) as error:
            raise self._failed(f"died{self._how()}") from error

    def _check(self, began: float) -> None:
        """Report that the process has not answered yet, and kill it if it uses too much memory.

        Args:
            began: time of the request, from `time.monotonic`.

        Raises:
            WorkerFailed: the process was killed.
        """
        self._check_memory()
        seconds = time.monotonic() - began
        doing = "computing" if self._about.fields else "starting"
        report_waiting(
            f"the worker of {self.launch.adapter} has been {doing} for {seconds:.0f} s "
            f"(killed after {self.timeout:g} s)"
        )

    def _check_memory(self) -> None:
        """Kill the process if it and its descendants use more memory than `memory_limit` allows.

        Raises:
            WorkerFailed: the process was killed.
        """
        assert self._running is not None
        used = used_memory(self._running.process.pid)
        if used > self._running.limit:
            raise self._failed(
                f"was killed: it and its child processes used {used / 2**30:.3g} GiB of memory, including shared "
                f"memory; the limit is {self._running.limit / 2**30:.3g} GiB ({MEMORY_VARIABLE})"
            )

    def _how(self) -> str:
        """Return the exit status or signal of the ended process as text, such as "with exit status 1"."""
        assert self._running is not None
        try:
            status = self._running.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return ": it closed its pipe"
        if status < 0:
            return f" of signal {-status} ({signal.Signals(-status).name})"
        if status == OUT_OF_MEMORY:
            return (
                f": it needed more than {memory_limit() / 2**30:.3g} GiB of memory (limit: {MEMORY_VARIABLE})"
            )
        return f" with exit status {status}"

    def _failed(self, what: str, counted: bool = True) -> WorkerFailed:
        assert self._running is not None
        self.deaths += counted
        words = self._running.last_words()
        self.close()
        return WorkerFailed(f"its process {what}" + (f"; it printed: {words}" if words else ""))


def digest_of(request: bytes) -> str:
    """Return a hash that identifies a request."""
    return hashlib.sha256(request).hexdigest()


def default_timeout() -> float:
    """Return the time limit in seconds for an answer.

    Raises:
        InvalidSetting: the environment variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise InvalidSetting(f"{TIMEOUT_VARIABLE} is {text!r}, expected a number of seconds above 0")
    return seconds


def memory_limit() -> int:
    """Return the memory limit of a worker, in bytes.

    Raises:
        InvalidSetting: the environment variable is not a positive number.
    """
    text = os.environ.get(MEMORY_VARIABLE)
    if text is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    try:
        gibibytes = float(text)
    except ValueError:
        gibibytes = 0.0
    if not 0 < gibibytes < 2**30:
        raise InvalidSetting(f"{MEMORY_VARIABLE} is {text!r}, expected a number of GiB above 0")
    return int(gibibytes * 2**30)


def launched(launch: Launch) -> Running:
    """Start a process with its own process group and home folder, and pipes separate from its standard output."""
    limit, home = memory_limit(), TemporaryFolder(HOME_PREFIX)
    opened: list[int] = []
    try:
        work = home.path / "work"
        work.mkdir()
        log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `Running.end`
        for _ in range(3):
            opened += os.pipe()
        requests, answers, lifeline = opened[:2], opened[2:4], opened[4:]
        theirs = requests[0], answers[1], lifeline[0]
        arguments = [str(PACKAGES), str(os.getpid()), *map(str, theirs)]
        process = subprocess.Popen(  # noqa: S603 - a script of this project
            [sys.executable, "-P", confine.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=theirs,
            cwd=work,
            env=environment(home.path, launch.folders) | {LIMIT_VARIABLE: str(limit)},
            start_new_session=True,
        )
    except BaseException:
        for pipe in opened:
            os.close(pipe)
        home.remove()
        raise
    for pipe in theirs:
        os.close(pipe)
    for pipe in (requests[1], answers[0]):
        os.set_blocking(pipe, False)
        enlarge(pipe)
    return Running(process, requests[1], answers[0], lifeline[1], log, home, limit)


def enlarge(pipe: int) -> None:
    """Enlarge the capacity of a pipe if the system allows it, so that the processes switch less often."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)


def environment(home: Path, folders: Sequence[Path]) -> dict[str, str]:
    """Return the environment variables of a worker: only the user's settings that locate programs and devices."""
    inherited = {
        name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_FAMILIES)
    }
    return inherited | {
        "HOME": str(home),
        confine.FOLDERS_VARIABLE: os.pathsep.join(map(str, folders)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PIP_NO_INDEX": "1",
        "MPLCONFIGDIR": str(home / "matplotlib"),
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


def send(pipe: int, message: bytes, deadline: float) -> None:
    """Write all bytes of a message into the pipe before the deadline.

    Raises:
        TimeoutError: the deadline passed.
        BrokenPipeError: the process has ended.
    """
    view = memoryview(message)
    while view:
        try:
            view = view[os.write(pipe, view) :]
        except BlockingIOError:
            wait(pipe, select.POLLOUT, deadline)


def receive(pipe: int, count: int, deadline: float, check: Callable[[], None] = lambda: None) -> bytes:
    """Read `count` bytes before the deadline.

    Args:
        pipe: file descriptor of the pipe.
        count: number of bytes.
        deadline: reading of the monotonic clock, in seconds.
        check: called every `INTERVAL` seconds while there is nothing to read; may raise.

    Raises:
        TimeoutError: the deadline passed.
        EOFError: the writing end of the pipe is closed.
    """
    parts: list[bytes] = []  # no buffer for the whole message: its header may claim a wrong length
    while count:
        try:
            part = os.read(pipe, min(count, PART))
        except BlockingIOError:
            wait(pipe, select.POLLIN, deadline, check)
            continue
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def wait(pipe: int, event: int, deadline: float, check: Callable[[], None] = lambda: None) -> None:
    """Wait until the pipe is ready to be read or written (`event`), and call `check` every `INTERVAL` seconds.

    Raises:
        TimeoutError: the deadline passed.
    """
    waiting = select.poll()
    waiting.register(pipe, event)
    while not waiting.poll(max(0.0, min(INTERVAL, deadline - time.monotonic())) * 1000):
        if time.monotonic() >= deadline:
            raise TimeoutError
        check()
