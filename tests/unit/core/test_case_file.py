"""Case files: a saved batch is loaded again, and every other file is rejected."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import METADATA, InvalidCase, digest
from tal_reference import Hyperparameters

quickly = settings(deadline=None, derandomize=True, database=None, max_examples=50)
RECIPE = Recipe(((Truth("ordinary"), Truth("tiny")), ()), (2, 5), reg_max=2, predictions="near")
"""Small, so that a test can damage every byte of its file."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "case.safetensors"
    RECIPE.build().save(path)
    return path


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.id == expected.id
    assert found.head == expected.head
    assert found.hyperparameters == expected.hyperparameters
    assert found.origin == expected.origin
    assert found.hazards == expected.hazards
    assert torch.equal(found.annotations, expected.annotations)
    assert len(found.feature_maps) == len(expected.feature_maps)
    for one, other in zip(found.feature_maps, expected.feature_maps, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@quickly
@given(recipe=recipes(shuffled_rows=True))
def test_a_saved_batch_is_loaded_again(folder: Path, recipe: Recipe):
    path = folder / "case.safetensors"
    recipe.build().save(path)
    assert_same(Batch.load(path), recipe.build())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_settings_and_strange_predictions(tmp_path: Path, dtype: torch.dtype):
    """Saving and loading preserves dtype, hyperparameters, origin, and predictions of NaN and -inf."""
    batch = dataclasses.replace(
        RECIPE.build().to(dtype=dtype),
        hyperparameters=Hyperparameters(topk=7, topk2=1, alpha=0.1),
        origin='recorded: "é" \n after',
    )
    batch.feature_maps[0][0, 0, 0, :2] = torch.tensor([torch.nan, -torch.inf])
    batch.save(tmp_path / "case.safetensors")
    assert_same(Batch.load(tmp_path / "case.safetensors"), batch)


def test_paths_may_be_text(tmp_path: Path):
    RECIPE.build().save(f"{tmp_path}/case.safetensors")
    assert_same(Batch.load(f"{tmp_path}/case.safetensors"), RECIPE.build())


def test_gradients_and_views_can_be_saved(tmp_path: Path):
    maps = tuple(
        level.flip(3).flip(3).transpose(2, 3).requires_grad_() for level in RECIPE.build().feature_maps
    )
    batch = dataclasses.replace(RECIPE.build(), feature_maps=maps)
    batch.save(tmp_path / "case.safetensors")
    loaded = Batch.load(tmp_path / "case.safetensors")
    assert loaded.id == batch.id
    assert not any(level.requires_grad for level in loaded.feature_maps)


def test_a_loaded_batch_does_not_depend_on_its_file(file: Path):
    batch = Batch.load(file)
    file.write_bytes(bytes(file.stat().st_size))
    file.unlink()
    assert_same(batch, RECIPE.build())


def test_nothing_is_left_beside_the_file(file: Path):
    assert [path.name for path in file.parent.iterdir()] == ["case.safetensors"]


def test_a_save_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch):
    """If saving raises, as on a full disk, the old file stays complete, and no unfinished file remains."""

    def half_a_file(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tal_conformance.core.case_file.save_file", half_a_file)
    with pytest.raises(OSError, match="No space left"):
        Recipe().build().save(file)
    assert_same(Batch.load(file), RECIPE.build())
    test_nothing_is_left_beside_the_file(file)


def test_files_of_the_same_batch_are_the_same(file: Path, tmp_path: Path):
    RECIPE.build().save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


# Files without a valid batch


def test_a_missing_file_is_not_an_invalid_case(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Batch.load(tmp_path / "none.safetensors")


def test_every_truncated_file_is_rejected(file: Path):
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(InvalidCase, match=r"case\.safetensors"):
            Batch.load(file)


def test_every_flipped_bit_is_found(file: Path):
    """A case file with any bit of its header or data flipped is rejected."""
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(InvalidCase, match=r"case\.safetensors"):
            Batch.load(file)


def test_a_longer_file_is_rejected(file: Path):
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(InvalidCase):
        Batch.load(file)


class Bomb:
    """An object that records if it is ever unpickled."""

    exploded = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Bomb, "exploded", True)


def a_pickle() -> bytes:
    import pickle  # noqa: TID251  (to see it refused)

    return pickle.dumps(Bomb())


def a_torch_file() -> bytes:
    with io.BytesIO() as file:
        torch.save({"bomb": Bomb()}, file)  # noqa: TID251  (to see it refused)
        return file.getvalue()


def a_zip_file() -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("case.json", "{}")
        return file.getvalue()


STRANGERS = {
    "pickle": a_pickle(),
    "torch": a_torch_file(),
    "zip": a_zip_file(),
    "empty": b"",
    "json": b"{}",
    "huge header": b"\xff" * 64,
}


@pytest.mark.parametrize("content", STRANGERS.values(), ids=list(STRANGERS))
def test_files_of_other_kinds_are_rejected_without_being_executed(tmp_path: Path, content: bytes):
    path = tmp_path / "case.safetensors"
    path.write_bytes(content)
    with pytest.raises(InvalidCase, match=r"cannot read case file .*case\.safetensors"):
        Batch.load(path)
    assert not Bomb.exploded


def test_a_folder_is_not_a_case_file(tmp_path: Path):
    with pytest.raises(OSError, match="directory"):
        Batch.load(tmp_path)


def test_a_file_of_someone_else_is_rejected(tmp_path: Path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidCase, match="the header has no entry 'tal-conformance'"):
        Batch.load(tmp_path / "model.safetensors")


Case = dict[str, Any]
Tensors = dict[str, Tensor]


def forged(path: Path, change: Callable[[Case, Tensors], Any], case_text: str | None = None) -> Path:
    """Write a case file whose content `change` has modified, with a valid checksum; return its path."""
    batch = RECIPE.build()
    tensors = {"annotations": batch.annotations.clone(), "level.0": batch.feature_maps[0].clone()}
    case: Case = {
        "schema": 1,
        "head": dataclasses.asdict(batch.head),
        "hyperparameters": dataclasses.asdict(batch.hyperparameters),
        "origin": batch.origin,
        "hazards": sorted(batch.hazards),
    }
    change(case, tensors)
    case["sha256"] = digest(case, tensors)
    save_file(tensors, path, {METADATA: json.dumps(case) if case_text is None else case_text})
    return path


def test_an_unchanged_forgery_is_the_batch(tmp_path: Path):
    """A file that `forged` writes without a change is read as the batch.

    So the errors in the tests below come from their changes alone.
    """
    assert_same(Batch.load(forged(tmp_path / "case.safetensors", lambda case, tensors: None)), RECIPE.build())


FORGERIES: dict[str, tuple[Callable[[Case, Tensors], Any], str]] = {
    "a newer schema": (
        lambda case, _: case.update(schema=2),
        "unknown schema 2: .* a newer version",
    ),
    "no schema": (lambda case, _: case.pop("schema"), "unknown schema None"),
    "no head": (lambda case, _: case.pop("head"), "invalid head None: expected strides"),
    "strides of text": (lambda case, _: case["head"].update(strides=["8"]), "expected strides"),
    "strides of truth values": (lambda case, _: case["head"].update(strides=[True]), "expected strides"),
    "no strides": (lambda case, _: case["head"].update(strides=[]), "at least one level"),
    "a field of the head that is not known": (lambda case, _: case["head"].update(depth=3), "depth"),
    "classes of text": (lambda case, _: case["head"].update(classes="1"), "expected strides"),
    "no classes": (lambda case, _: case["head"].update(classes=0), "positive strides, classes and reg_max"),
    "a head of other channels": (lambda case, _: case["head"].update(classes=2), r"expected \(B, 10, H, W\)"),
    "class weights of text": (
        lambda case, _: case["head"].update(class_weights=["1"]),
        "expected a list of numbers",
    ),
    "two class weights for one class": (
        lambda case, _: case["head"].update(class_weights=[1.0, 2.0]),
        "expected 1 finite numbers",
    ),
    "a negative class weight": (
        lambda case, _: case["head"].update(class_weights=[-1.0]),
        "finite numbers of at least 0",
    ),
    "a class weight that float32 does not hold": (
        lambda case, _: case["head"].update(class_weights=[0.1]),
        "class weight 0 is 0.1, expected a float32 number such as 0.1000000",
    ),
    "no hyperparameters": (lambda case, _: case.pop("hyperparameters"), "invalid hyperparameters None"),
    "half an anchor for topk": (
        lambda case, _: case["hyperparameters"].update(topk=2.5),
        "topk 2.5: expected an integer",
    ),
    "an epoch and a half": (
        lambda case, _: case["hyperparameters"].update(updates=1.5),
        "updates 1.5: expected an integer",
    ),
    "updates below zero": (
        lambda case, _: case["hyperparameters"].update(updates=-1),
        "updates is -1, expected an integer from 0",
    ),
    "alpha of text": (
        lambda case, _: case["hyperparameters"].update(alpha="1"),
        "alpha '1': expected a finite number",
    ),
    "alpha of nothing": (
        lambda case, _: case["hyperparameters"].update(alpha=None),
        "alpha None: expected a finite",
    ),
    "an infinite beta": (
        lambda case, _: case["hyperparameters"].update(beta=float("inf")),
        "beta inf: expected a finite",
    ),
    "a gain that is not known": (
        lambda case, _: case["hyperparameters"].update(depth_gain=1.0),
        "depth_gain",
    ),
    "no origin": (lambda case, _: case.pop("origin"), "invalid origin None: expected a string"),
    "hazards of numbers": (lambda case, _: case.update(hazards=[1]), "expected a list of names"),
    "no hazards": (lambda case, _: case.pop("hazards"), "invalid hazards None: expected a list of names"),
    "no annotations": (
        lambda _, tensors: tensors.pop("annotations"),
        r"unexpected tensors \['level.0'\]: expected \['annotations', 'level.0'\]",
    ),
    "no level": (
        lambda _, tensors: tensors.pop("level.0"),
        r"unexpected tensors \['annotations'\]: expected",
    ),
    "a level too many": (
        lambda _, tensors: tensors.update({"level.1": torch.zeros(1)}),
        r"unexpected tensors \['annotations', 'level.0', 'level.1'\]: expected",
    ),
    "a level of three dimensions": (
        lambda _, tensors: tensors.update({"level.0": tensors["level.0"][0].clone()}),
        r"feature map 0 is \(9, 2, 5\)",
    ),
    "a level of whole numbers": (
        lambda _, tensors: tensors.update({"level.0": tensors["level.0"].int()}),
        "feature map 0 is torch.int32",
    ),
    "annotations of five columns": (
        lambda _, tensors: tensors.update(annotations=tensors["annotations"][:, :5].clone()),
        r"annotations are \(2, 5\)",
    ),
    "annotations that are not numbers": (
        lambda _, tensors: tensors["annotations"].fill_(torch.nan),
        "annotation row 0 is not finite",
    ),
    "an image outside the batch": (
        lambda _, tensors: tensors["annotations"].select(1, 0).fill_(2),
        "annotation row 0 names image 2, expected 0 to 1",
    ),
}


@pytest.mark.parametrize(("change", "message"), FORGERIES.values(), ids=list(FORGERIES))
def test_invalid_content_is_rejected(tmp_path: Path, change: Callable[[Case, Tensors], Any], message: str):
    path = forged(tmp_path / "case.safetensors", change)
    with pytest.raises(InvalidCase, match=message) as refusal:
        Batch.load(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "null", '"text"', "[" * 100_000, '{"schema": 1', '{"schema": "1"}']
)
def test_invalid_json_is_rejected(tmp_path: Path, text: str):
    """Invalid JSON is rejected, including deeply nested JSON, which could overflow the stack."""
    path = forged(tmp_path / "case.safetensors", lambda case, tensors: None, text)
    with pytest.raises(InvalidCase):
        Batch.load(path)


