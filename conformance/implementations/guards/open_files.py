"""Detect file descriptors of the suite that a call closed or redirected, and repair them."""

import fcntl
import os
import resource
import sys
from contextlib import suppress
from typing import Any

from tal_conformance.implementations.guards.descriptors import open_descriptors

STREAMS = {0: "standard input", 1: "standard output", 2: "standard error"}
"""File descriptors of the standard streams. pytest redirects them for each test."""
HIGHEST = 2**16
"""Number from which on copies of file descriptors are made, if the limits allow it: few programs close that many."""
Identity = tuple[int, int] | None
"""Device and inode of an open file, or None if the file descriptor is closed."""


def identity(number: int) -> Identity:
    """Return the identity of the open file with this descriptor."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class OpenFiles:
    """The files that the suite opened for itself: its log, and the copies of the streams that pytest keeps.

    Attributes:
        lost: names of files that could not be repaired, because the call closed their copies too.
    """

    def __init__(self) -> None:
        self.lost: list[str] = []
        self._copies: dict[int, tuple[Identity, int]] = {}

    @property
    def protected(self) -> bool:
        """True if the suite's open files were protected."""
        return bool(self._copies)

    def protect(self) -> None:
        """Protect all files that are open now: copy their descriptors, from which they are repaired."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = HIGHEST * 2 if hard == resource.RLIM_INFINITY else hard
        numbers = open_descriptors() - {copy for _, copy in self._copies.values()} - set(self._copies)
        try:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            for number in numbers:
                with suppress(OSError, ValueError):
                    copy = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, min(HIGHEST, most // 2))
                    self._copies[number] = identity(number), copy
        finally:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def release(self) -> None:
        """Close the copies, and protect nothing any more."""
        copies, self._copies = self._copies, {}
        for wanted, copy in copies.values():
            if identity(copy) == wanted:
                os.close(copy)

    def streams(self) -> tuple[Any, ...]:
        """Return the identities of the standard streams' files, and a list of Python's stream objects that are open."""
        streams = [stream for stream in (sys.stdout, sys.stderr) if is_open(stream)]
        return (*map(identity, STREAMS), streams)

    def repair(self, before: tuple[Any, ...]) -> list[str]:
        """Repair closed or redirected files, and return a list with a description of each repaired or lost file.

        Args:
            before: result of `streams` before the call.
        """
        changed = []
        for number, (wanted, copy) in self._copies.items():
            if number not in STREAMS and identity(number) != wanted:
                changed.append(f"the open files (descriptor {number})")
                self._repair(number, wanted, [copy], changed[-1])
        for (number, name), wanted in zip(STREAMS.items(), before, strict=False):
            if identity(number) != wanted:
                changed.append(name)
                self._repair(
                    number, wanted, [*self._copies, *(copy for _, copy in self._copies.values())], name
                )
        for stream in before[-1]:
            if not is_open(stream):
                changed.append("the streams of sys (closed)")
                self.lost.append(changed[-1])
        return changed

    def _repair(self, number: int, wanted: Identity, sources: list[int], name: str) -> None:
        """Make descriptor `number` refer to its former file `wanted`, by copying a source that refers to this file."""
        if wanted is None:
            with suppress(OSError):
                os.close(number)
            return
        source = next((source for source in sources if identity(source) == wanted), None)
        if source is None:
            self.lost.append(name)
        else:
            os.dup2(source, number, inheritable=number in STREAMS)


def is_open(stream: Any) -> bool:
    """Return True if a stream of Python is open."""
    return stream is not None and getattr(stream, "closed", False) is False


open_files = OpenFiles()
"""Files of this process."""
