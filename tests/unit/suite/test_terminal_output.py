"""In the terminal, a failing run omits only sections of a failure that the report contains."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.common import run_logs as factory

from tal_conformance.core.files import REPOSITORY
from tal_conformance.suite import hooks
from tal_conformance.suite.terminal_output import (
    HIDDEN,
    LOGGED,
    benchmark_lines,
    hidden_reports,
    hidden_sentence,
    pytest_terminal_summary,
    shorten_interrupt,
    shrinking_sentence,
)
from tal_reports import read_log

SUITE = "conformance/suite/test_loss.py::test_loss"


def report(nodeid: str = SUITE, logged: bool = False) -> Any:
    return SimpleNamespace(nodeid=nodeid, **({LOGGED: True} if logged else {}))


def config(**options: Any) -> Any:
    values = {"verbose": 0, "tbstyle": "auto"} | options
    return SimpleNamespace(getoption=values.get, stash=pytest.Stash())


@pytest.mark.parametrize(
    ("options", "argument", "expected"),
    [
        ({}, "conformance", [["conformance: mine"]]),
        ({"verbose": 1}, "conformance", [["plugins: many"], ["conformance: mine"]]),
        ({}, "tests", [["plugins: many"], ["conformance: mine"]]),
    ],
)
def test_the_header_of_a_run_has_its_own_lines_alone(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], argument: str, expected: list[list[str]]
):
    monkeypatch.setattr(hooks, "header_lines", lambda _: ["conformance: mine"])
    given = config(**options)
    given.args, given.invocation_params = [argument], SimpleNamespace(dir=REPOSITORY)
    steps = hooks.pytest_report_header(given)
    next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.send([["plugins: many"]])
    assert ended.value.value == expected


def stats() -> dict[str, list[Any]]:
    return {
        "failed": [report(logged=True), report("tests/test_mine.py::test"), report()],
        "error": [report(logged=True), report("tests/test_mine.py::test_error")],
        "skipped": [report(), report("tests/test_mine.py::test_skipped")],
        "passed": [report()],
    }


def test_only_failures_of_the_log_and_skips_of_the_suite_are_hidden():
    given = stats()
    hidden = hidden_reports(given)
    assert hidden == {
        "failed": given["failed"][:1],
        "error": given["error"][:1],
        "skipped": given["skipped"][:1],
    }


def test_without_a_logged_failure_only_skips_are_hidden():
    skipped = [report(), report()]
    hidden = hidden_reports({"failed": [report()], "skipped": skipped})
    assert hidden == {"failed": [], "error": [], "skipped": skipped}
    assert hidden_sentence(hidden) == "2 tests skipped: -v lists them"
    assert hidden_sentence(hidden_reports({"passed": [report()]})) == ""


def test_hidden_reports_come_back_after_the_summary_even_after_an_error():
    reporter, given = SimpleNamespace(stats=stats()), config()
    before = {name: list(reports) for name, reports in reporter.stats.items()}
    steps = pytest_terminal_summary(reporter, given)
    next(steps)
    assert [len(reporter.stats[name]) for name in ("failed", "error", "skipped", "passed")] == [2, 1, 1, 1]
    assert hidden_sentence(given.stash[HIDDEN]) == (
        "2 tests failed for the causes above, and 1 was skipped: -v lists them"
    )
    with pytest.raises(RuntimeError):
        steps.throw(RuntimeError())
    assert reporter.stats == before


@pytest.mark.parametrize(
    ("divergences", "options", "lines"),
    [([1], {}, 0), ([1], {"verbose": 1}, 3), ([], {}, 3)],
)
def test_the_table_of_times_leaves_the_screen_to_a_failure(
    monkeypatch: pytest.MonkeyPatch, divergences: list[int], options: dict[str, Any], lines: int
):
    monkeypatch.setattr("tal_conformance.suite.terminal_output.table", lambda benchmarks: ["header", "row"])
    log: Any = SimpleNamespace(benchmarks=[{}], divergences=divergences)
    assert len(benchmark_lines(log, config(**options))) == lines
    assert benchmark_lines(SimpleNamespace(benchmarks=[], divergences=divergences), config(**options)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"verbose": 1}, {"tbstyle": "long"}])
def test_with_more_verbosity_nothing_is_hidden(options: dict[str, Any]):
    reporter = SimpleNamespace(stats=stats())
    next(pytest_terminal_summary(reporter, config(**options)))
    assert len(reporter.stats["failed"]) == 3


def test_shrinking_of_all_processes_is_added_up(tmp_path: Path):
    lines = [
        (
            "shrinking",
            {"seconds": 3.4, "budget": 40, "spared": {"an earlier test failed in the same way": 7}},
        ),
        (
            "shrinking",
            {"seconds": 1.0, "budget": 40, "spared": {"an earlier test failed in the same way": 1}},
        ),
    ]
    log = read_log(factory.write(tmp_path / "a", [("run", factory.run_line()), *lines]))
    assert shrinking_sentence(log) == (
        "shrinking: 4 s of 40 s of processor time for an implementation; 8 tests not shrunk, because an earlier test "
        "failed in the same way"
    )
    assert shrinking_sentence(read_log(factory.write(tmp_path / "b", [("run", factory.run_line())]))) == ""


@pytest.mark.parametrize(
    ("message", "options", "expected"),
    [
        ("KeyboardInterrupt", {}, "interrupted"),
        ("KeyboardInterrupt", {"verbose": 1}, "KeyboardInterrupt"),
        (
            "_pytest.outcomes.Exit: pytest.exit() was called",
            {},
            "_pytest.outcomes.Exit: pytest.exit() was called",
        ),
    ],
)
def test_an_interrupt_is_one_line_without_a_place_in_the_code(
    message: str, options: dict[str, Any], expected: str
):
    crash = SimpleNamespace(message=message)
    reporter = SimpleNamespace(_keyboardinterrupt_memo=SimpleNamespace(reprcrash=crash))
    settings = config(**options)
    settings.pluginmanager = SimpleNamespace(get_plugin={"terminalreporter": reporter}.get)
    shorten_interrupt(settings)
    assert crash.message == expected


def test_pytest_stores_an_interrupt_where_it_is_shortened(pytestconfig: pytest.Config):
    assert hasattr(pytestconfig.pluginmanager.get_plugin("terminalreporter"), "_keyboardinterrupt_memo")
