"""Run lengths of masks in case files: nothing is lost, and a few runs cannot ask for any amount of memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import METADATA, InvalidCase, as_json, digest, parse_json, save_atomically
from tal_conformance.core.mask_runs import LENGTHS, MOST_PIXELS, VALUES, decoded, encoded
from tal_conformance.core.task import DETECT, SEGMENT
from tal_reference import Head

HEAD = Head((8,), 3, prototypes=2, masks=(2, 3), overlapping_masks=False)
ROWS = torch.tensor(
    [
        [0, 1, 0.5, 0.5, 0.25, 0.25, 0, 0, 1, 1, 1, 0],
        [0, 2, 0.5, 0.5, 0.5, 0.5, 0, 0.5, 0.5, -0.0, 0, 0],
    ]
)
MASKED = Recipe(
    images=((Truth("ordinary"), Truth("huge", 1)), (Truth("ordinary"),)),
    classes=2,
    task=SEGMENT.name,
    prototypes=3,
    mask_ratio=2,
)


def test_runs_restore_every_bit():
    tensors = encoded(ROWS, HEAD, SEGMENT.name)
    assert tensors["annotations"].shape == (2, 6)
    assert tensors[LENGTHS].tolist() == [2, 3, 2, 2, 1, 2]
    restored = decoded(tensors, HEAD, SEGMENT.name)
    assert torch.equal(restored.view(torch.int32), ROWS.view(torch.int32))


def test_batches_without_rows_and_rows_of_other_shapes_keep_their_form():
    nothing = encoded(ROWS[:0], HEAD, SEGMENT.name)
    assert decoded(nothing, HEAD, SEGMENT.name).shape == (0, 12)
    assert encoded(ROWS[:, :7], HEAD, SEGMENT.name)["annotations"].shape == (2, 7)
    assert set(encoded(ROWS, HEAD, DETECT.name)) == {"annotations"}


@pytest.mark.parametrize(
    "changed",
    [
        {LENGTHS: torch.tensor([2, 3, 2, 2, 1, 3])},
        {LENGTHS: torch.tensor([2, 3, 2, 2, 4, -1])},
        {LENGTHS: torch.tensor([2**62, 3, 2, 2, 1, 2**62])},
        {LENGTHS: torch.tensor([2, 3])},
        {LENGTHS: torch.tensor([2.0, 3, 2, 2, 1, 2])},
        {VALUES: torch.zeros(6, dtype=torch.float64)},
    ],
)
def test_runs_that_do_not_fit_are_rejected(changed: dict[str, torch.Tensor]):
    with pytest.raises(ValueError, match="expected positive lengths with the sum 12"):
        decoded(encoded(ROWS, HEAD, SEGMENT.name) | changed, HEAD, SEGMENT.name)


@pytest.mark.parametrize("rows", [torch.tensor(1.0), torch.zeros(6)])
def test_runs_of_rows_that_are_not_a_table_are_rejected(rows: torch.Tensor):
    with pytest.raises(ValueError, match="the pixels of 0 masks"):
        decoded(encoded(ROWS, HEAD, SEGMENT.name) | {"annotations": rows}, HEAD, SEGMENT.name)


def test_runs_without_values_or_without_masks_are_rejected():
    tensors = encoded(ROWS, HEAD, SEGMENT.name)
    for wrong, task in (
        ({name: tensors[name] for name in ("annotations", VALUES)}, SEGMENT),
        (tensors, DETECT),
    ):
        with pytest.raises(ValueError, match="expected masks with a task that has them"):
            decoded(wrong, HEAD, task.name)


def test_few_runs_do_not_make_huge_masks():
    """A run that stands for more pixels than memory allows is rejected before anything is allocated."""
    head = replace(HEAD, masks=(2**20, 2**20))
    tensors = {
        "annotations": ROWS[:, :6],
        VALUES: torch.ones(1),
        LENGTHS: torch.tensor([2 * 2**40]),
    }
    with pytest.raises(ValueError, match=f"expected at most {MOST_PIXELS}"):
        decoded(tensors, head, SEGMENT.name)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_case_file_holds_masks_as_runs(tmp_path: Path, overlapping: bool):
    """A case file restores batch and head; its masks take less space than their pixels."""
    path = tmp_path / "masks.safetensors"
    batch = replace(MASKED, overlapping_masks=overlapping, cells=(16, 16), prototype_ratio=32).build()
    batch.save(path)
    again = Batch.load(path)
    assert (again.id, again.head, again.task) == (batch.id, batch.head, SEGMENT.name)
    assert torch.equal(again.annotations, batch.annotations)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"annotations", "level.0", "level.1", VALUES, LENGTHS}
        stored = sum(file.get_tensor(name).nbytes for name in ("annotations", VALUES, LENGTHS))
    assert stored < batch.annotations.nbytes / 4


def test_a_case_file_with_wrong_runs_is_invalid(tmp_path: Path):
    path = tmp_path / "masks.safetensors"
    MASKED.build().save(path)
    with safe_open(path, framework="pt") as file:
        case = parse_json(file.metadata()[METADATA])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    tensors[LENGTHS] = tensors[LENGTHS] * 2
    del case["sha256"]
    save_atomically(path, tensors, {METADATA: as_json(case | {"sha256": digest(case, tensors)})})
    with pytest.raises(InvalidCase, match="expected positive lengths"):
        Batch.load(path)
