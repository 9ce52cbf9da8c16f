"""A run that is incomplete, empty, or lacks a requested implementation fails and does not become `latest`."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tal_reports import read_log

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
ADAPTER = """
import os
from tal_conformance.implementations.adapters.reference import ReferenceAdapter

RIGHT = ReferenceAdapter()

class Right:
    name = "Right"
    version = "1"
    dialect = "ultralytics-8.4.190"

    def assign(self, inputs):
        return RIGHT.assign(inputs)

class Refuses(Right):
    name = "Refuses"

    def assign(self, inputs):
        raise ValueError("never")

class Dies(Right):
    def assign(self, inputs):
        os._exit(3)

"""
CONFTEST = """
import pytest

CUT = {cut!r}

def pytest_runtest_call(item):
    if item.name.startswith("test_topk[") and CUT == "interrupt":
        raise KeyboardInterrupt
    if item.name.startswith("test_topk[") and CUT == "stop":
        item.session.shouldstop = "enough"

def pytest_runtest_logstart(nodeid):
    assert CUT != "internal error"

def pytest_runtest_setup(item):
    if CUT == "skip":
        pytest.skip("nothing today")
"""


@dataclass
class Run:
    """A finished pytest process of the suite.

    Attributes:
        status: exit status of pytest.
        output: standard output and standard error.
        runs: folder in which the suite stores its runs.
    """

    status: int
    output: str
    runs: Path

    @property
    def summary(self) -> dict[str, Any]:
        (path,) = self.runs.glob("2*/summary.json")
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    @property
    def is_latest(self) -> bool:
        return (self.runs / "latest").exists()


def run(folder: Path, *options: str, cut: str = "", names: tuple[str, ...] = ("Right",)) -> Run:
    (folder / "adapter.py").write_text(ADAPTER, encoding="utf-8")
    (folder / "cutting.py").write_text(CONFTEST.format(cut=cut), encoding="utf-8")
    asked = [f"--implementation={folder}/adapter.py:{name}" for name in names]
    drawn = ("--device=cpu", "--examples=4", "--hypothesis-seed=0", "-p", "no:cacheprovider", "-p", "cutting")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "conformance/suite/test_topk.py", "-k", "not zeros"),
            *(*drawn, f"--report-dir={folder}/runs", *asked, *options),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{folder}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr, folder / "runs")


def test_a_whole_run_conforms_and_is_the_latest(tmp_path: Path):
    whole = run(tmp_path)
    assert (whole.status, whole.is_latest) == (0, True), whole.output
    (line,) = whole.summary["implementations"]
    assert (line["result"], line["tests"]) == ("conforms", {"planned": 3, "finished": 3})
    assert line["verdicts"]["rejected"] >= 1


@pytest.mark.parametrize(
    ("cut", "status", "finished"),
    [
        pytest.param("interrupt", pytest.ExitCode.INTERRUPTED, 0, id="Ctrl-C"),
        pytest.param(
            "internal error", pytest.ExitCode.INTERNAL_ERROR, 0, id="internal error", marks=pytest.mark.long
        ),
        pytest.param("stop", pytest.ExitCode.INTERRUPTED, 1, id="shouldstop", marks=pytest.mark.long),
    ],
)
def test_a_run_that_was_cut_short_is_not_finished(tmp_path: Path, cut: str, status: int, finished: int):
    short = run(tmp_path, cut=cut)
    assert (short.status, short.is_latest) == (status, False), short.output
    (line,) = short.summary["implementations"]
    assert (line["result"], line["tests"]) == ("not finished", {"planned": 3, "finished": finished})
    assert short.summary["exit"] == 1
    if status != pytest.ExitCode.INTERNAL_ERROR:  # after an internal error, pytest does not print a summary
        assert f"not finished ({finished} of 3 tests)" in short.output
    (report,) = short.runs.glob("2*/report.html")
    assert f"did not finish ({finished} of 3 tests)" in report.read_text(encoding="utf-8")
    assert not (short.runs / "history.jsonl").exists()


def test_stopping_at_the_first_failure_leaves_the_others_unfinished(tmp_path: Path):
    short = run(tmp_path, "-x", names=("Refuses", "Right"))
    assert (short.status, short.is_latest) == (pytest.ExitCode.TESTS_FAILED, False), short.output
    results = {line["name"]: (line["result"], line["tests"]) for line in short.summary["implementations"]}
    assert results == {
        "Refuses": ("error", {"planned": 3, "finished": 1}),
        "Right": ("not finished", {"planned": 3, "finished": 0}),
    }
    assert "error, not finished (1 of 3 tests)" in short.output


@pytest.mark.long
def test_a_worker_process_that_died_leaves_its_test_unfinished(tmp_path: Path):
    short = run(tmp_path, "-n", "1", names=("Dies",))
    assert (short.status, short.is_latest) == (pytest.ExitCode.TESTS_FAILED, False), short.output
    (line,) = short.summary["implementations"]
    assert line["result"] == "not finished"
    assert line["tests"]["finished"] < line["tests"]["planned"] == 3


@pytest.mark.long
def test_several_processes_count_as_one(tmp_path: Path):
    whole = run(tmp_path, "-n", "2")
    assert (whole.status, whole.is_latest) == (0, True), whole.output
    (line,) = whole.summary["implementations"]
    assert (line["result"], line["tests"]) == ("conforms", {"planned": 3, "finished": 3})


def test_a_run_that_judged_nothing_is_not_green(tmp_path: Path):
    empty = run(tmp_path, cut="skip")
    assert (empty.status, empty.is_latest) == (pytest.ExitCode.NO_TESTS_COLLECTED, False), empty.output
    assert empty.summary["exit"] == 1
    assert "No batch was judged" in empty.output


def test_a_run_with_nothing_but_rejections_is_not_green(tmp_path: Path):
    refused = run(tmp_path, "-k", "fewer_anchors", names=("Refuses",))
    assert (refused.status, refused.is_latest) == (pytest.ExitCode.NO_TESTS_COLLECTED, False), refused.output
    (line,) = refused.summary["implementations"]
    assert line["verdicts"]["rejected"] == line["batches"] > 0
    assert line["result"] == "inconclusive"


def test_implementations_that_cannot_be_loaded_are_a_usage_error(tmp_path: Path):
    refused = run(tmp_path, names=("Right", "Missing", "Absent"))
    assert refused.status == pytest.ExitCode.USAGE_ERROR, refused.output
    problems = [line for line in refused.output.splitlines() if "--implementation" in line]
    assert len(problems) == 2
    assert "Missing" in problems[0]
    assert "Absent" in problems[1]
    assert not list(refused.runs.glob("2*"))
    log = [path for path in refused.runs.rglob("log.jsonl") if read_log(path).batches.judged]
    assert not log
