"""How an implementation behaves besides what it returns: it may change nothing that is not its own."""

import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from tal_conformance.core.outcome_tensors import equal_tensors
from tal_conformance.core.processes import PATIENCE, children, kill, strays

MOST_PRINTED = 2**20
"""Bytes that may be printed on one batch."""


class SideEffectError(Exception):
    """It changed something that is not its own, or left something behind; the message says what."""


class ReturnedTensors:
    """What an implementation returned last: it must not change later."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, Tensor, Tensor]] = []

    def keep(self, named: Mapping[str, Tensor]) -> None:
        """Remember what was returned, and what it is now. Tensors of a simulated device end with the simulation."""
        plain = {name: tensor for name, tensor in named.items() if type(tensor) is Tensor}
        self._kept = [(name, tensor, tensor.detach().clone()) for name, tensor in plain.items()]

    def check(self) -> None:
        """Compare.

        Raises:
            Misbehaved: something changed.
        """
        kept, self._kept = self._kept, []
        for name, tensor, was in kept:
            if not equal_tensors(tensor, was):
                raise SideEffectError(f"it changed {name}, which it had returned for the batch before")


class Identity:
    """Identity of an implementation and its variants."""


_returned: "WeakKeyDictionary[Identity, ReturnedTensors]" = WeakKeyDictionary()


def returned_tensors(identity: Identity) -> ReturnedTensors:
    """Return the memory of the tensors that an implementation returned last."""
    return _returned.setdefault(identity, ReturnedTensors())


def check_inputs_unchanged(given: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> None:
    """Compare the private copies that an implementation was given with what they were copied from.

    Raises:
        Misbehaved: one was changed.
    """
    for name, original in originals.items():
        if not equal_tensors(given[name], original):
            raise SideEffectError(f"it changed its input {name}")


@contextmanager
def forbid_side_effects() -> Iterator[None]:
    """Afterwards there is no process and no file in the working directory that was not there before.

    Processes are ended; files are left where they are. An exception that passes is not replaced.

    Raises:
        Misbehaved: a process stays, a file was written, or more was printed than anybody could read.
    """
    own, before, writes, printed = os.getpid(), children(), files_written(), bytes_printed()
    seen = len(writes.paths)
    writes.folder = Path.cwd()
    try:
        yield
    finally:
        if os.getpid() != own:
            wait_to_be_ended()
        writes.folder = None
        written, writes.paths[seen:] = writes.paths[seen:], []
        left = strays(before)
        kill(set(left))
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    if left:
        raise SideEffectError(f"it left a process behind, which was ended: {next(iter(left.values()))[:120]}")
    if written:
        raise SideEffectError(f"it wrote into the working directory: {written[0]}")
    if bytes_printed() - printed > MOST_PRINTED:
        raise SideEffectError(f"it printed {bytes_printed() - printed:,} bytes, more than {MOST_PRINTED:,}")


def wait_to_be_ended() -> None:
    """What a copy of this process does that an implementation forked and let return here: it must not go on.

    The original finds and ends it; if the original is gone, it ends by itself.
    """
    time.sleep(20 * PATIENCE)
    os._exit(1)


def bytes_printed() -> int:
    """How long the files are that standard output and standard error go into; terminals and pipes count nothing."""
    files = {}
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
            status = os.fstat(number)
            if stat.S_ISREG(status.st_mode):
                files[status.st_ino] = status.st_size
    return sum(files.values())


class Writes:
    """An audit hook: notes what is opened for writing in a folder, caches and hidden files aside."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.paths: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note a file or folder."""
        if self.folder is None or event not in ("open", "os.mkdir"):
            return
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
    """The process's one hook; it cannot be taken off again."""
    return Writes()
