"""Supervise this process, so that code under test cannot end it unnoticed (Linux only).

The process forks before it imports any implementation. The copy does the work; the original only waits for
the copy to end. The two share one page of memory. The copy writes into the page which implementation it is
calling and, at its very end, the exit status of the work. If the copy ends without having written the exit status of
the work, for example by `os._exit(0)`, the exit status of its process is meaningless: the original names the
implementation and exits with another status. The original also kills the copy if it does not end after its work
(because of threads), and kills remaining processes, daemons included, because orphans become children of the original.
"""

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tal_conformance.core.processes import PATIENCE, PAUSE, children, descendants, kill
from tal_text import warn

GRACE = 20.0
"""Seconds that the process may take to end after its work, before it is killed.

Seconds in which it waits for a processor do not count: on a busy machine a process may take minutes to end.
"""
UNFINISHED = 1
"""Exit status if the process ended with status 0 before the end of the work, because of an implementation."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are forwarded to the copy. Signals of a terminal reach both processes anyway."""
HEAD = struct.Struct("<iiHHH")
"""Layout of the start of the page: 1 at the end of the work, its exit status, and the lengths of the three texts."""
LONGEST = 1000
"""Largest number of bytes of each of these texts."""
TAIL = struct.Struct("<III")
"""Layout of the end of the page: number of the process's last question about SIGINT, number of the last question that
the supervisor answered, and 1 once the supervisor has received SIGINT."""
SETTLED, ANSWERED = 0.02, 5.0
"""Seconds before a question, in which a signal reaches all processes of a terminal; seconds to wait for its answer."""
FROM_A_PROCESS = 0
"""Code of a signal that a process sent with `kill`; the terminal's signals have another code."""


@dataclass(frozen=True)
class Marks:
    """The state that a supervised process writes for its supervisor into a memory page that both share.

    Attributes:
        finished: True once the work has ended.
        status: exit status of the work.
        call: name of the implementation whose code runs; "" if no such code runs.
        folder: folder of the test run; "" if there is none.
        reason: why the process ended itself before the end of the work; "" if it did not.
    """

    finished: bool = False
    status: int = 0
    call: str = ""
    folder: str = ""
    reason: str = ""


class Page:
    """A page of memory that a supervisor shares with the supervised process, its fork."""

    def __init__(self) -> None:
        self._tail = HEAD.size + 3 * LONGEST
        self._memory = mmap.mmap(-1, self._tail + TAIL.size)
        self._marks = Marks()

    def write(self, marks: Marks) -> None:
        """Replace the marks in the page. The lengths of the texts are written last."""
        texts = [
            text.encode("utf-8", "surrogatepass")[:LONGEST]
            for text in (marks.call, marks.folder, marks.reason)
        ]
        self._memory[HEAD.size : self._tail] = b"".join(text.ljust(LONGEST, b"\0") for text in texts)
        self._memory[: HEAD.size] = HEAD.pack(marks.finished, marks.status, *map(len, texts))

    @property
    def questions(self) -> tuple[int, int, int]:
        """The three numbers that `TAIL` describes."""
        asked, answered, received = TAIL.unpack_from(self._memory, self._tail)
        return asked, answered, received

    def set_question(self, place: int, number: int) -> None:
        """Replace one of the three numbers, each of which only one of the two processes writes."""
        struct.pack_into("<I", self._memory, self._tail + 4 * place, number)

    def read(self) -> Marks:
        """Return the marks that the page contains."""
        finished, status, *lengths = HEAD.unpack(self._memory[: HEAD.size])
        call, folder, reason = (
            self._memory[start : start + min(length, LONGEST)]
            for start, length in zip(range(HEAD.size, HEAD.size + 3 * LONGEST, LONGEST), lengths, strict=True)
        )
        return Marks(
            bool(finished),
            status,
            call.decode(errors="replace"),
            _decoded(folder),
            reason.decode(errors="replace"),
        )


def _decoded(path: bytes) -> str:
    """Return a path of the page as text; "" if the path was too long for the page."""
    try:
        return path.decode("utf-8", "surrogatepass") if len(path) < LONGEST else ""
    except UnicodeDecodeError:
        return ""


class Damaged(Exception):
    """Error: a call damaged this process, so that the work cannot go on."""


class Supervised:
    """Writes messages (`Marks`) of this process to its supervisor; without a supervisor nobody reads them."""

    def __init__(self) -> None:
        self._page: Page | None = None
        self._supervisor = 0
        self._marks = Marks()

    @property
    def active(self) -> bool:
        """True if this process has a supervisor."""
        return self._page is not None

    def begin(self, page: Page) -> None:
        """From now on, write all marks into the page that this process shares with its supervisor."""
        self._page, self._supervisor = page, os.getppid()

    @contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """Tell the supervisor, while the block runs, that code of the implementation `name` runs."""
        if self._page is None:
            yield
            return
        before = self._marks
        self._set(Marks(call=name, folder=before.folder))
        try:
            yield
        finally:
            self._set(before)

    def run_folder(self, folder: Path) -> None:
        """Tell the supervisor the folder of the test run."""
        self._set(Marks(folder=str(folder)))

    def finish(self, status: int) -> None:
        """Tell the supervisor that the work of this process has ended, and the work's exit status."""
        self._set(Marks(True, status, folder=self._marks.folder))

    def abort(self, reason: str) -> None:
        """End this process at once, because the call that runs damaged it.

        Without a supervisor, an exception is raised instead: the process may belong to somebody else.

        Raises:
            Damaged: this process has no supervisor.
        """
        if self._page is None:
            raise Damaged(reason)
        self._set(replace(self._marks, reason=reason))
        os._exit(UNFINISHED)

    def user_interrupted(self) -> bool | None:
        """Return True if the supervisor received SIGINT too, False if it did not, None if that is unknown.

        A terminal sends Ctrl-C to both processes, and the supervisor forwards the signal of another program. A signal
        that code of this process sends reaches this process only.
        """
        in_a_fork = os.getppid() != self._supervisor
        if self._page is None or in_a_fork:
            return None
        time.sleep(SETTLED)
        number = self._page.questions[0] + 1
        self._page.set_question(0, number)
        deadline = time.monotonic() + ANSWERED
        while self._page.questions[1] != number:
            if time.monotonic() > deadline:
                return None
            os.kill(self._supervisor, signal.SIGCHLD)  # wakes the supervisor
            time.sleep(SETTLED / 4)
        return self._page.questions[2] > 0

    def _set(self, marks: Marks) -> None:
        self._marks = marks
        if self._page is not None:
            self._page.write(marks)


