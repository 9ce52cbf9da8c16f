"""`--large` is what makes large batches part of a run."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def planned(folder: Path, *options: str) -> str:
    """What pytest says of the tests that it would run."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", "--setup-plan"),
            *("--report-dir", str(folder), *options),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout


def test_large_batches_are_drawn_when_they_are_asked_for(tmp_path: Path):
    assert "test_large.py::test_training_size[ultralytics-cpu]" in planned(tmp_path, "--large")
    without = planned(tmp_path)
    assert "test_loss.py::test_loss[ultralytics-cpu]" in without
    assert "test_large.py" not in without
