"""The processes that a process has started, as Linux tells them; elsewhere none are known."""

import contextlib
import os
import signal
import time
from pathlib import Path

PATIENCE, PAUSE = 0.5, 0.05
"""Seconds that a started process has to end by itself, and seconds between two looks."""
KNOWN = ("multiprocessing", "torch._inductor", "torch/_inductor")
"""In the command lines of processes that Python and torch keep for themselves: they end with their parent."""


def children(pid: int | str = "self") -> set[int]:
    """Living children of a process."""
    found: set[int] = set()
    tasks = Path(f"/proc/{pid}/task")
    with contextlib.suppress(OSError):
        for task in os.listdir(tasks):  # noqa: PTH208 (asked twice a batch)
            with contextlib.suppress(OSError):
                found |= set(map(int, (tasks / task / "children").read_bytes().split()))
    return {child for child in found if lives(child)}


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int | str = "self") -> set[int]:
    """Children, their children, and so on."""
    found: set[int] = set()
    left = children(pid)
    while left:
        found |= left
        left = set().union(*(children(each) for each in left)) - found
    return found


def command_of(pid: int) -> str:
    """Its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kill(pids: set[int]) -> None:
    """End processes, whether they want to or not."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def strays(before: set[int]) -> dict[int, str]:
    """Children that were not there before and do not end, with their command lines."""
    new = children() - before
    if not new:
        return {}
    deadline = time.monotonic() + PATIENCE
    while new and time.monotonic() < deadline:
        time.sleep(PAUSE)
        new = {pid for pid in new if lives(pid)}
    told = {pid: command_of(pid) for pid in new}
    return {pid: command for pid, command in told.items() if not any(known in command for known in KNOWN)}
