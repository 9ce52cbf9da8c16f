"""Detect side effects of an implementation: changed inputs, changed outputs, left-over files, processes or output."""

import ctypes
import os
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from tal_conformance.core.outcome_tensors import equal_tensors
from tal_conformance.core.processes import PATIENCE, children, kill, strays
from tal_conformance.implementations.guards.descriptors import reserve_descriptors

LIBRARIES = ("torch", "tqdm", "multiprocessing", "concurrent", "ultralytics")
"""Packages whose threads wait for further work and end with the process."""
MOST_PRINTED = 2**20
"""Bytes that an implementation may print on one batch."""


class SideEffectError(Exception):
    """Error: an implementation changed inputs or earlier results, or left files, processes or output behind."""


class ReturnedTensors:
    """The tensors that an implementation returned for its last batches, and must not change in later calls."""

    def __init__(self) -> None:
        self._before: list[tuple[str, Tensor, Tensor]] = []
        self._kept: list[tuple[str, Tensor, Tensor]] = []

    def begin(self) -> None:
        """Begin the next batch: the tensors stored so far become the previous batch, which `check` compares."""
        self._before, self._kept = self._kept, []

    def keep(self, name: str, tensor: Tensor, copy: Tensor) -> None:
        """Store a returned tensor and its copy, unless the tensor is on a simulated device, with which it ends."""
        if type(tensor) is Tensor:
            self._kept.append((name, tensor, copy))

    def check(self) -> None:
        """Compare the tensors of the previous batch with their copies, and discard tensors and copies.

        Raises:
            SideEffectError: a tensor has changed.
        """
        remembered, self._before = self._before, []
        for name, tensor, copy in remembered:
            if not equal_tensors(tensor, copy):
                raise SideEffectError(f"changed {name} after returning it for the previous batch")


class Identity:
    """Object that an implementation and its variants share, so that they are recognised as the same code."""


_returned: "WeakKeyDictionary[Identity, ReturnedTensors]" = WeakKeyDictionary()


def returned_tensors(identity: Identity) -> ReturnedTensors:
    """Return the record of the tensors that the implementation with this identity returned last."""
    return _returned.setdefault(identity, ReturnedTensors())


def check_inputs_unchanged(given: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> None:
    """Raise if an implementation changed the copies `given` to it, compared with the originals.

    Raises:
        SideEffectError: an input was changed.
    """
    for name, original in originals.items():
        if not equal_tensors(given[name], original):
            raise SideEffectError(f"changed its input {name}")


@contextmanager
def forbid_side_effects() -> Iterator[None]:
    """Raise if the block leaves behind a process, a thread or a file in the working directory, or prints too much.

    Left-over processes are killed, threads ended, and open files closed if no further file could be opened. Files in
    the working directory are kept for inspection. An exception of the block is not replaced.

    Raises:
        SideEffectError: the block left something behind, or printed too much.
    """
    own, before, writes, printed = os.getpid(), children(), files_written(), bytes_printed()
    threads = set(threading.enumerate())
    seen = len(writes.paths)
    writes.folder = Path.cwd()
    try:
        with reserve_descriptors() as descriptors:
            yield
    finally:
        if os.getpid() != own:
            wait_to_be_ended()
        writes.folder = None
        written, writes.paths[seen:] = writes.paths[seen:], []
        hooks, writes.refused = writes.refused, 0
        running = threads_left(threads)
        end_threads(running)
        left = strays(before)
        kill(set(left))
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    if left:
        raise SideEffectError(f"left a child process running (killed): {next(iter(left.values()))[:120]}")
    if descriptors.left:
        raise SideEffectError(
            f"left {descriptors.left} files open, so that no other file could be opened; the suite closed them"
        )
    if running:
        raise SideEffectError(f"left a thread running: {running[0].name!r:.120}")
    if hooks:
        raise SideEffectError("added an audit hook, which could not be removed (refused)")
    if written:
        raise SideEffectError(f"wrote into the working directory: {written[0]}")
    if bytes_printed() - printed > MOST_PRINTED:
        raise SideEffectError(f"printed {bytes_printed() - printed:,} bytes; the limit is {MOST_PRINTED:,}")


def threads_left(before: Iterable[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that are not in `before` and do not end within `PATIENCE`.

    Idle threads that libraries keep for later calls are not included.
    """
    deadline = time.monotonic() + PATIENCE
    new = set(threading.enumerate()) - set(before)
    left = []
    for thread in new:
        target = getattr(thread, "_target", None)
        modules = type(thread).__module__, str(getattr(target, "__module__", ""))
        if thread is threading.current_thread() or any(
            module.partition(".")[0] in LIBRARIES for module in modules
        ):
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            left.append(thread)
    return left


def end_threads(threads: Iterable[threading.Thread]) -> None:
    """Raise SystemExit in threads, at their next instruction of Python: they cannot change anything later."""
    for thread in threads:
        if thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )


def wait_to_be_ended() -> None:
    """Wait to be killed: an implementation made this process by forking the suite, and let it return to the suite.

    The original process finds and kills this process; if the original has ended, this process exits by itself.
    """
    time.sleep(20 * PATIENCE)
    os._exit(1)


def bytes_printed() -> int:
    """Return the size of the files behind standard output and standard error; terminals and pipes count as 0."""
    files = {}
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
            status = os.fstat(number)
            if stat.S_ISREG(status.st_mode):
                files[status.st_ino] = status.st_size
    return sum(files.values())


class RefusedHook(RuntimeError):
    """Error: an audit hook is refused. Python handles this error itself, and does not add the hook."""


class Writes:
    """Audit hook that records files opened for writing in a folder, except caches and hidden files.

    During a call it also refuses further audit hooks: they cannot be removed, and can make every later step raise.

    Attributes:
        folder: working directory during a call; None outside of calls, when nothing is recorded.
        paths: recorded files.
        refused: number of refused audit hooks.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.paths: list[str] = []
        self.refused = 0
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record the file or folder of an audit event that opens a file for writing or makes a folder.

        Raises:
            RefusedHook: the event is the addition of an audit hook.
        """
        if self.folder is None or event not in ("open", "os.mkdir", "sys.addaudithook"):
            return
        if event == "sys.addaudithook":
            self.refused += 1
            raise RefusedHook
        path = arguments[0]
        writing = event == "os.mkdir" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writing or not isinstance(path, (str, bytes, os.PathLike)):
            return
        text = os.fsdecode(path)
        where = Path(text)
        ours = not where.is_absolute() or (where.parent == self.folder != Path(tempfile.gettempdir()))
        if ours and not any(part.startswith((".", "__pycache__")) for part in where.parts if part != ".."):
            self.paths.append(text)


@cache
def files_written() -> Writes:
    """Return the audit hook of this process that records written files, installed once: it cannot be removed."""
    return Writes()
