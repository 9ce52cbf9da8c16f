"""While tests run, the terminal has each implementation's first failure and the time left."""

from types import SimpleNamespace
from typing import Any

import pytest

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
        report: Any = SimpleNamespace(longrepr=FAILURE, when="call", **{ATTRIBUTE: name, LOGGED: logged})
        self.messages.pytest_runtest_logreport(report)

    def end_test(self, seconds: float) -> None:
        self.seconds += seconds
        report: Any = SimpleNamespace(when="teardown")
        self.messages.pytest_runtest_logreport(report)


def test_the_first_failure_of_each_implementation_is_printed_at_once():
    terminal = Terminal()
    terminal.collect(9)
    for name in ("mine", "mine", "other"):
        terminal.fail(name)
    assert terminal.lines == [FAILURE.splitlines()[0], CONTINUES] * 2


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


def test_long_runs_print_few_lines():
    terminal = Terminal()
    terminal.messages.pytest_xdist_node_collection_finished(None, ["test"] * 7200)
    for _ in range(7200):
        terminal.end_test(1)
    assert 20 < len(terminal.lines) < 80
