"""Files that older versions of the suite wrote are still read with the expected results, in every format."""

import json
import shutil
from pathlib import Path

import pytest

from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.commands import main
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import DETECT
from tal_conformance.core.verdicts import Divergence
from tal_conformance.implementations.outcome_file import load
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_reference import DIALECTS, Head, Hyperparameters
from tal_reports import read_log, render
from tal_reports.analysis.history import read_history
from tal_reports.log.schemas import fault
from tal_reports.log.writer import SCHEMA

SAMPLES = Path(__file__).parents[1] / "samples"
RUNS = sorted(SAMPLES.glob("*/2*"))
CASE = "d9c6bc059369"


@pytest.fixture(params=RUNS, ids=lambda run: run.parent.name)
def run(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def test_there_are_samples_of_every_kind():
    assert [run.parent.name for run in RUNS] == ["first", "fourth", "second", "third"]
    kinds = {path.suffix for path in SAMPLES.rglob("*") if path.is_file()}
    assert {".safetensors", ".outcome", ".jsonl", ".json"} <= kinds
    assert [path.parent.name for path in sorted(SAMPLES.glob("*/history.jsonl"))] == [
        "fourth",
        "second",
        "third",
    ]


def test_a_case(run: Path):
    batch = Batch.load(run / "cases" / f"{CASE}.safetensors")
    assert batch.id == CASE
    assert (batch.head, batch.hyperparameters) == (Head((8,), 1), Hyperparameters())
    assert (batch.images, batch.size, batch.autocast) == (1, (32, 32), False)
    assert batch.origin.startswith("Recipe(")
    assert batch.hazards == hazards_of(batch)


def test_an_outcome_and_what_it_comes_to(run: Path):
    batch = Batch.load(run / "cases" / f"{CASE}.safetensors")
    stored = load(run / "cases" / f"{CASE}.swapped-cpu.outcome", batch)
    assert (stored.case, stored.implementation, stored.version) == (CASE, "swapped", "1.0")
    assert (stored.device, stored.dialect, stored.outcome.loss) == ("cpu", "ultralytics-8.4.190", None)
    with pytest.raises(Divergence) as found:
        judge(stored.outcome, Expectation(batch, DIALECTS[stored.dialect]))
    assert found.value.judgement.first is not None
    assert found.value.judgement.first.clause.startswith("TAL-")


def test_it_is_replayed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["replay", str(run), "--offline", "--pictures", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "swapped 1.0 on cpu (stored), dialect ultralytics-8.4.190: DIVERGENT" in out
    assert err == ""


def test_a_log(run: Path):
    log = read_log(run)
    assert log.problems.sentences() == []
    assert log.run["schema"] == SCHEMA
    assert [(stage["name"], stage["clause"]) for stage in log.run["stages"]] == [*DETECT.clauses.items()]
    assert log.run["terms"] == ["box", "cls", "dfl"]
    assert [one["name"] for one in log.run["implementations"]] == ["swapped", "ultralytics"]
    assert sum(log.batches.verdicts("ultralytics").values()) == 3
    assert not log.batches.verdicts("ultralytics")["divergent"]
    assert log.batches.verdicts("swapped")["divergent"] > 0
    (divergence,) = log.divergences
    assert (divergence["implementation"], divergence["case"]) == ("swapped", CASE)
    assert log.end is not None
    assert log.end["exit"] == 1


def test_its_report_can_be_made_again(run: Path, tmp_path: Path):
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    (folder / "summary.json").unlink()
    page = render(folder).read_text(encoding="utf-8")
    assert CASE in page
    made = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    kept = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    results = [
        {one["name"]: (one["result"], one["batches"]) for one in summary["implementations"]}
        for summary in (made, kept)
    ]
    assert results[0] == results[1]
    assert results[0]["swapped"][0] == "divergent"


def test_a_summary_follows_the_schema(run: Path):
    assert fault(json.loads((run / "summary.json").read_text(encoding="utf-8")), "summary") is None


@pytest.mark.parametrize("sample", ["second", "third", "fourth"])
def test_a_history(sample: str):
    (entry,) = read_history(SAMPLES / sample / "history.jsonl")
    assert entry["run"] == next((SAMPLES / sample).glob("2*")).name
    assert [one["name"] for one in entry["implementations"]] == ["swapped", "ultralytics"]
    assert [cause["implementation"] for cause in entry["causes"]] == ["swapped"]
    assert entry["exit"] == 1


def test_samples_name_no_machine():
    for path in SAMPLES.rglob("*"):
        if path.is_file():
            assert not any(place in path.read_bytes() for place in (b"/home/", b"/root/", b"/tmp/"))
