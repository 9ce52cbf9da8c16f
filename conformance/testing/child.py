"""Run the suite in a child process, as the command line does, unaffected by the state of this process.

An implementation that has a name is imported by the child, which is a new interpreter. An object that only this process
has (an instance, a class of a notebook, a function inside a function) cannot be sent to another interpreter without
executing stored code; its child is a fork of this process. Both run the same command. Neither reads pytest's
configuration, conftest files, plugins or environment variables of the calling project.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tal_conformance.core.progress import Advance, no_progress, progress
from tal_conformance.testing.announcements import FILE_VARIABLE

FOREIGN = ("PYTEST_", "COV_CORE_", "COVERAGE_", "TAL_CONFORMANCE_SEED", "HYPOTHESIS_")
"""Beginnings of environment variables of the calling test run, which would change the child's."""
PLUGINS = ("_hypothesis_pytestplugin", "pytest_benchmark.plugin", "xdist.plugin", "tal_conformance.plugin")
"""pytest plugins of the child. All others of the environment stay unloaded."""
PAUSE = 0.2
"""Seconds between two looks at the child."""
PATIENCE = 20.0
"""Seconds that an interrupted child has to write its report before it is killed."""
CANNOT_FORK = 113
"""Exit status of a fork in which torch cannot compute gradients. No exit status of pytest."""


class CannotFork(RuntimeError):
    """Error: the object exists only in this process, and this process cannot be copied."""


class Child(Protocol):
    """A process with its own process group."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""


@dataclass
class Fork:
    """A forked child of this process.

    Attributes:
        pid: id of the process.
    """

    pid: int
    _status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        if self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if ended else None
        return self._status


@dataclass
class Finished:
    """The end of a child's run.

    Attributes:
        status: exit status of the process, negative for a signal.
        folder: folder of the run, or None if it did not begin.
        output: text that the process printed.
        timed_out: True if the process was stopped at the time limit.
    """

    status: int
    folder: Path | None
    output: str
    timed_out: bool = False


@dataclass
class Announced:
    """Content of the file into which the child writes its progress, read while the file grows.

    Attributes:
        path: the file.
        folder: folder of the run, once it is known.
        planned: number of tests of the run; 0 before they are collected.
        finished: names of the finished tests.
    """

    path: Path
    folder: Path | None = None
    planned: int = 0
    finished: set[str] = field(default_factory=set)
    _read: int = 0

    def update(self) -> None:
        """Read the lines that were appended since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in map(json.loads, whole.splitlines()):
            self.folder = Path(line["folder"]) if "folder" in line else self.folder
            self.planned = line.get("planned", self.planned)
            self.finished |= {line["finished"]} if "finished" in line else set()


