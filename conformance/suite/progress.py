"""Count planned and finished tests, so that an incomplete run is recognised.

Ctrl-C, `-x`, a worker process that dies and an internal error of pytest all end a run before its planned tests have
finished. The counts go into the run log, where summary, table and report find them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tal_conformance.suite.run_log import RunLogWriter
from tal_reports import Log

ATTRIBUTE = "tal_implementation"
"""Attribute of a pytest report that names the implementation of the test; pytest-xdist sends it to the controller."""


@dataclass
class TestProgress:
    """A pytest plugin that counts planned and finished tests, by implementation.

    With pytest-xdist, workers log the number of planned tests, and the controller counts the finished tests.

    Attributes:
        recorder: writes the run log.
        finished: name of the tested implementation, by pytest's node id of every finished test; None for a
            test that does not concern a single implementation.
    """

    __test__ = False

    recorder: RunLogWriter
    finished: dict[str, str | None] = field(default_factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Log the number of selected tests. pytest-xdist does not call this hook in its controller."""
        planned = Counter(implementation_of(item) for item in session.items)
        try:
            self._log(planned, finished=None)
        except OSError:
            session.shouldstop = f"the run's log cannot be written: {self.recorder.lost}"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Attach the name of the tested implementation to every report of pytest."""
        report = yield
        setattr(report, ATTRIBUTE, implementation_of(item))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test as finished after its teardown, which pytest does not report after a crash."""
        if report.when == "teardown":
            self.finished[report.nodeid] = getattr(report, ATTRIBUTE, None)

    def end(self, log: Log) -> bool:
        """Log the number of finished tests, and return True if all planned tests finished.

        Args:
            log: content of the run's log, with the numbers of planned tests.

        Raises:
            OSError: the log could not be written.
        """
        planned = Counter({name: tests.planned for name, tests in log.tests.items()})
        finished = Counter(self.finished.values())
        self._log(planned, finished)
        return len(self.finished) >= planned.total() and all(
            finished[name] >= count for name, count in planned.items()
        )

    def _log(self, planned: Mapping[str | None, int], finished: Mapping[str | None, int] | None) -> None:
        for name, count in planned.items():
            done = None if finished is None else finished.get(name, 0)
            self.recorder.line("tests", implementation=name, planned=count, finished=done)


def implementation_of(item: pytest.Item) -> str | None:
    """Return the name of the implementation that a test judges; None if it judges none or several."""
    callspec = getattr(item, "callspec", None)
    subject = None if callspec is None else callspec.params.get("subject")
    name: str | None = None if subject is None else subject.implementation.name
    return name


def nothing_judged(log: Log, or_only_rejected: bool = False) -> bool:
    """Return True if a run judged no batch, compared no training, and measured no benchmark.

    Args:
        log: the log of the run.
        or_only_rejected: count batches on which an implementation must raise as not judged.
    """
    lines: Iterable[list[dict[str, Any]]] = (
        log.divergences, log.training, log.scopes, log.findings, log.benchmarks, log.differences, log.synchronisations,
    )  # fmt: skip
    verdicts = log.batches.verdicts()
    if or_only_rejected:
        del verdicts["rejected"]
    del verdicts["not_supported"]
    return not verdicts.total() and not any(lines)
