"""Case files are named by path, folder, run or id."""

from pathlib import Path

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands.cases import case_files, dialect_of_case
from tal_conformance.commands.program import CommandError
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content, write
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.outcome_file import StoredOutcome, outcome_path, store
from tal_conformance.implementations.registry import find
from tal_reference import NEWEST


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
        CommandError, match="'000000000000' is not a file, and no run in reports/runs, tal-conf"
    ):
        case_files(Path("000000000000"))


BATCH = Recipe(((Truth("ordinary"),),), classes=2).build()


def recorded(path: Path, origin: str = "", source: str = "") -> Path:
    content = Content(*(getattr(BATCH, name) for name in Content._fields))
    write(path, content._replace(origin=origin), Circumstances(source=source))
    return path


def test_the_processes_of_a_distributed_training_are_one_recording(tmp_path: Path):
    for rank in range(2):
        (tmp_path / f"rank-{rank}").mkdir()
        BATCH.save(tmp_path / f"rank-{rank}" / "step-000000.safetensors")
    assert [path.parent.name for path in case_files(tmp_path)] == ["rank-0", "rank-1"]


def test_the_dialect_of_a_recorded_case_is_that_of_its_release(tmp_path: Path):
    path = tmp_path / "case.safetensors"
    assert dialect_of_case(recorded(path, source="ultralytics 8.3.100")).name == "ultralytics-8.3.253"
    assert (
        dialect_of_case(recorded(path, "recorded: ultralytics 8.4.30, step 0")).name == "ultralytics-8.4.127"
    )
    assert dialect_of_case(recorded(path, "recorded: my loop, step 0")) is NEWEST
    assert dialect_of_case(recorded(path, source="ultralytics 7.0.0")) is NEWEST
    assert dialect_of_case(tmp_path / "absent.safetensors") is NEWEST


def test_the_dialect_of_a_case_of_a_run_is_that_of_its_outcomes(tmp_path: Path):
    path = recorded(tmp_path / "case.safetensors", source="ultralytics 8.3.100")
    outcome = execute(find("reference"), Batch.load(path))

    def store_as(name: str, dialect: str) -> None:
        facts = StoredOutcome(BATCH.id, name, "1", dialect, "cpu", outcome)
        store(outcome_path(path, name, "cpu"), facts)

    store_as("mine", "article")
    assert dialect_of_case(path).name == "article"
    store_as("theirs", "ultralytics-8.4.7")
    assert dialect_of_case(path) is NEWEST  # two runs of different dialects
