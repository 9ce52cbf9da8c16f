"""`identify`: the dialects that explain an implementation, or the nearest one with its violations."""

from typing import Any

import pytest

from tal_conformance.commands import identify, main
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import DIALECTS, NEWEST

CANDIDATES = ("ultralytics-8.4.190", "ultralytics-8.4.127", "ultralytics-8.0.51")


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tal_conformance.dialects.identification.BATCHES_PER_STRATEGY", 3)


@pytest.mark.parametrize("name", ["ultralytics-8.4.127", "ultralytics-8.0.51"])
def test_an_explained_implementation(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its dialect explains everything; every other one is refuted on a batch that is printed."""
    adapter = ReferenceAdapter(DIALECTS[name])
    monkeypatch.setattr(identify, "find", lambda name: implementation_from(adapter, name))
    monkeypatch.setattr(identify, "DIALECTS", {candidate: DIALECTS[candidate] for candidate in CANDIDATES})
    assert main(["identify", "mine"]) == 0
    output, progress = capsys.readouterr()
    assert all(f": {candidate}: " in progress for candidate in CANDIDATES)
    assert f"{name} explains all" in output
    assert output.count("explains all") == 1
    assert output.count("  not ") == 2
    assert output.count("    Recipe(") == 2


def test_an_implementation_with_a_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The nearest dialect is named, with the violated clauses."""
    adapter: Any = FaultyReference(next(fault for fault in FAULTS.values() if fault.stage == "cls"))
    monkeypatch.setattr(identify, "find", lambda name: implementation_from(adapter, name))
    monkeypatch.setattr(identify, "DIALECTS", {NEWEST.name: NEWEST})
    assert main(["identify", "mine"]) == 1
    output = capsys.readouterr().out
    assert (
        "no known dialect explains the implementation; the nearest is ultralytics-8.4.190, violated on "
        in output
    )
    assert "LOSS-CLS-1 (first divergence on " in output
    assert "      Recipe(" in output
