"""While tests run, the terminal has each implementation's first failure and the time left."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from tal_conformance.core.waiting import report_waiting
from tal_conformance.suite import running_messages
from tal_conformance.suite.progress import ATTRIBUTE
from tal_conformance.suite.running_messages import CONTINUES, RunningMessages
from tal_conformance.suite.terminal_output import LOGGED

FAILURE = (
    "mine on cpu is DIVERGENT at stage top-k (TAL-TOPK-1): an anchor is not selected\n  batch 1a2b: one GT"
)


class Announced:
    subject = SimpleNamespace(implementation=SimpleNamespace(name="mine"))

    def __str__(self) -> str:
        return FAILURE


class Terminal:
    """A terminal reporter and a clock, without pytest."""

    isatty = True

    def __init__(self, verbose: int = 0, column: int = 0) -> None:
        self.lines: list[str] = []
        self.seconds = 0.0
        writer = SimpleNamespace(width_of_current_line=column)
        config: Any = SimpleNamespace(
            getoption={"verbose": verbose}.get,
            get_terminal_writer=lambda: writer,
            pluginmanager=SimpleNamespace(get_plugin={"terminalreporter": self}.get),
        )
        self.messages = RunningMessages(config, lambda: self.seconds)

    def write_line(self, text: str) -> None:
        self.lines.append(text)

    def collect(self, tests: int) -> None:
        session: Any = SimpleNamespace(items=[None] * tests)
        self.messages.pytest_collection_finish(session)

    def fail(self, name: str, logged: bool = True) -> None:
        report: Any = SimpleNamespace(
            longrepr=FAILURE, when="call", nodeid="", **{ATTRIBUTE: name, LOGGED: logged}
        )
        self.messages.pytest_runtest_logreport(report)

    def end_test(self, seconds: float) -> None:
        self.seconds += seconds
        report: Any = SimpleNamespace(when="teardown", nodeid="suite.py::test_ended")
        self.messages.pytest_runtest_logreport(report)


def test_the_first_failure_of_each_implementation_is_printed_at_once():
    terminal = Terminal()
    terminal.collect(9)
    for name in ("mine", "mine", "other"):
        terminal.fail(name)
    assert terminal.lines == [FAILURE.splitlines()[0], CONTINUES, FAILURE.splitlines()[0]]


def test_a_failure_is_announced_once_and_before_its_test_ends():
    terminal = Terminal()
    failure: Any = Announced()
    terminal.messages.announce(failure)
    assert terminal.lines == [FAILURE.splitlines()[0], CONTINUES]
    terminal.fail("mine")
    assert len(terminal.lines) == 2


def test_a_message_begins_on_a_line_of_its_own():
    terminal = Terminal(column=7)
    terminal.fail("mine")
    assert terminal.lines[:2] == ["", FAILURE.splitlines()[0]]


@pytest.mark.parametrize(("verbose", "logged"), [(-1, True), (0, False)])
def test_no_failure_is_printed_with_q_and_none_that_the_log_lacks(verbose: int, logged: bool):
    terminal = Terminal(verbose)
    terminal.fail("mine", logged)
    assert terminal.lines == []


def test_the_time_left_is_printed_after_half_a_minute_and_not_after_the_last_test():
    terminal = Terminal()
    terminal.collect(10)
    for _ in range(10):
        terminal.end_test(10)
    assert terminal.lines == [
        "conformance: 3 of 10 tests, about 0:01:10 left",
        "conformance: 6 of 10 tests, about 0:00:40 left",
        "conformance: 9 of 10 tests, about 0:00:10 left",
    ]


def test_a_file_gets_fewer_lines_than_a_terminal():
    terminal = Terminal()
    terminal.isatty = False
    terminal.collect(40)
    for _ in range(40):
        terminal.end_test(10)
    assert [line.split(",")[0] for line in terminal.lines] == [
        f"conformance: {finished} of 40 tests" for finished in (12, 24, 36)
    ]


def test_long_runs_print_few_lines():
    terminal = Terminal()
    terminal.messages.pytest_xdist_node_collection_finished(None, ["test"] * 7200)
    for _ in range(7200):
        terminal.end_test(1)
    assert 20 < len(terminal.lines) < 80


def test_a_long_test_is_named_while_it_runs():
    terminal = Terminal()
    terminal.collect(10)
    terminal.end_test(20)
    terminal.messages.pytest_runtest_logstart("suite.py::test_every_image[mine]")
    for _ in range(9):
        terminal.seconds += 5
        terminal.messages.print_running()
    assert terminal.lines == [
        "conformance: 1 of 10 tests, about 0:04:30 left",
        "conformance: 1 of 10 tests, about 0:09:00 left; test_every_image[mine] has run for 0:00:40",
    ]


def test_a_slow_worker_is_named():
    terminal = Terminal()
    terminal.collect(3)
    terminal.messages.pytest_runtest_logstart("suite.py::test_loss")
    terminal.seconds += 31
    report_waiting("the worker of mine has been computing for 31 s (killed after 120 s)")
    terminal.messages.pytest_unconfigure()
    terminal.seconds += 31
    report_waiting("after the end of the run")
    (line,) = terminal.lines
    assert line.startswith(
        "conformance: 0 of 3 tests; test_loss has run for 0:00:31; the worker of mine has been"
    )


def test_the_controller_of_xdist_names_a_long_test_without_any_report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running_messages, "SECONDS_BETWEEN_LOOKS", 0.01)
    terminal = Terminal()
    terminal.messages.pytest_xdist_node_collection_finished(None, ["test"] * 4)
    terminal.messages.pytest_runtest_logstart("suite.py::test_training")
    terminal.seconds += 60
    for _ in range(200):
        if terminal.lines:
            break
        time.sleep(0.01)
    terminal.messages.pytest_unconfigure()
    assert terminal.lines == ["conformance: 0 of 4 tests; test_training has run for 0:01:00"]
