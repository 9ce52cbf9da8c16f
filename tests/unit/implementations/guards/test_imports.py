"""Code that changes this process on import is rejected; the message names the code, and its changes are undone."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.guards.code_state import computing_code, own_code
from tal_conformance.implementations.guards.torch_state import changes, torch_state
from tal_conformance.implementations.registry import find

FOLDER = Path(__file__).parents[3] / "fauxmplementations"
FILE = FOLDER / "changing_at_import.py"
CHANGES = [
    "default dtype", "default device", "threads", "denormal numbers flushed", "gradients enabled", "torch.topk",
    "ultralytics.utils.tal.TaskAlignedAssigner.get_pos_mask", "tal_conformance.judgement.judge.judge",
    "left a thread running",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_at_import_is_refused_and_undone(change: str, monkeypatch: pytest.MonkeyPatch):
    import_module("tal_conformance.judgement.judge")
    import_module("ultralytics.utils.tal")
    state, code = torch_state(), (computing_code(), own_code())
    monkeypatch.setenv("CHANGE", change)
    with pytest.raises(UnknownImplementation, match=f"^importing {FILE}:Adapter .*{change}.*--isolate$"):
        find(f"{FILE}:Adapter")
    assert [part.changes() for part in code] == [[], []]
    assert changes(state) == []


def test_the_same_module_without_a_change_is_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CHANGE", raising=False)
    assert find(f"{FILE}:Adapter").name == "Right"


def test_random_numbers_that_an_import_draws_are_put_back(tmp_path: Path):
    file = tmp_path / "drawing.py"
    text = (FOLDER / "misbehaving.py").read_text(encoding="utf-8")
    file.write_text(text + "\ntorch.rand(3)\n", encoding="utf-8")
    before = torch.get_rng_state()
    find(f"{file}:Right")
    assert torch.equal(torch.get_rng_state(), before)
