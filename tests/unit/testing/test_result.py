"""`ConformanceResult`: verdict, counts, causes, message, report and HTML picture of a run."""

import re
from pathlib import Path

import pytest
from tests.common.run_logs import batch, divergence, implementation, run_line, write

from tal_conformance.testing.result import ConformanceResult

FAILING = [
    *(("batch", batch(number, "my-assigner")) for number in range(20)),
    ("divergence", divergence()),
    ("divergence", divergence(1, stage="metric", summary="<b>w</b> is 0.3, expected 0.4")),
]


def result_of(folder: Path, lines: list, status: int, limit: float | None = None) -> ConformanceResult:
    run = ("run", run_line([implementation("my-assigner")]))
    write(folder, [run, *lines, ("end", {"exit": status})])
    return ConformanceResult(folder, status, limit)


@pytest.fixture
def failing(tmp_path: Path) -> ConformanceResult:
    return result_of(tmp_path / "runs" / "1", FAILING, 1)


@pytest.fixture
def passing(tmp_path: Path) -> ConformanceResult:
    return result_of(tmp_path / "runs" / "1", FAILING[:-2], 0)


def test_a_passing_run(passing: ConformanceResult):
    assert passing.conforms
    assert passing.verdict == "conforms"
    assert passing.causes == ()
    assert sum(passing.counts.values()) == 20
    assert "my-assigner conforms" in passing.message
    assert "repeat:" not in passing.message


def test_a_failing_run(failing: ConformanceResult):
    assert not failing.conforms
    assert failing.verdict == "divergent"
    assert {cause.stage for cause in failing.causes} == {"conflict", "metric"}
    cause = next(cause for cause in failing.causes if cause.stage == "conflict")
    assert (cause.verdict, cause.clause, cause.case) == ("divergent", "TAL-CONF-1", "0000c0ffee00")
    assert cause.repeat["python"].startswith("from conformance import check")


def test_the_message_has_headline_causes_repeat_commands_and_report(failing: ConformanceResult):
    message = failing.message
    assert message.startswith("my-assigner diverges")
    assert "an anchor goes to a ground truth that it does not overlap most" in message
    assert (
        "pytest conformance --implementation my.py:A --case runs/1/cases/0000c0ffee00.safetensors" in message
    )
    assert re.search(r"^(report|run): .*runs/1", message, re.MULTILINE)


def test_the_message_says_that_the_time_limit_ended_the_run(tmp_path: Path):
    stopped = result_of(tmp_path / "runs" / "1", FAILING[:5], 2, limit=1.5)
    assert "The run was stopped after its time limit of 1.5 s." in stopped.message
    assert not stopped.conforms


def test_the_report_is_rendered_and_copied(failing: ConformanceResult, tmp_path: Path):
    assert failing.report() == failing.folder / "report.html"
    assert failing.report(tmp_path / "a" / "mine.html").read_bytes() == failing.report().read_bytes()
    assert failing.report(tmp_path) == tmp_path / "report.html"


def test_a_notebook_shows_the_picture_of_the_worst_failure(failing: ConformanceResult):
    frame = failing._repr_html_()
    assert frame.startswith("<iframe sandbox ")
    assert "&lt;svg role=" in frame
    assert "my-assigner diverges" in frame
    assert "<script" not in frame


def test_text_of_the_log_cannot_leave_the_frame(failing: ConformanceResult):
    frame = failing._repr_html_()
    document = re.fullmatch(r'<iframe [^>]*srcdoc="([^"]*)"></iframe>', frame)
    assert document is not None
    assert "<" not in document.group(1)
    assert "&amp;lt;b&amp;gt;w" in document.group(1)


def test_a_notebook_shows_a_passing_run_without_cards(passing: ConformanceResult):
    frame = passing._repr_html_()
    assert "my-assigner conforms" in frame
    assert "&lt;details" not in frame
