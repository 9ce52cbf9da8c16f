"""Whole runs with rotated boxes: every task is tested, and a wrong loss is reported at its stage."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.common.commands import run

pytestmark = pytest.mark.slow

ADAPTER = """
from dataclasses import replace

from tal_conformance.implementations.adapters.reference import ReferenceAdapter


class WrongAngle(ReferenceAdapter):
    name = "wrong-angle"
    tasks = ("obb",)

    def loss(self, maps, rows, head, numbers):
        return super().loss(maps, rows, head, replace(numbers, angle_gain=1.5 * numbers.angle_gain))
"""


def summary_of(folder: Path, implementation: str, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Return exit status, output and summary of a run with few batches."""
    done = run(
        sys.executable, "-m", "pytest", "conformance", "-q", "--implementation", implementation, "--examples", "4",
        "-k", "(test_loss and not test_loss_of) or META-MIRROR", "-p", "no:cacheprovider", "--hypothesis-seed", "1",
        "--report-dir", str(folder), *options,
    )  # fmt: skip
    (written,) = folder.glob("2*/summary.json")
    return done.returncode, done.stdout, json.loads(written.read_text())


@pytest.mark.long
def test_official_rotated_boxes_conform(tmp_path: Path):
    code, output, summary = summary_of(tmp_path, "ultralytics", "--task", "obb")
    assert code == 0, output
    (line,) = summary["implementations"]
    assert line["result"] == "conforms"
    assert summary["worth"] is None  # no figure, which would be that of detection
    reasons = [entry["reason"] for entry in summary["not_tested"]]
    assert any(
        reason.startswith("task obb: checks without batches of this task:") and "EXHAUSTIVE" in reason
        for reason in reasons
    ), reasons


def test_a_run_tests_every_task(tmp_path: Path):
    """Without `--task`, each task has a row, its own batches and its own stages."""
    code, output, summary = summary_of(tmp_path, "ultralytics")
    assert code == 0, output
    rows = {line["name"]: line for line in summary["implementations"]}
    assert {name: line["task"] for name, line in rows.items()} == {
        "ultralytics": "detect",
        "ultralytics (obb)": "obb",
        "ultralytics (e2e)": "e2e",
        "ultralytics (pose)": "pose",
        "ultralytics (segment)": "segment",
        "ultralytics (pose26)": "pose26",
        "ultralytics (segment26)": "segment26",
    }
    assert {line["result"] for line in rows.values()} == {"conforms"}
    assert "angle" in rows["ultralytics (obb)"]["margins"]
    assert "angle" not in rows["ultralytics"]["margins"]
    assert "ultralytics (obb)" in output
    (worth,) = [line for line in output.splitlines() if "planted faults" in line]
    assert worth.startswith("conforms in the task detect: ")


def test_a_wrong_gain_of_the_angle_is_found(tmp_path: Path):
    """An adapter of rotated boxes alone is tested without `--task`."""
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER)
    code, output, _ = summary_of(tmp_path / "runs", f"{adapter}:WrongAngle", "--identification-seconds", "20")
    assert code == 1, output
    assert "wrong-angle: divergent at angle (OBB-ANG-1)" in output
    assert "task obb: a run searches for the cause in the task detect only" in output
    assert "`tal-conformance identify NAME --task obb` searches for it" in " ".join(output.split())
    assert list((tmp_path / "runs").glob("2*/cases/*"))
    assert list((tmp_path / "runs").glob("2*/report.html"))
