"""Outcome files: outcomes are read back unchanged; damaged files, and outcomes of other batches, are rejected."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import CHECKSUM, as_json, digest
from tal_conformance.core.outcome_tensors import equal_bits, named_tensors
from tal_conformance.implementations.adapters.article import ArticleAdapter
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.outcome_file import (
    METADATA,
    CorruptOutcome,
    StoredOutcome,
    load,
    outcome_path,
    outcomes_beside,
    store,
)
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find

RECIPE = Recipe(images=((Truth("ordinary"), Truth("ordinary")), ()), classes=2)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return RECIPE.build()


@pytest.fixture
def stored(batch: Batch) -> StoredOutcome:
    return StoredOutcome(batch.id, "article", "1", "article", "cpu", execute(find("article"), batch))


@pytest.fixture
def path(tmp_path: Path, stored: StoredOutcome) -> Path:
    path = outcome_path(tmp_path / f"{stored.case}.safetensors", "article", "cpu")
    store(path, stored)
    return path


class AssignerAlone:
    dialect = "article"

    def assign(self, inputs: Any) -> Any:
        return replace(ArticleAdapter().assign(inputs), stages=None)


@pytest.mark.parametrize("name", ["article", "ultralytics", "reference", "assigner alone"])
@pytest.mark.parametrize("recipe", [RECIPE, Recipe(images=((), ()))])
def test_what_comes_back_is_what_was_stored(name: str, recipe: Recipe, tmp_path: Path):
    one = implementation_from(AssignerAlone, name) if " " in name else find(name)
    batch = recipe.build()
    stored = StoredOutcome(batch.id, one.name, one.version, one.dialect.name, "cuda", execute(one, batch))
    path = outcome_path(tmp_path / "case.safetensors", one.name, "cuda")
    store(path, stored)
    back = load(path, batch)
    assert replace(back, outcome=stored.outcome) == stored
    assert back.outcome.exposes_inputs == stored.outcome.exposes_inputs
    before, after = named_tensors(stored.outcome), named_tensors(back.outcome)
    assert list(before) == list(after)
    assert all(equal_bits(before[key], after[key]) for key in before)
    assert (back.outcome.loss is None) == (" " in name)


def test_numbers_that_are_none_are_kept(path: Path, stored: StoredOutcome, batch: Batch):
    assert stored.outcome.loss is not None
    loss = replace(stored.outcome.loss, total=torch.tensor(float("nan")))
    store(path, replace(stored, outcome=replace(stored.outcome, loss=loss)))
    outcome = load(path, batch).outcome
    assert outcome.loss is not None
    assert outcome.loss.total.isnan()


def rewritten(
    path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None], sealed: bool = True
) -> None:
    """Rewrite an outcome file with metadata and tensors modified by `change`; if `sealed`, update the checksum."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()[METADATA])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(facts, tensors)
    if sealed:
        facts.pop(CHECKSUM)
        facts[CHECKSUM] = digest(facts, tensors)
    save_file(tensors, path, {METADATA: as_json(facts)})


def put(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda facts, tensors: tensors.__setitem__(name, value(tensors[name]).contiguous())


REFUSED: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], None], str]] = {
    "another schema": (
        lambda facts, tensors: facts.__setitem__("schema", 2),
        "unknown schema 2: this version reads schema 1. The file was written by a newer version",
    ),
    "another batch": (lambda facts, tensors: facts.__setitem__("case", "0" * 12), "of batch 000000000000, expected "),
    "no dialect": (lambda facts, tensors: facts.pop("dialect"), "in the header: dialect"),
    "a dialect that is no text": (lambda facts, tensors: facts.__setitem__("dialect", 3), "in the header: dialect"),
    "own_inputs is no bool": (lambda facts, tensors: facts.__setitem__("own_inputs", 1), "in the header: own_inputs"),
    "a tensor too few": (lambda facts, tensors: tensors.pop("assignment.boxes"), "missing tensors: assignment.boxes"),
    "a tensor too many": (
        lambda facts, tensors: tensors.__setitem__("loss.more", torch.zeros(1)), "expected the tensors of an outcome",
    ),
    "no inputs": (
        lambda facts, tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("inputs.")],
        "expected the tensors of an outcome",
    ),
    "a level too many": (
        lambda facts, tensors: tensors.__setitem__("loss.gradients.9", torch.zeros(1)), "tensors of an|argument",
    ),
    "another shape": (put("assignment.scores", lambda scores: scores[:, :-1]), "Assignment.scores has shape"),
    "another dtype": (put("assignment.foreground", Tensor.float), "Assignment.foreground has dtype"),
    "inputs of another shape": (put("inputs.boxes", lambda boxes: boxes[:1]), "AssignerInputs.boxes has shape"),
    "items of another shape": (put("loss.items", lambda items: items[:2]), r"loss.items is \(2,\)"),
    "whole numbers": (put("loss.total", Tensor.long), r"loss.total is \(\) torch.int64"),
    "a gradient of another shape": (put("loss.gradients.0", lambda g: g[:, :1]), "loss.gradients.0 is"),
    "stages of another shape": (put("stages.overlap", lambda overlap: overlap[:1]), "Stages.overlap has shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_outcome_of_this_batch_is_refused(name: str, path: Path, batch: Batch):
    change, message = REFUSED[name]
    rewritten(path, change)
    with pytest.raises(CorruptOutcome, match=message) as caught:
        load(path, batch)
    assert str(path) in str(caught.value)


def test_a_changed_number_does_not_go_unnoticed(path: Path, batch: Batch):
    rewritten(path, put("loss.items", lambda items: items + 1), sealed=False)
    with pytest.raises(CorruptOutcome, match="checksum"):
        load(path, batch)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"{}", b"not safetensors at all"])
def test_other_files_are_refused(content: bytes, path: Path, batch: Batch):
    path.write_bytes(content)
    with pytest.raises(CorruptOutcome, match="cannot read outcome file"):
        load(path, batch)


def test_a_case_file_is_no_outcome(tmp_path: Path, batch: Batch):
    batch.save(tmp_path / "case.safetensors")
    with pytest.raises(CorruptOutcome, match="the header has no"):
        load(tmp_path / "case.safetensors", batch)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_is_refused(kept: float, path: Path, batch: Batch):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(CorruptOutcome):
        load(path, batch)


def test_a_file_that_is_not_there_is_another_error(tmp_path: Path, batch: Batch):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.outcome", batch)


def test_outcomes_are_found_beside_their_case_and_no_others(tmp_path: Path):
    case = tmp_path / "0a1b[c].safetensors"
    names = [
        "0a1b[c].one-cpu.outcome",
        "0a1b[c].two-cuda.outcome",
        "0a1bc.one-cpu.outcome",
        "0a1b[c].safetensors",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in outcomes_beside(case)] == names[:2]
    assert outcomes_beside(tmp_path / "no folder" / "case.safetensors") == []


@pytest.mark.parametrize("name", ["my/../../name", "C:\\x", "a b", "ultralytics==8.3.236", "x" * 500])
def test_a_name_cannot_lead_elsewhere(tmp_path: Path, name: str):
    path = outcome_path(tmp_path / "case.safetensors", name, "cuda")
    assert path.parent == tmp_path
    assert path.name.startswith("case.")
    assert len(path.name) < 120
    path.touch()
    assert outcomes_beside(tmp_path / "case.safetensors") == [path]
