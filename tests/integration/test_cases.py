"""Option `--case`: valid case files are judged, even if other case files are invalid or missing."""

import sys
from pathlib import Path

import pytest
from tests.common.commands import run

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_reports import read_log


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """Return exit status, output and folder of a run with three case files: valid, truncated and missing."""
    folder = tmp_path_factory.mktemp("cases")
    whole, half = folder / "whole.safetensors", folder / "half.safetensors"
    Recipe(((Truth(),),)).build().save(whole)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    given = [word for path in (half, folder / "nowhere", whole) for word in ("--case", str(path))]
    ended = run(
        *(sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", *given),
        *("--report-dir", str(folder / "runs")),
    )
    (left,) = (folder / "runs").glob("2*")
    return ended.returncode, ended.stdout, left


def test_the_one_that_can_be_read_is_judged(done: tuple[int, str, Path]):
    _, said, left = done
    assert read_log(left).batches.judged == 1
    assert (left / "report.html").is_file()
    assert "1 passed" in said


def test_each_of_the_others_is_an_error_that_says_what_to_do(done: tuple[int, str, Path]):
    status, said, _ = done
    assert status == 1
    assert "cannot read case file" in said
    assert "record it again" in said
    assert "nowhere: No such file or directory" in said
    assert "2 failed" in said


def test_a_gating_profile_asks_one_case_for_no_more(tmp_path: Path):
    """Profile `ci` does not fail for lack of coverage if it judges only a case file."""
    case = tmp_path / "case.safetensors"
    Recipe(((Truth(),),)).build().save(case)
    ended = run(
        *(sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", "--case", str(case)),
        *("--conformance-profile", "ci", "--report-dir", str(tmp_path / "runs")),
    )
    assert ended.returncode == 0, ended.stdout


def test_the_row_of_its_task_judges_a_case(tmp_path: Path):
    """A case file of rotated boxes is judged by the row of rotated boxes alone, and not tested if there is none."""
    case, shared = (
        tmp_path / "case.safetensors",
        ("-p", "no:cacheprovider", "--report-dir", str(tmp_path / "runs")),
    )
    Recipe(((Truth(),),), task="obb").build().save(case)
    command = (sys.executable, "-m", "pytest", "conformance", "--case", str(case), *shared)
    run(*command)
    (both,) = (tmp_path / "runs").glob("2*")
    assert {cell.implementation for cell in read_log(both).batches.cells} == {"ultralytics (obb)"}
    ended = run(*command, "--task", "detect")
    assert ended.returncode == 5, ended.stdout  # nothing was judged
    assert "is a batch of the task obb, and the run tests ultralytics on detect" in ended.stdout.replace(
        "\n", " "
    )
