"""Runs of adapters that declare heads or batches that they do not support."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.common.commands import run

LIMITED = Path(__file__).parents[1] / "fauxmplementations" / "limited.py"


def suite_on(name: str, folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Return exit status, output and summary of a short run on the named adapter."""
    done = run(
        sys.executable, "-m", "pytest", "--pyargs", "tal_conformance", "-q", "-n", "0", "-p", "no:cacheprovider",
        "--implementation", f"{LIMITED}:{name}", "--report-dir", str(folder), "--examples", "25",
        "--hypothesis-seed", "1", "-k", "test_metric or test_topk or META-MIRROR or changed-gains or two-heads",
        *options,
    )  # fmt: skip
    found = next(folder.glob("2*"), None)
    summary = json.loads((found / "summary.json").read_text(encoding="utf-8")) if found else {}
    return done.returncode, done.stdout + done.stderr, summary


@pytest.mark.parametrize("options", [(), ("--isolate",)], ids=["here", "isolated"])
@pytest.mark.long
def test_what_is_not_supported_is_counted_and_the_rest_conforms(tmp_path: Path, options: tuple[str, ...]):
    status, text, summary = suite_on("SixteenBins", tmp_path, *options)
    assert status == 0, text
    (line,) = summary["implementations"]
    assert line["result"] == "conforms"
    assert 0 < line["not_supported"]["share"] < 1
    assert list(line["not_supported"]["reasons"]) == ["only 16 bins"]
    assert "not supported: sixteen-bins: " in text
    page = next(tmp_path.glob("2*/report.html")).read_text(encoding="utf-8")
    assert "Not supported: " in page
    assert "only 16 bins" in page


def test_a_silent_answer_fails(tmp_path: Path):
    status, text, summary = suite_on("AnswersAnyway", tmp_path)
    assert status == 1
    (line,) = summary["implementations"]
    assert line["result"] == "divergent"
    assert len(line["first_divergences"]) == 1
    assert "returned an answer for what it declares not to support (only 16 bins)" in text


def test_supporting_nothing_is_not_green(tmp_path: Path):
    status, text, summary = suite_on("Nothing", tmp_path)
    assert status == 1
    assert "are not supported, more than 75%" in text
    (line,) = summary["implementations"]
    assert line["result"] == "inconclusive"


def test_a_reason_that_is_not_a_text_is_one_error(tmp_path: Path):
    status, text, summary = suite_on("ReturnsFalse", tmp_path)
    assert (status, summary) == (4, {})
    assert text.count("supports(head, hyperparameters) returned False") == 1
