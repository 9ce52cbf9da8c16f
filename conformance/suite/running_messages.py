"""Messages while the tests run: the first failure of each implementation, the time left, and what takes long.

The first failure is printed before its batch is shrunk, which takes seconds. With pytest-xdist, the controller prints
it after shrinking, because its workers have no terminal. The causes of all failures follow at the end of the run.

A test that takes long is named with its time, also while it runs: after a batch, while a worker process computes, and
with pytest-xdist by a thread of the controller, which runs no tests itself.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest

from tal_conformance.core.waiting import add_listener
from tal_conformance.judgement.failure import Failure
from tal_conformance.suite.progress import ATTRIBUTE
from tal_conformance.suite.terminal_output import LOGGED
from tal_text import encodable, visible

SECONDS_BETWEEN_LINES = 30.0
"""Minimum time in seconds between two lines with the time left."""
SECONDS_WITHOUT_TERMINAL = 120.0
"""Minimum time in seconds between two lines if the output is a file or a pipe, which keeps all lines."""
LINES_PER_RUN_SO_FAR = 10
"""The time between two lines is also at least this fraction of the time so far, so that long runs print few lines."""
SECONDS_BETWEEN_LOOKS = 5.0
"""Time between two looks of the controller of pytest-xdist at the running tests."""
CONTINUES = "  The tests continue. The smallest batches and the causes follow at the end."


class RunningMessages:
    """A pytest plugin that prints messages between the characters of pytest's progress.

    Attributes:
        NAME: name of the registered plugin.
        planned: number of selected tests.
        finished: number of finished tests.
        failed: names of the implementations whose first failure was printed.
        running: time at which each running test began, by its node id.
    """

    NAME = "tal-conformance-running-messages"

    def __init__(self, config: pytest.Config, now: Callable[[], float] = time.monotonic) -> None:
        self.config, self.now = config, now
        self.planned = self.finished = 0
        self.failed: set[str] = set()
        self.running: dict[str, float] = {}
        self._forget = add_listener(self.print_running)
        self._ended = threading.Event()
        self.began = self.last_line = now()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the selected tests."""
        self._begin(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Count the selected tests in the controller of pytest-xdist; every worker collects the same tests."""
        if not self.planned:
            threading.Thread(target=self._watch, daemon=True).start()
        self._begin(len(ids))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note when a test began; pytest-xdist's controller is told by its workers."""
        self.running[nodeid] = self.now()

    def pytest_unconfigure(self) -> None:
        """Stop to listen and to watch."""
        self._forget()
        self._ended.set()

    def print_running(self, detail: str = "") -> None:
        """Print the longest running test and its time, unless a line was printed lately.

        Args:
            detail: what the test is waiting for, as a sentence.
        """
        if self.running and self._is_due():
            self._print(f"{self._progress()}{f'; {detail}' if detail else ''}")

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LOOKS):
            self.print_running()

    def announce(self, failure: Failure) -> None:
        """Print an implementation's first failure while its test is still running."""
        self._print_failure(failure.subject.implementation.name, str(failure))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print an implementation's first failure unless it was announced, and from time to time the time left."""
        name = getattr(report, ATTRIBUTE, None)
        if getattr(report, LOGGED, False) and name is not None:
            self._print_failure(name, str(report.longrepr))
        if report.when == "teardown":
            self.finished += 1
            self.running.pop(report.nodeid, None)
            if self.finished < self.planned and self._is_due():
                self._print(self._progress())

    def _print_failure(self, name: str, text: str) -> None:
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if name not in self.failed and reporter is not None:
            first = not self.failed
            self.failed.add(name)
            self._print(text.splitlines()[0], *([CONTINUES] if first else []))

    def _begin(self, planned: int) -> None:
        self.planned = planned
        self.began = self.last_line = self.now()

    def _is_due(self) -> bool:
        """Return True, and start the pause until the next line, if the last line was printed long ago."""
        now = self.now()
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        pause = SECONDS_BETWEEN_LINES if getattr(reporter, "isatty", True) else SECONDS_WITHOUT_TERMINAL
        if now - self.last_line < max(pause, (now - self.began) / LINES_PER_RUN_SO_FAR):
            return False
        self.last_line = now
        return True

    def _progress(self) -> str:
        """Return the number of finished tests, the time left, and the longest running test if it takes long."""
        now = self.now()
        text = f"conformance: {self.finished} of {self.planned} tests"
        if self.finished:
            seconds = (now - self.began) / self.finished * (self.planned - self.finished)
            text += f", about {timedelta(seconds=round(seconds))} left"
        nodeid, began = min(self.running.items(), key=lambda pair: pair[1], default=("", now))
        if now - began >= SECONDS_BETWEEN_LINES:
            text += f"; {nodeid.rpartition('::')[2]} has run for {timedelta(seconds=round(now - began))}"
        return text

    def _print(self, *lines: str) -> None:
        """Print lines of text, on lines of their own; nothing with -q or in a worker of pytest-xdist."""
        plugins = self.config.pluginmanager
        reporter: Any = plugins.get_plugin("terminalreporter")
        capture: Any = plugins.get_plugin("capturemanager")
        if reporter is None or self.config.getoption("verbose") < 0:
            return
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            if self.config.get_terminal_writer().width_of_current_line:
                reporter.write_line("")
            for line in lines:
                reporter.write_line(encodable(visible(line)))
