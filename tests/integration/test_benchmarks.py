"""Log lines, files and output of `conformance/suite/test_benchmark.py`, run in a process like a user's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ADAPTER = """
from tal_conformance.implementations import find

class AssignerOnly:
    name = "assigner-only"

    def assign(self, inputs):
        return find("reference").adapter.assign(inputs)

class Broken:
    name = "broken"

    def assign(self, inputs):
        raise RuntimeError("on purpose")
"""
pytestmark = pytest.mark.slow


@dataclass
class Run:
    """Result of a benchmark run.

    Attributes:
        status: exit status of pytest.
        output: output of pytest.
        folder: folder of the run.
    """

    status: int
    output: str
    folder: Path

    def lines(self, kind: str) -> list[dict[str, Any]]:
        logs = sorted(self.folder.glob("log*.jsonl"))
        lines = [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["kind"] == kind]


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def start(*arguments: str) -> Run:
        (tmp_path / "adapter.py").write_text(ADAPTER, encoding="utf-8")
        settings = ["--report-dir", str(tmp_path / "runs"), "--device=cpu", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, *settings],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        (folder,) = (
            path for path in (tmp_path / "runs").iterdir() if path.name != "latest" and path.is_dir()
        )
        return Run(done.returncode, done.stdout + done.stderr, folder)

    return start


def test_an_implementation_that_fails_and_one_without_a_loss(start: Start, tmp_path: Path):
    """An implementation without a loss is timed; an implementation that raises is reported as an error."""
    mine = [f"--implementation={tmp_path}/adapter.py:{name}" for name in ("AssignerOnly", "Broken")]
    run = start("conformance/suite/test_benchmark.py", *mine)
    assert run.status == 1, run.output
    lines = run.lines("benchmark")
    timed = [(line["implementation"], line["name"]) for line in lines]
    laps = [f"{lap} 2x160 8gt" for lap in ("assign forward", "loss forward", "loss forward+backward")]
    everybody = [(name, lap) for lap in laps for name in ("ultralytics", "reference")]
    assert sorted(timed) == sorted([*everybody, ("assigner-only", laps[0])])
    for line in lines:
        assert line["seconds"] > 0
        assert line["rounds"] >= 5
        assert line["ratio_low"] <= line["ratio_to_official"] <= line["ratio_high"]
        assert line["peak_bytes"] is None
        assert 0 < line["least_seconds"] < line["seconds"]
    (failed,) = run.lines("divergence")
    assert (failed["implementation"], failed["verdict"], failed["case"]) == ("broken", "error", None)
    assert "raised RuntimeError: on purpose" in failed["summary"]
    assert "on purpose" in failed["traceback"]
    repeat = f"pytest conformance --implementation {tmp_path}/adapter.py:Broken --rounds 1 -k 2x160-8gt"
    assert failed["reproduce"]["pytest"] == repeat
    assert (
        "broken-cpu is ERROR in the benchmark 'assign forward 2x160 8gt': raised RuntimeError" in run.output
    )
    assert [line["reason"] for line in run.lines("not_tested") if "are not in this profile" in line["reason"]]
    check_json(run, lines)


def check_json(run: Run, lines: list[dict[str, Any]]) -> None:
    """Check that benchmark.json has the time of every log line, grouped by benchmark."""
    content = json.loads((run.folder / "benchmark.json").read_text(encoding="utf-8"))
    benchmarks = content["benchmarks"]
    assert len(benchmarks) == len(lines)
    for benchmark, line in zip(benchmarks, lines, strict=True):
        assert benchmark["group"] == f"{line['name']} cpu"
        assert benchmark["extra_info"]["implementation"] == line["implementation"]
        assert benchmark["extra_info"]["threads"] == 1
        assert benchmark["stats"]["rounds"] == len(benchmark["stats"]["data"]) == line["rounds"]
        assert benchmark["stats"]["median"] == pytest.approx(line["seconds"], rel=1e-12)


def test_disabled_is_said_and_everything_is_called_once(start: Start, tmp_path: Path):
    run = start(
        "conformance/suite/test_benchmark.py",
        "--benchmark-disable",
        f"--implementation={tmp_path}/adapter.py:Broken",
    )
    assert run.status == 1, "expected exit status 1, because `Broken` raises"
    assert not run.lines("benchmark")
    assert not (run.folder / "benchmark.json").exists()
    assert [line["reason"] for line in run.lines("not_tested") if "disabled" in line["reason"]]


def test_beside_other_workers_nothing_is_timed_and_that_is_said(start: Start):
    run = start("conformance/suite/test_benchmark.py", "-n", "2", "--implementation=reference")
    assert run.status == pytest.ExitCode.NO_TESTS_COLLECTED, run.output  # no batch was judged
    assert not run.lines("benchmark")
    assert not (run.folder / "benchmark.json").exists()
    assert [line["reason"] for line in run.lines("not_tested") if "pytest-xdist" in line["reason"]]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("conformance/suite/test_topk.py",), pytest.ExitCode.OK),
        (
            ("conformance/suite/test_benchmark.py", "--benchmark-skip"),
            pytest.ExitCode.NO_TESTS_COLLECTED,  # no batch was judged
        ),
    ],
)
def test_a_run_without_benchmarks_leaves_none_and_warns_of_nothing(
    start: Start, arguments: tuple[str, ...], status: int
):
    run = start(*arguments, "--implementation=reference", "--examples=1")
    assert run.status == status, run.output
    assert not run.lines("benchmark")
    assert not (run.folder / "benchmark.json").exists()
    assert "no benchmarks have been run" not in run.output
    assert "warning" not in run.output.lower(), run.output
