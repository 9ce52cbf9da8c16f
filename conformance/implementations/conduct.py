"""How an implementation behaves besides what it returns: it may change nothing that is not its own."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conformance.processes import children, kill, strays


class Misbehaved(Exception):
    """It changed something that is not its own, or left something behind; the message says what."""


class Returned:
    """What an implementation returned last: it must not change later."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, Tensor, Tensor]] = []

    def keep(self, named: Mapping[str, Tensor]) -> None:
        """Remember what was returned, and what it is now."""
        self._kept = [(name, tensor, tensor.detach().clone()) for name, tensor in named.items()]

    def check(self) -> None:
        """Compare.

        Raises:
            Misbehaved: something changed.
        """
        kept, self._kept = self._kept, []
        for name, tensor, was in kept:
            if not same(tensor, was):
                raise Misbehaved(f"it changed {name}, which it had returned for the batch before")


def check_given(given: Mapping[str, Tensor], originals: Mapping[str, Tensor]) -> None:
    """Compare the private copies that an implementation was given with what they were copied from.

    Raises:
        Misbehaved: one was changed.
    """
    for name, original in originals.items():
        if not same(given[name], original):
            raise Misbehaved(f"it changed its input {name}")


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in shape, dtype and every element; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.device.type == "meta":
        return True
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Afterwards there is no process and no file in the working directory that was not there before.

    Processes are ended; files are left where they are. An exception that passes is not replaced.

    Raises:
        Misbehaved: a process stays, or a file was written.
    """
    before, writes = children(), files_written()
    seen = len(writes.paths)
    writes.folder = Path.cwd()
    try:
        yield
    finally:
        writes.folder = None
        written, writes.paths[seen:] = writes.paths[seen:], []
        left = strays(before)
        kill(set(left))
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    if left:
        pid, command = next(iter(left.items()))
        raise Misbehaved(f"it left the process {pid} behind, which was ended ({command[:120]})")
    if written:
        raise Misbehaved(f"it wrote into the working directory: {written[0]}")


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
