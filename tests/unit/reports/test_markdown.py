"""Markdown for the summary page of a CI job, and for an issue about new causes of failures."""

from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory
from tests.common.run_logs import HOSTILE, divergence, implementation, run_line, write

from tal_reports import read_log
from tal_reports.__main__ import main
from tal_reports.analysis.compare import compare
from tal_reports.analysis.history import entry_of
from tal_reports.analysis.summary import summarise
from tal_reports.markdown import issue, job_summary


def change(before: Any, after: Any):
    logs = [read_log(folder) for folder in (before, after)]
    return compare(*(entry_of(log, summarise(log)) for log in logs))


def mine(*causes: Any):
    return [
        ("run", run_line([implementation("my-assigner")])),
        ("batch", factory.batch(5, "my-assigner")),
        *(("divergence", cause) for cause in causes),
        ("end", {"exit": int(bool(causes))}),
    ]


def test_a_passing_run(run_dir: Path):
    text = job_summary(read_log(write(run_dir, factory.passing())))
    assert text.startswith("## ultralytics and article conform\n")
    assert "| ultralytics | 8.4.190 | ultralytics-8.4.190 | 45 |" in text
    assert "Disagreements" not in text
    assert "cuda: no such device" in text


def test_a_failing_run(run_dir: Path):
    text = job_summary(read_log(write(run_dir, factory.failing(40))))
    assert "**diverges**" in text
    assert "- **my-assigner** at **" in text
    assert "more" in text.split("### Disagreements")[1]
    assert len(text) < 20_000


def test_the_change_since_the_last_run(tmp_path: Path):
    a, b = write(tmp_path / "a", mine()), write(tmp_path / "b", mine(divergence(0)))
    assert "**Since run `a`**: 1 new." in job_summary(read_log(b), change(a, b))


def test_an_issue(tmp_path: Path):
    a, b = write(tmp_path / "a", mine()), write(tmp_path / "b", mine(divergence(0)))
    text = issue(change(a, b))
    assert text.startswith("my-assigner: 1 new divergence\n")
    assert "### my-assigner at conflict (TAL-CONF-1)" in text
    assert "    pytest conformance --implementation my.py:A --case" in text
    assert issue(change(b, b)) == ""


@pytest.mark.parametrize(
    "bad", [HOSTILE.replace("\ud800", ""), "@everyone https://example.org <img> | a\n# b `x`"]
)
def test_text_of_an_implementation_is_escaped(tmp_path: Path, bad: str):
    a = write(tmp_path / "a", [("run", run_line([implementation(bad)])), ("end", {"exit": 0})])
    failing = divergence(0, bad, summary=bad, description=bad, reproduce={"pytest": bad})
    b = write(
        tmp_path / "b",
        [
            ("run", run_line([implementation(bad, version=bad)])),
            ("divergence", failing),
            ("end", {"exit": 1}),
        ],
    )
    for text in (job_summary(read_log(b), change(a, b)), issue(change(a, b))):
        outside = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
        assert "<script" not in outside
        assert "<img" not in outside
        assert "@" not in outside
        assert "https://" not in outside
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = write(tmp_path / "a", mine()), write(tmp_path / "b", mine(divergence(0)))
    assert main(["markdown", str(b), "--against", str(a)]) == 0
    assert "1 new" in capsys.readouterr().out
    assert main(["issue", str(b), "--against", str(a)]) == 0
    assert capsys.readouterr().out.startswith("my-assigner: 1 new divergence")
    assert main(["issue", str(b)]) == 0  # no earlier run to compare with
    out, err = capsys.readouterr()
    assert out == ""
    assert "no earlier run to compare with" in err


def test_without_another_run_the_history_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folders = [write(tmp_path / "a", mine()), write(tmp_path / "b", mine(divergence(0)))]
    for folder in folders:
        assert main(["render", str(folder)]) == 0
    capsys.readouterr()
    assert main(["issue", str(folders[1])]) == 0
    assert "1 new divergence" in capsys.readouterr().out