def run_by_name(options: list[str], title: str, limit: float | None, show: bool) -> Finished:
    """Run the suite in a new interpreter.

    Args:
        options: options of the suite.
        title: description of the work, for the progress bar.
        limit: time limit in seconds, or None.
        show: True to show a progress bar on standard error.
    """

    def start(folder: Path, environment: dict[str, str]) -> Child:
        command = [sys.executable, "-P", "-m", "pytest", *_isolation(folder), *options]
        with (folder / "output").open("wb") as output:
            return subprocess.Popen(  # noqa: S603  (the command line of the suite itself)
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return _run(start, title, limit, show)


def run_by_fork(
    options: list[str], given: Mapping[str, Any], title: str, limit: float | None, show: bool
) -> Finished:
    """Run the suite in a fork of this process, with adapters of this process.

    Args:
        options: options of the suite.
        given: adapters by the name with which the options select them.
        title: description of the work, for the progress bar.
        limit: time limit in seconds, or None.
        show: True to show a progress bar on standard error.

    Raises:
        CannotFork: the system has no fork, or CUDA is in use in this process.
    """
    torch = sys.modules.get("torch")
    if not hasattr(os, "fork") or (torch is not None and torch.cuda.is_initialized()):
        raise CannotFork("this process cannot be copied: CUDA is in use, or the system has no fork")

    def start(folder: Path, environment: dict[str, str]) -> Child:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads: see _run_in_fork
            pid = os.fork()
        if pid == 0:
            _run_in_fork([*_isolation(folder), *options], given, folder / "output", environment)
        return Fork(pid)

    finished = _run(start, title, limit, show)
    if finished.status == CANNOT_FORK:
        raise CannotFork("this process cannot be copied: torch has started threads for a GPU")
    return finished


def _isolation(folder: Path) -> list[str]:
    """Return the arguments that keep the calling project's configuration and plugins out of the child."""
    plugins = [argument for name in PLUGINS for argument in ("-p", name)]
    return [
        *("-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "--noconftest"),
        *("--disable-plugin-autoload", *plugins, "-p", "no:cacheprovider"),
        *("-p", "tal_conformance.testing.announcements", "--pyargs", "tal_conformance"),
    ]


def _environment(announcements: Path) -> dict[str, str]:
    """Return the child's environment: this process's, without variables of a test run, and with this `sys.path`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    own = {str(Path(path).resolve()) for path in sysconfig.get_paths().values()}
    paths = [str(Path(path).resolve()) for path in sys.path if not path.endswith(".zip")]
    foreign = [path for path in dict.fromkeys(paths) if path not in own and not path.endswith("lib-dynload")]
    return kept | {"PYTHONPATH": os.pathsep.join(foreign), FILE_VARIABLE: str(announcements)}


def _run(
    start: Callable[[Path, dict[str, str]], Child], title: str, limit: float | None, show: bool
) -> Finished:
    """Start a child, wait for its end, and return its result. If this function raises, the child is stopped."""
    with tempfile.TemporaryDirectory(prefix="tal-conformance-") as temporary:
        folder = Path(temporary)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        announced = Announced(folder / "announcements")
        child = start(folder, _environment(announced.path))
        try:
            timed_out = _follow(child, announced, title, limit, show)
        finally:
            _stop(child)
        announced.update()
        status = child.poll()
        assert status is not None
        output = (folder / "output").read_text(encoding="utf-8", errors="replace")
        return Finished(status, announced.folder, output, timed_out)


def _follow(child: Child, announced: Announced, title: str, limit: float | None, show: bool) -> bool:
    """Wait for a child's end, and show its progress. Return True if the time limit was reached before the end."""
    end = None if limit is None else time.monotonic() + limit
    with _bar(title, show) as advance:
        done = 0
        while child.poll() is None:
            if end is not None and time.monotonic() >= end:
                return True
            time.sleep(PAUSE)
            announced.update()
            if announced.planned:
                percent = 100 * len(announced.finished) // announced.planned
                advance(steps=percent - done)
                done = percent
    return False


@contextmanager
def _bar(title: str, show: bool) -> Iterator[Advance]:
    if show:
        with progress(f"{title}, percent", 100) as advance:
            yield advance
    else:
        yield no_progress


def _stop(child: Child) -> None:
    """Interrupt a running child, so that it writes its report; after `PATIENCE` seconds, kill its processes."""
    if child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(PAUSE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    while child.poll() is None:
        time.sleep(PAUSE)


def _run_in_fork(
    arguments: list[str], given: Mapping[str, Any], output: Path, environment: dict[str, str]
) -> NoReturn:
    """Run the suite in this process, which is a fork, and end the process. Only the forking thread exists in a fork."""
    status = 1
    try:
        _leave_the_callers_run(output, environment)
        import pytest

        from tal_conformance.implementations.registry import GIVEN

        GIVEN.update(given)
        if _has_gradients():
            sys.argv = ["pytest", *arguments]
            status = int(pytest.main(arguments))
        else:
            status = CANNOT_FORK
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _leave_the_callers_run(output: Path, environment: dict[str, str]) -> None:
    """Undo the caller's settings in a fork: streams, traces, warning filters, signals, and torch's modes."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    sys.settrace(None)
    threading.settrace(None)
    warnings.resetwarnings()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def _has_gradients() -> bool:
    """Return False if torch refuses to compute gradients in this fork, because GPU threads existed before the fork."""
    import torch

    try:
        torch.ones(1, requires_grad=True).sum().backward()
    except RuntimeError:
        return False
    return True
