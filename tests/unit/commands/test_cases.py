"""Case files are named by path, folder, run or id."""

from pathlib import Path

import pytest

from tal_conformance.commands.replay import CannotReplay, case_files


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make two runs with the same case and a third run with another case, and change to the folder of the runs."""
    for run, name in (
        ("20260101-1", "0123456789ab"),
        ("20260102-1", "0123456789ab"),
        ("20260103-1", "fedcba987654"),
    ):
        cases = tmp_path / "tal-conformance-reports" / run / "cases"
        cases.mkdir(parents=True)
        (cases / f"{name}.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tal-conformance-reports"


def test_an_id_is_that_of_the_newest_run(runs: Path):
    (file,) = case_files(Path("0123456789ab"))
    assert file.resolve() == runs / "20260102-1" / "cases" / "0123456789ab.safetensors"


@pytest.mark.parametrize("part", ["", "cases", "cases/fedcba987654.safetensors"])
def test_a_run_its_folder_of_cases_and_a_file(runs: Path, part: str):
    file = runs / "20260103-1" / "cases" / "fedcba987654.safetensors"
    assert case_files(runs / "20260103-1" / part) == [file]


def test_an_unknown_id_is_an_error(runs: Path):
    with pytest.raises(
        CannotReplay, match="'000000000000' is not a file, and no run in reports/runs, tal-conf"
    ):
        case_files(Path("000000000000"))
