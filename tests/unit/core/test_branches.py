"""The branches of a batch for end-to-end heads: their feature maps, hyperparameters and weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, branch_weights, has_branches, split
from tal_conformance.core.task import DETECT, E2E, TASKS, task_of
from tal_reference import Head, Hyperparameters
from tal_reference.eras_of_tasks import dialects_of

OLD = dialects_of(E2E.name)["ultralytics-8.3.253"]
NUMBERS = Hyperparameters(box_gain=3.0, updates=2, epochs=5)


@pytest.fixture(autouse=True)
def end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the task of end-to-end heads."""
    monkeypatch.setitem(TASKS, E2E.name, E2E)


def batch_of(hyperparameters: Hyperparameters = NUMBERS) -> Batch:
    """Return a batch whose four feature maps are numbered: two levels of one2many, then two of one2one."""
    maps = tuple(
        torch.full((1, 4 * 2 + 3, size, size), float(number)) for number, size in enumerate((4, 2, 4, 2))
    )
    rows = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5]])
    return Batch(maps, rows, Head((8, 16), 3, 2), hyperparameters, task=E2E.name)


def test_a_branch_is_a_batch_of_detection_with_its_own_numbers():
    batch = batch_of()
    many, one = branch_batches(batch).values()
    assert [level[0, 0, 0, 0].item() for level in (*many.feature_maps, *one.feature_maps)] == [0, 1, 2, 3]
    assert (many.task, one.task) == (DETECT.name, DETECT.name)
    assert many.hyperparameters == Hyperparameters(topk=10, box_gain=3.0)
    assert one.hyperparameters == Hyperparameters(topk=7, topk2=1, box_gain=3.0)
    assert torch.equal(one.annotations, batch.annotations)
    assert (batch.anchors, batch.grids, batch.size) == (many.anchors, many.grids, many.size)


def test_before_8_4_the_branch_one2one_selects_one_anchor_and_the_branches_are_added():
    assert branch_batches(batch_of(), OLD)["one2one"].hyperparameters == Hyperparameters(topk=1, box_gain=3.0)
    assert branch_weights(batch_of(), OLD) == {"one2many": 1.0, "one2one": 1.0}


def test_weights_follow_the_updates_and_the_epochs():
    assert branch_weights(batch_of()) == {"one2many": pytest.approx(0.45), "one2one": pytest.approx(0.55)}


def test_a_sequence_is_split_by_branch():
    assert split(batch_of(), "abcd") == {"one2many": ("a", "b"), "one2one": ("c", "d")}
    assert has_branches(batch_of())
    assert not has_branches(branch_batches(batch_of())["one2one"])


def test_the_task_follows_from_columns_and_branches():
    head = Head((8, 16), 3)
    assert (task_of(head, 6), task_of(head, 6, 2), task_of(head, 6, 4)) == (DETECT, DETECT, E2E)
    with pytest.raises(
        ValueError, match="6 columns and the batch 6 feature maps, which no task has for Head"
    ):
        task_of(head, 6, 6)


def test_a_case_file_keeps_both_branches_and_the_state_of_their_weights(tmp_path: Path):
    batch = batch_of()
    batch.save(tmp_path / "case.safetensors")
    loaded = Batch.load(tmp_path / "case.safetensors")
    assert (loaded.id, loaded.hyperparameters) == (batch.id, batch.hyperparameters)
    assert all(map(torch.equal, loaded.feature_maps, batch.feature_maps))
    assert replace(batch, hyperparameters=replace(NUMBERS, updates=3)).id != batch.id


def test_the_same_tensors_in_both_branches_are_saved_twice(tmp_path: Path):
    batch = batch_of()
    same = replace(batch, feature_maps=batch.feature_maps[:2] * 2)
    same.save(tmp_path / "case.safetensors")
    assert Batch.load(tmp_path / "case.safetensors").id == same.id


def test_default_updates_and_epochs_are_not_stored(tmp_path: Path):
    batch_of(Hyperparameters()).save(tmp_path / "case.safetensors")
    header = (tmp_path / "case.safetensors").read_bytes()[:2000]
    assert b"updates" not in header
    assert b"epochs" not in header
