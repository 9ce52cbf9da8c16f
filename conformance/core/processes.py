"""Child processes of a process, found in /proc. On systems other than Linux no child processes are found."""

import contextlib
import os
import signal
import time
from pathlib import Path

PATIENCE, PAUSE = 0.5, 0.05
"""Seconds that a child process has to end by itself, and seconds between two checks."""
KNOWN = ("multiprocessing", "torch._inductor", "torch/_inductor")
"""Parts of the command lines of helper processes of Python and torch, which end with their parent."""


def children(pid: int | str = "self") -> set[int]:
    """Return the ids of the living children of a process."""
    found: set[int] = set()
    tasks = Path(f"/proc/{pid}/task")
    with contextlib.suppress(OSError):
        for task in os.listdir(tasks):  # noqa: PTH208 (asked twice a batch)
            with contextlib.suppress(OSError):
                found |= set(map(int, (tasks / task / "children").read_bytes().split()))
    return {child for child in found if lives(child)}


def lives(pid: int) -> bool:
    """Return True if the process runs: it exists, and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int | str = "self") -> set[int]:
    """Return the ids of the living children of a process, of their children, and so on."""
    found: set[int] = set()
    generation = children(pid)
    while generation:
        found |= generation
        generation = set().union(*(children(parent) for parent in generation)) - found
    return found


def command_of(pid: int) -> str:
    """Return the command line of a process; "" if the process does not exist."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kill(pids: set[int]) -> None:
    """Kill processes with SIGKILL."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def strays(before: set[int]) -> dict[int, str]:
    """Return the command lines, by id, of child processes that are not in `before` and still run after `PATIENCE` s."""
    new = children() - before
    if not new:
        return {}
    deadline = time.monotonic() + PATIENCE
    while new and time.monotonic() < deadline:
        time.sleep(PAUSE)
        new = {pid for pid in new if lives(pid)}
    commands = {pid: command_of(pid) for pid in new}
    return {pid: command for pid, command in commands.items() if not any(known in command for known in KNOWN)}
