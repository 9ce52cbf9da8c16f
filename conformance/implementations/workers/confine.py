"""Start a worker process: restrict its network and lifetime before anything else is imported, then serve.

This file runs as a script, by its path. It imports only the standard library until network access is removed and the
modules of this project are loaded. Only then do the folders of the code under test come first on the import path: a
folder with a `torch.py` or `tal_conformance` of its own replaces nothing that the worker itself uses.
"""

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
FOLDERS_VARIABLE = "TAL_CONFORMANCE_WORKER_FOLDERS"
"""Environment variable with the folders of the code under test, separated as in PATH."""
NETWORK_VARIABLE = "TAL_CONFORMANCE_WORKER_NETWORK"
"""Environment variable that says how the network is blocked: `NAMESPACE` or `HOOKS`."""
NAMESPACE, HOOKS = "namespace", "audit hooks"


def end_with_parent(parent: int) -> None:
    """Let the system kill this process a second after its parent ends, even if code holds the interpreter's lock.

    During this second a thread that waits for the end of the suite kills the descendants of this process, which the
    system would leave running. When the parent ends, the system sends SIGHUP, whose number is 1. Its handler is C's
    `alarm`, which is called with the number of the signal: after 1 second SIGALRM ends the process.

    Args:
        parent: process id of the parent; if the parent has ended already, this process ends at once.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(int(signal.SIGHUP), ctypes.cast(libc.alarm, ctypes.c_void_p))
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def leave_network() -> str:
    """Enter a network namespace without interfaces, and return a description of how the network is blocked.

    With root rights the namespace is made directly, otherwise within a user namespace that maps the user to itself.
    """
    if not sys.platform.startswith("linux"):
        return HOOKS
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) == 0:
        return NAMESPACE
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return HOOKS
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            Path(f"/proc/self/{file}").write_text(text, encoding="ascii")
        except OSError:
            continue
    return NAMESPACE


def main() -> None:
    """Restrict this process, import the worker's code, and answer messages until the pipe is closed."""
    packages, parent, *pipes = sys.argv[1:]
    end_with_parent(int(parent))
    os.environ[NETWORK_VARIABLE] = leave_network()
    sys.path.insert(0, packages)
    child = importlib.import_module("tal_conformance.implementations.workers.child")
    importlib.import_module("tal_conformance.implementations.workers.remote")
    importlib.import_module("tal_conformance.implementations.protocol")
    folders = [folder for folder in os.environ.pop(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    sys.path[:0] = folders
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*folders, packages]
    )  # for the processes that the worker starts
    child.main(*map(int, pipes))


if __name__ == "__main__":
    main()
