"""The output of a failing run on one screen: the causes, instead of a section for every failing test.

pytest prints a section and a line for each failing test, and a line for each skipped test. If fifty tests fail for one
cause, this output hides the cause. The failures are in the report; with -v they are printed in the terminal too.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tal_conformance.benchmarks.table import table
from tal_conformance.core.files import REPOSITORY
from tal_reports import Log

LOGGED = "tal_logged"
"""Attribute of a pytest report whose failure is in the run log; pytest-xdist sends it to the controller."""
MISTAKES = pytest.StashKey[str]()
"""Message of the failure of a test whose results have formal mistakes, which are in the run log."""
HIDDEN = pytest.StashKey[dict[str, list[Any]]]()
OF_SUITE = "conformance/suite/", "tal_conformance/suite/"
"""Parts of the node ids of the suite's tests."""


def is_brief(config: pytest.Config) -> bool:
    """Return True unless -v or an option for the style of tracebacks (--tb) requests pytest's full output."""
    return bool(config.getoption("verbose") <= 0 and config.getoption("tbstyle") == "auto")


def hide_paths(config: pytest.Config) -> None:
    """Print the progress of tests without a line for each file, if only tests of the suite are selected."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and selects_suite_alone(config) and config.getoption("verbose") == 0:
        reporter.showfspath = False


def shorten_interrupt(config: pytest.Config) -> None:
    """Print a Ctrl-C as one line without its place in the code, which is arbitrary; with -v as pytest does.

    pytest adds the place and a hint to a message that contains the word KeyboardInterrupt.
    """
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    crash = getattr(getattr(reporter, "_keyboardinterrupt_memo", None), "reprcrash", None)
    if crash is not None and crash.message == KeyboardInterrupt.__name__ and is_brief(config):
        crash.message = "interrupted"


def selects_suite_alone(config: pytest.Config) -> bool:
    """Return True if pytest's arguments select tests of the suite only."""
    return all(_is_of_suite(argument, config) for argument in config.args)


def end_progress(config: pytest.Config) -> None:
    """End the line with the progress of the tests, before other lines are printed."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line("")


def _is_of_suite(argument: str, config: pytest.Config) -> bool:
    name = argument.partition("::")[0]
    if config.getoption("pyargs") and name.partition(".")[0] == "tal_conformance":
        return True
    path = config.invocation_params.dir / name
    return (REPOSITORY / "conformance").resolve() in (path.resolve(), *path.resolve().parents)


def hidden_reports(stats: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the reports that are not printed, by outcome: of failures in the run log, and of skipped tests.

    A test whose results have formal mistakes fails after it has ended, which pytest counts as an error.
    """
    failed, errors = (
        [report for report in stats.get(outcome, ()) if getattr(report, LOGGED, False)]
        for outcome in ("failed", "error")
    )
    skipped = [report for report in stats.get("skipped", ()) if _is_skipped_test(report)]
    return {"failed": failed, "error": errors, "skipped": skipped}


def _is_skipped_test(report: Any) -> bool:
    return any(part in getattr(report, "nodeid", "") for part in OF_SUITE)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    """Print pytest's summary without the failing and skipped tests that `hidden_reports` returns."""
    hidden = hidden_reports(terminalreporter.stats) if is_brief(config) else {}
    config.stash[HIDDEN] = hidden
    whole = {name: terminalreporter.stats.get(name, []) for name in hidden}
    for name, reports in hidden.items():
        terminalreporter.stats[name] = [report for report in whole[name] if report not in reports]
    try:
        return (yield)
    finally:
        terminalreporter.stats.update(whole)  # pytest counts them in its last line


def hidden_sentence(hidden: dict[str, list[Any]]) -> str:
    """Return a sentence with the numbers of failed and skipped tests that are not printed; "" if there are none."""
    failed, errors, skipped = (len(hidden.get(name, ())) for name in ("failed", "error", "skipped"))
    failed += errors
    if not failed:
        return f"{_tests(skipped)} skipped: -v lists them" if skipped else ""
    skips = f", and {skipped} {'was' if skipped == 1 else 'were'} skipped" if skipped else ""
    return f"{_tests(failed)} failed for the causes above{skips}: -v lists them"


def benchmark_lines(log: Log, config: pytest.Config) -> list[str]:
    """Return the table of times; no lines where failures need the screen."""
    return [*table(log.benchmarks), ""] if log.benchmarks and not needs_screen(log, config) else []


def needs_screen(log: Log, config: pytest.Config) -> bool:
    """Return True if failures need the screen: less important results are then in the report alone, without -v."""
    return bool(log.divergences) and is_brief(config)


def shrinking_sentence(log: Log) -> str:
    """Return the time spent on shrinking, and the number of tests not shrunk by reason; "" if no test failed."""
    lines = log.shrinking
    if not lines:
        return ""
    spent, budget = sum(line["seconds"] for line in lines), max(line["budget"] for line in lines)
    text = f"shrinking: {spent:.0f} s of {budget:g} s of processor time for an implementation"
    spared: dict[str, int] = {}
    for line in lines:
        for reason, tests in line["spared"].items():
            spared[reason] = spared.get(reason, 0) + tests
    parts = [f"{_tests(tests)} not shrunk, because {reason}" for reason, tests in spared.items()]
    return "; ".join([text, *parts])


def _tests(number: int) -> str:
    return "1 test" if number == 1 else f"{number:,} tests"
