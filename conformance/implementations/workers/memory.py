"""Measure the memory of a process and its descendants, including shared memory. Works on Linux only.

The limit `RLIMIT_DATA` covers the private memory of a single process. It does not cover memory that processes share,
files in /dev/shm, or memory files.
"""

import contextlib
import os
import sys
from pathlib import Path

from tal_conformance.core.processes import descendants

INTERVAL = 0.25
"""Seconds between two measurements while an answer is awaited."""
RLIMIT, UNLIMITED = "RLIMIT_DATA", "nothing"
"""Values of the field `memory` of a worker's first answer: the system's limit of each of its processes, or no limit."""
SHARED_FILES = ("/memfd:", "/dev/shm/", "/dev/zero")  # noqa: S108 - places where shared memory is found
"""Beginnings of the targets of file descriptors that hold shared memory."""


def description(limit: int, limited_by: str) -> str:
    """Return the sentence of the report about the memory limit of a worker.

    Args:
        limit: the limit in bytes.
        limited_by: the limit that the worker could set for itself: `RLIMIT` or `UNLIMITED`.
    """
    if not sys.platform.startswith("linux"):
        return "memory not limited"
    in_each = f"in each process by {RLIMIT} (without shared memory) and " if limited_by == RLIMIT else ""
    return (
        f"memory limited to {limit / 2**30:.3g} GiB {in_each}in all its processes together by a measurement every "
        f"{INTERVAL:g} s (shared memory included), not by a control group"
    )


def used_memory(pid: int) -> int:
    """Return the resident memory of a process and its descendants in bytes; shared memory is counted once."""
    private, mapped, files = 0, 0, dict[tuple[int, int], int]()
    for process in {pid} | descendants(pid):
        own, shared = _resident(process)
        private, mapped = private + own, max(mapped, shared)
        files |= _shared_files(process)
    return private + max(mapped, sum(files.values()))


def _resident(pid: int) -> tuple[int, int]:
    """Return the private and the shared resident memory of a process, in bytes."""
    sizes = {"RssAnon": 0, "RssShmem": 0}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0]) * 1024
    return sizes["RssAnon"], sizes["RssShmem"]


def _shared_files(pid: int) -> dict[tuple[int, int], int]:
    """Return the sizes in bytes of the shared memory behind a process's file descriptors, by device and inode."""
    sizes = {}
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 (read four times a second)
            with contextlib.suppress(OSError):
                path = f"/proc/{pid}/fd/{number}"
                if os.readlink(path).startswith(SHARED_FILES):  # noqa: PTH115 (a target that is not a path)
                    status = os.stat(path)  # noqa: PTH116
                    sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sizes