supervised = Supervised()
"""Marks of this process."""


def supervise(conclude: Callable[[Marks, str], None]) -> bool:
    """Fork, and return in the copy. The original waits for the end of the copy, and exits with its exit status.

    Args:
        conclude: called in the original process if the copy ended before the end of its work, with the copy's last
            marks and a sentence that describes how the copy ended.

    Returns:
        False if this process cannot be supervised: not on Linux, with other threads, or with CUDA in use.
    """
    if not sys.platform.startswith("linux") or threading.active_count() > 1 or _cuda_in_use():
        return False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    page, original = Page(), os.getpid()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (*FORWARDED, signal.SIGCHLD))
    copy = os.fork()
    if copy:
        _set_for_process(PR_SET_CHILD_SUBREAPER, 1)
        _end_as(watch(copy, page, conclude))
    _set_for_process(PR_SET_PDEATHSIG, signal.SIGKILL)
    _set_for_process(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != original:
        os._exit(UNFINISHED)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    supervised.begin(page)
    return True


def _cuda_in_use() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _set_for_process(option: int, value: int) -> None:
    """Set an option of this process with the system call prctl(2)."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def watch(pid: int, page: Page, conclude: Callable[[Marks, str], None]) -> int:
    """Wait for a child process to end, and return the exit status with which this process must end.

    A negative status is the number of a signal. `page` holds the child's marks; `supervise` describes `conclude`.
    """
    exit_code, overdue, received = _wait(pid, page)
    left = [child for child in children() if child != pid]
    marks = page.read()
    end_children()
    if overdue:
        warn(
            f"the work ended with status {marks.status}, but its process did not end within {GRACE:g} s (threads or "
            "processes that an implementation left behind) and was killed"
        )
        return marks.status or UNFINISHED
    if not marks.finished:
        if -exit_code in received:  # the user or the system ended the run, not the implementation
            marks = Marks(folder=marks.folder)
        conclude(marks, marks.reason or f"its process {_how(exit_code)} before the work had ended")
        return exit_code or UNFINISHED
    if left:
        warn(f"killed {len(left)} processes that were left behind")
    return marks.status or exit_code


def _wait(pid: int, page: Page) -> tuple[int, bool, set[int]]:
    """Wait for the end of a child, forward signals to it, and reap orphans.

    Returns:
        The exit code, negative for a signal; True if the child was killed because it did not end after its work; and
        the numbers of the signals that this process received meanwhile.
    """
    received: set[int] = set()
    finished_at: float | None = None
    overdue, waited = False, 0.0
    while True:
        question = page.questions[0]
        information = signal.sigtimedwait((*FORWARDED, signal.SIGCHLD), 0.5)
        if information is not None and information.si_signo != signal.SIGCHLD:
            if information.si_code == FROM_A_PROCESS and information.si_pid in {pid} | descendants(pid):
                continue  # code of the run itself pretends to be the user
            received.add(information.si_signo)
            if information.si_signo == signal.SIGINT:
                page.set_question(2, 1)
            if information.si_code == FROM_A_PROCESS:
                os.kill(pid, information.si_signo)
            continue
        # no SIGINT was waiting: the system delivers signals with lower numbers first
        page.set_question(1, question)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == pid:
                    return os.waitstatus_to_exitcode(ended[1]), overdue, received
        waited = max(waited, seconds_without_processor(pid))
        clock = time.monotonic() - waited
        if finished_at is None and page.read().finished:
            finished_at = clock
        if finished_at is not None and not overdue and clock - finished_at > GRACE:
            overdue = True
            os.kill(pid, signal.SIGKILL)


def seconds_without_processor(pid: int) -> float:
    """Return the seconds in which a process could have run, but waited for a processor; 0 if they are not known.

    Linux counts them in the second number of `schedstat`, in nanoseconds.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # the process has ended, or the kernel does not count
        return 0.0


def end_children() -> None:
    """Give all children of this process a short time to end, then kill them and their orphans, repeatedly."""
    deadline = time.monotonic() + PATIENCE
    while children() and time.monotonic() < deadline:
        time.sleep(PAUSE)
    for _ in range(100):  # the orphans of a killed process become children of this one
        left = children()
        kill(left)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            return
        time.sleep(PAUSE / 5)


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit status {exit_code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by signal {-exit_code} ({names.get(-exit_code, 'real-time')})"


def _end_as(status: int) -> None:
    """End this process at once with an exit status, or by a signal if the status is negative."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (-status,))
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 128 - status)
