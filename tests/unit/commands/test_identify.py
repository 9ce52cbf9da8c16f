"""Command `identify`: it prints dialect and choices of an implementation, evidence, and unexplained differences."""

import pytest
from tests.fauxmplementations.dense_port import HeavierDfl

from tal_conformance.commands import identify, main
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
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