@pytest.mark.parametrize("checksum", ["0" * 64, None, 0])
def test_a_wrong_checksum_is_rejected(tmp_path: Path, checksum: object):
    path = forged(
        tmp_path / "case.safetensors", lambda *_: None, json.dumps({"schema": 1, "sha256": checksum})
    )
    with pytest.raises(InvalidCase, match="the checksum does not match the content"):
        Batch.load(path)


def test_class_weights_are_saved(tmp_path: Path):
    """Class weights are read back, and change the batch's id.

    A case file of a head without class weights has no entry for class weights.
    """
    plain = RECIPE.build()
    weighted = dataclasses.replace(plain, head=dataclasses.replace(plain.head, class_weights=(0.25,)))
    assert weighted.id != plain.id
    weighted.save(tmp_path / "case.safetensors")
    loaded = Batch.load(tmp_path / "case.safetensors")
    assert loaded.head == weighted.head
    assert loaded.id == weighted.id
    plain.save(tmp_path / "plain.safetensors")
    assert b"class_weights" not in (tmp_path / "plain.safetensors").read_bytes()


def test_settings_that_a_file_does_not_know_have_their_defaults(tmp_path: Path):
    """A case file without a hyperparameter is loaded with that hyperparameter's default."""
    path = forged(tmp_path / "case.safetensors", lambda case, _: case["hyperparameters"].pop("dfl_gain"))
    assert_same(Batch.load(path), RECIPE.build())


def test_whole_numbers_are_floats_where_floats_are_meant(tmp_path: Path):
    """A case file with the integer 6 for the float hyperparameter beta is read as 6.0."""
    path = forged(tmp_path / "case.safetensors", lambda case, _: case["hyperparameters"].update(beta=6))
    assert_same(Batch.load(path), RECIPE.build())
