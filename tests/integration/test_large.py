"""The option `--large` adds large batches to a run."""

import sys
from pathlib import Path

import pytest
from tests.common.commands import run


def planned(folder: Path, *options: str) -> str:
    """Return the tests that a run would contain, as listed by pytest's `--setup-plan`."""
    command = (sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", "--setup-plan")
    return run(*command, "--report-dir", str(folder), *options).stdout


@pytest.mark.long
def test_large_batches_are_drawn_when_they_are_asked_for(tmp_path: Path):
    large = planned(tmp_path, "--large")
    assert "test_large.py::test_training_size[ultralytics-cpu]" in large
    assert "test_loss.py::test_loss[ultralytics (obb)-cpu]" in large
    for name in ("test_large.py::test_training_size", "test_nonfinite.py::test_nonfinite"):
        assert f"{name}[ultralytics (obb)" not in large  # rotated boxes have no batches of these checks
    without = planned(tmp_path)
    assert "test_loss.py::test_loss[ultralytics-cpu]" in without
    assert "test_large.py" not in without
