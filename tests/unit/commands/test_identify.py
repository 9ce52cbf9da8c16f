"""Command `identify`: it prints dialect and choices of an implementation, evidence, and unexplained differences."""

import json

import pytest
from tests.fauxmplementations.dense_port import HeavierDfl

from tal_conformance.commands import identify, main
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.mutation import diagnosis
from tal_reference import NEWEST, parse


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tal_conformance.dialects.identification.BATCHES_PER_STRATEGY", 2)


@pytest.mark.slow
def test_a_composed_dialect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """For the dialect of 8.0.51 with a mean class loss, `identify` prints dialect, choice and clause in <= 40 lines."""
    adapter = ReferenceAdapter(parse("ultralytics-8.0.51, class_loss=mean"))
    monkeypatch.setattr(identify, "find", lambda name: implementation_from(adapter, name))
    assert main(["identify", "mine"]) == 0
    output, progress = capsys.readouterr()
    lines = output.splitlines()
    assert lines[0].startswith(
        "It computes ultralytics-8.0.51 with the mean of the cross-entropies in place of their sum. That explains "
    )
    assert lines[0].endswith("; nothing is left.")
    assert '  declare it: dialect = "ultralytics-8.0.51, class_loss=mean"' in lines
    assert any(line.startswith("  LOSS-CLS-1: the mean of the cross-entropies") for line in lines)
    assert sum("    needed on Recipe(" in line for line in lines) == 1
    assert len(lines) <= 40
    assert "ultralytics-8.4.190: refuted by batch " in progress


@pytest.mark.slow
def test_an_implementation_that_nothing_explains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(identify, "find", lambda name: implementation_from(HeavierDfl(NEWEST), name))
    assert main(["identify", "mine", "--seconds", "5"]) == 1
    output = capsys.readouterr().out
    assert "  unexplained: LOSS-DFL-1 on " in output
    assert "nothing is left" not in output


@pytest.mark.parametrize(("arguments", "found"), [([], "neither"), (["mine", "--measure", "pairs"], "both")])
def test_a_name_or_a_measurement(arguments: list[str], found: str, capsys: pytest.CaptureFixture[str]):
    assert main(["identify", *arguments]) == 2
    assert f"expected the NAME of an implementation or --measure KIND, got {found}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "status"), [(diagnosis.EXACT, 0), (diagnosis.PARTLY, 0), (diagnosis.WRONG, 1)]
)
def test_a_measurement(
    result: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each search has a line, the table is last, and status 1 says that a search named something else."""
    monkeypatch.setattr(
        diagnosis,
        "measure_search",
        lambda faulty, seconds: diagnosis.Diagnosis(faulty.name, result, "It.", seconds),
    )
    arguments = ["--measure", "faults", "--number", "2", "--first", "2", "--seconds", "5", "--json"]
    assert main(["identify", *arguments]) == status
    found = json.loads(capsys.readouterr().out)["result"]
    names = [faulty.name for faulty in diagnosis.faulty_implementations("faults", 3)][1:]
    assert [(line["name"], line["result"], line["seconds"]) for line in found["diagnoses"]] == [
        (name, result, 5) for name in names
    ]
