"""A process that only waits for a processor is not overdue; one that does not end is killed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tal_conformance.core import supervision
from tal_conformance.core.supervision import Marks, Page, seconds_without_processor, watch

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="runs are supervised on Linux only"
)


@pytest.fixture
def crowded() -> Iterator[tuple[subprocess.Popen[bytes], ...]]:
    """Yield two processes that compute without end on the same processor."""
    processor = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"
    processes = tuple(subprocess.Popen([sys.executable, "-c", code]) for _ in range(2))
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="the kernel does not count waiting")  # noqa: PTH110
def test_waiting_for_a_processor_is_counted(crowded: tuple[subprocess.Popen[bytes], ...]):
    deadline = time.monotonic() + 20
    while min(seconds_without_processor(process.pid) for process in crowded) < 0.05:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sleeping_is_not_counted():
    before = seconds_without_processor(os.getpid())
    began = time.monotonic()
    time.sleep(0.3)
    assert seconds_without_processor(os.getpid()) - before < (time.monotonic() - began) / 2


def test_a_process_that_has_ended_has_waited_for_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert seconds_without_processor(process.pid) == 0


@pytest.mark.parametrize(("waits", "status"), [(False, 1), (True, 0)])
def test_only_a_process_that_could_have_ended_is_killed(
    waits: bool, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """After its work, the process sleeps for longer than it may; all of that time counts, or is said to be waiting."""
    monkeypatch.setattr(supervision, "GRACE", 0.2)
    monkeypatch.setattr(supervision, "end_children", lambda: None)  # other tests' processes
    if waits:
        monkeypatch.setattr(supervision, "seconds_without_processor", lambda pid: time.monotonic())
    page = Page()
    page.write(Marks(finished=True))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"])
    assert watch(process.pid, page, lambda marks, how: pytest.fail(how)) == status
    assert ("did not end within" in capfd.readouterr().err) == (not waits)
