"""`Batch`: its id, its one-line description, conversions, and the invalid contents that it rejects."""

import dataclasses
import math
import mmap
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.catalogue import hazards_of, with_hazards
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.core.batch import FEW_ROWS, Batch
from tal_conformance.core.case_file import digest
from tal_reference import Head, Hyperparameters

quickly = settings(deadline=None, derandomize=True, database=None, max_examples=50)
RECIPE = Recipe(
    ((Truth("ordinary", 1), Truth("tiny")), (), (Truth("huge", 2),)),
    (4, 6),
    (8, 16),
    classes=3,
    predictions="near",
)
Change = Callable[[Batch], Batch]


def with_map(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor], level: int = 0) -> Batch:
    maps = list(batch.feature_maps)
    maps[level] = change(maps[level].clone())
    return dataclasses.replace(batch, feature_maps=tuple(maps))


def with_rows(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    return dataclasses.replace(batch, annotations=change(batch.annotations.clone()))


def set_at(*place: int, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[place] = value
        return tensor

    return change


def next_float(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[-1] = torch.nextafter(tensor.view(-1)[-1], torch.tensor(torch.inf))
    return tensor


def test_sizes():
    """PRE-1, PRE-2: a batch derives images, anchors, grids and input size from the shapes of its feature maps."""
    batch = RECIPE.build()
    assert (batch.images, batch.anchors, batch.size, batch.grids) == (3, 24 + 6, (32, 48), ((4, 6), (2, 3)))
    assert [tuple(level.shape) for level in batch.feature_maps] == [(3, 67, 4, 6), (3, 67, 2, 3)]
    assert (batch.dtype, batch.device) == (torch.float32, torch.device("cpu"))


# Identity

CHANGES: dict[str, Change] = {
    "the last bit of the last prediction": lambda batch: with_map(batch, next_float, -1),
    "the sign of a zero": lambda batch: with_map(batch, set_at(0, 0, 0, 0, value=-0.0)),
    "the last bit of the last annotation": lambda batch: with_rows(batch, next_float),
    "the order of the annotation rows": lambda batch: with_rows(batch, lambda rows: rows.flip(0)),
    "one annotation less": lambda batch: with_rows(batch, lambda rows: rows[:-1]),
    "the order of the images": lambda batch: with_map(batch, lambda level: level.flip(0)),
    "another shape of the same bytes": lambda batch: with_map(
        batch, lambda level: level.reshape(3, -1, 6, 4)
    ),
    "another dtype": lambda batch: batch.to(dtype=torch.float64),
    "other strides": lambda batch: dataclasses.replace(batch, head=Head((8, 32), 3)),
    "the same channels divided otherwise": lambda batch: dataclasses.replace(
        batch, head=Head((8, 16), 7, 15)
    ),
    "topk": lambda batch: dataclasses.replace(batch, hyperparameters=Hyperparameters(topk=9)),
    "topk2": lambda batch: dataclasses.replace(batch, hyperparameters=Hyperparameters(topk2=1)),
    "alpha": lambda batch: dataclasses.replace(batch, hyperparameters=Hyperparameters(alpha=0.25)),
    "a gain": lambda batch: dataclasses.replace(batch, hyperparameters=Hyperparameters(dfl_gain=1.25)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_any_change_of_the_content_changes_the_id(change: Change):
    batch = with_map(RECIPE.build(), set_at(0, 0, 0, 0, value=0.0))
    assert change(batch).id != batch.id


def test_all_these_ids_differ_from_each_other():
    batch = with_map(RECIPE.build(), set_at(0, 0, 0, 0, value=0.0))
    ids = {change(batch).id for change in CHANGES.values()}
    assert len(ids) == len(CHANGES)
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in ids)


SAME: dict[str, Change] = {
    "origin": lambda batch: dataclasses.replace(batch, origin="recorded at step 3"),
    "hazards": lambda batch: dataclasses.replace(batch, hazards=frozenset()),
    "a copy in other memory": lambda batch: with_map(batch, lambda level: level[:, :, :, :].clone()),
    "another order in memory": lambda batch: with_map(
        batch, lambda level: level.to(memory_format=torch.channels_last)
    ),
    "no move": lambda batch: batch.to("cpu", torch.float32),
}


@pytest.mark.parametrize("change", SAME.values(), ids=list(SAME))
def test_changes_besides_the_content_do_not_change_the_id(change: Change):
    batch = RECIPE.build()
    assert change(batch).id == batch.id


# Another dtype or device


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_to_another_dtype(dtype: torch.dtype):
    """`Batch.to(dtype=...)` converts the feature maps, and leaves the annotations in float32."""
    batch = RECIPE.build()
    converted = batch.to(dtype=dtype)
    assert converted.dtype == dtype
    assert all(
        torch.equal(a.to(dtype), b) for a, b in zip(batch.feature_maps, converted.feature_maps, strict=True)
    )
    assert torch.equal(converted.annotations, batch.annotations)
    assert converted.annotations.dtype == torch.float32
    assert not converted.hazards  # dropped; with_hazards detects hazards anew
    assert converted.origin == batch.origin


def test_rounding_to_another_dtype_can_bring_a_hazard():
    """A class logit of 16.99 is not saturated in float32, but bfloat16 rounds it to 17, which is saturated."""
    recipe = Recipe(((Truth("huge"),),), (4, 4), predictions="constant")
    batch = with_map(recipe.build(), set_at(0, -1, 0, 0, value=16.99))
    batch = dataclasses.replace(batch, hazards=hazards_of(batch))
    assert "saturated" not in batch.hazards
    assert "saturated" in with_hazards(batch.to(dtype=torch.bfloat16)).hazards


def test_to_another_device():
    """`Batch.to("meta")` moves all tensors without reading a value; the meta device stands for any device."""
    moved = RECIPE.build().to("meta")
    assert {moved.device.type, *(level.device.type for level in moved.feature_maps)} == {"meta"}
    assert moved.annotations.device.type == "meta"
    assert moved.hazards == RECIPE.build().hazards


def test_to_leaves_the_original_alone():
    batch = RECIPE.build()
    before = batch.id
    batch.to("cpu", torch.float16)
    assert RECIPE.build().id == before == batch.id


# The description


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (Recipe(), "1 image 32x32 px, stride 8, 1 class: image 0: no GT; varied predictions"),
        (
            Recipe(((Truth("ordinary"),),), (2, 5), predictions="constant", reg_max=8),
            (
                "1 image 40x16 px, stride 8, 1 class, reg_max 8: image 0: "
                "class 0 at (1.75, 0.25)-(11.75, 10.25); constant predictions"
            ),
        ),
        (
            Recipe(((), (Truth("aligned", 1), Truth("identical"))), strides=(8, 16), classes=2, levels=2),
            (
                "2 images 32x32 px, strides 8/16, 2 classes: image 0: no GT; "
                "image 1: class 1 at (0, 0)-(8, 8), class 1 at (0, 0)-(8, 8); quantised predictions"
            ),
        ),
        (
            Recipe(
                predictions="saturated",
                images=((Truth("huge"),) * 8,),
                hyperparameters=Hyperparameters(topk=3),
            ),
            "1 image 32x32 px, stride 8, 1 class, topk 3: image 0: "
            + "class 0 at (0, 0)-(30, 30), " * 6
            + "and 2 more; quantised and saturated predictions",
        ),
        (
            Recipe(((),) * 5 + ((Truth("aligned"),),) * 4),
            (
                "9 images 32x32 px, stride 8, 1 class: image 0: no GT; image 1: no GT; image 2: no GT; "
                "image 3: no GT; image 4: no GT; image 5: class 0 at (0, 0)-(8, 8); "
                "3 more images, 3 GT; varied predictions"
            ),
        ),
    ],
    ids=["no GT", "one GT", "two images", "many GTs", "many images"],
)
def test_description(recipe: Recipe, line: str):
    batch = recipe.build()
    assert batch.describe() == line
    assert repr(batch) == f"<Batch {batch.id}: {line}>"


def test_the_repr_of_a_batch_on_another_device_reads_no_values():
    assert repr(RECIPE.build().to("meta")) == "<Batch on meta>"


@quickly
@given(recipe=recipes())
def test_description_is_one_readable_line(recipe: Recipe):
    batch = recipe.build()
    line = batch.describe()
    assert line.isprintable()
    assert line.count("class ") - (batch.head.classes == 1) <= 6 * batch.images + 1
    assert all(f"image {image}: " in line for image in range(batch.images))


# Invalid batches

WRONG: dict[str, tuple[Change, str]] = {
    "a map too few": (
        lambda batch: dataclasses.replace(batch, feature_maps=batch.feature_maps[:1]),
        "got 1 feature maps for 2 strides",
    ),
    "a channel too many": (
        lambda batch: dataclasses.replace(batch, head=Head((8, 16), 2)),
        r"feature map 0 is \(3, 67, 4, 6\), expected \(B, 66, H, W\)",
    ),
    "three dimensions": (
        lambda batch: with_map(batch, lambda level: level[0], 1),
        r"feature map 1 is \(67, 2, 3\), expected \(B, 67, H, W\)",
    ),
    "no cell": (
        lambda batch: with_map(batch, lambda level: level[:, :, :0], 1),
        r"feature map 1 is \(3, 67, 0, 3\)",
    ),
    "an image missing in a map": (
        lambda batch: with_map(batch, lambda level: level[:2], 1),
        "feature map 1 has 2 images, expected 3 as in the first map",
    ),
    "two dtypes": (
        lambda batch: with_map(batch, lambda level: level.double(), 1),
        "feature map 1 is torch.float64 on cpu, the first torch.float32 on cpu",
    ),
    "whole numbers": (
        lambda batch: batch.to(dtype=torch.int32),
        "feature map 0 is torch.int32 on cpu",
    ),
    "two devices": (
        lambda batch: with_map(batch, lambda level: level.to("meta"), 1),
        "feature map 1 is torch.float32 on meta",
    ),
    "annotations elsewhere": (
        lambda batch: with_rows(batch, lambda rows: rows.to("meta")),
        "annotations are on meta, the feature maps on cpu",
    ),
    "five columns": (
        lambda batch: with_rows(batch, lambda rows: rows[:, :5]),
        r"annotations are \(3, 5\) torch.float32, expected \(N, 6\)",
    ),
    "double annotations": (
        lambda batch: with_rows(batch, lambda rows: rows.double()),
        r"annotations are \(3, 6\) torch.float64, expected \(N, 6\) torch.float32",
    ),
    "NaN": (
        lambda batch: with_rows(batch, set_at(1, 3, value=torch.nan)),
        "annotation row 1 is not finite",
    ),
    "infinity": (
        lambda batch: with_rows(batch, set_at(2, 4, value=torch.inf)),
        "annotation row 2 is not finite",
    ),
    "an image beyond the last": (
        lambda batch: with_rows(batch, set_at(2, 0, value=3)),
        "annotation row 2 names image 3, expected 0 to 2",
    ),
    "an image before the first": (
        lambda batch: with_rows(batch, set_at(0, 0, value=-1)),
        "annotation row 0 names image -1, expected 0 to 2",
    ),
    "half an image": (
        lambda batch: with_rows(batch, set_at(0, 0, value=0.5)),
        "annotation row 0 names image 0.5",
    ),
    "a class beyond the last": (
        lambda batch: with_rows(batch, set_at(1, 1, value=3)),
        "annotation row 1 names class 3, expected 0 to 2",
    ),
    "a negative width": (
        lambda batch: with_rows(batch, set_at(1, 4, value=-0.5)),
        "annotation row 1 has a negative width or height",
    ),
    "a negative height": (
        lambda batch: with_rows(batch, set_at(1, 5, value=-0.5)),
        "annotation row 1 has a negative width or height",
    ),
}


OUT_OF_RANGE: dict[str, list[Any]] = {
    "topk": [0, -1, 2**20 + 1, 1.0, True, None],
    "topk2": [-1, 2**20 + 1, 1.0, False],
    **{
        name: [1e308, 3.5e38, -0.5, math.inf, math.nan, "1", None]
        for name in ("alpha", "beta", "box_gain", "cls_gain", "dfl_gain")
    },
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]
)
def test_hyperparameters_out_of_range_are_rejected_by_name(name: str, value: Any):
    batch = RECIPE.build()
    with pytest.raises(ValueError, match=f"^hyperparameter {name} is {re.escape(repr(value))}, expected "):
        dataclasses.replace(
            batch, hyperparameters=dataclasses.replace(batch.hyperparameters, **{name: value})
        )


@pytest.mark.parametrize("few", [FEW_ROWS, 0], ids=["few rows", "many rows"])
@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=list(WRONG))
def test_invalid_batches_are_rejected(
    change: Change, message: str, few: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tal_conformance.core.batch.FEW_ROWS", few)
    batch = dataclasses.replace(RECIPE.build(), hazards=frozenset())
    with pytest.raises(ValueError, match=message):
        change(batch)


def test_coordinates_outside_the_image_are_annotations():
    """ANN-1: a batch with an annotated coordinate below 0 is accepted."""
    batch = with_rows(RECIPE.build(), set_at(0, 2, value=-7.5))
    assert batch.annotations[0, 2] == -7.5


# Ids of large content


def untouched(size: int) -> torch.Tensor:
    """Return zeros of the given size that occupy no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return torch.frombuffer(mmap.mmap(-1, size, flags), dtype=torch.uint8)


@pytest.mark.slow
@pytest.mark.long
def test_bytes_beyond_32_bits_of_length_change_the_digest():
    zeros = untouched(2**32 + 16)
    digests = [digest({}, {"x": zeros[: 2**32 + count]}) for count in (0, 16)]
    zeros[-1] = 1
    digests.append(digest({}, {"x": zeros}))
    assert len(set(digests)) == len(digests)


def test_the_digest_is_the_sha256_of_all_parts(monkeypatch: pytest.MonkeyPatch):
    tensor = torch.arange(1000, dtype=torch.float64)
    whole = digest({}, {"x": tensor})
    monkeypatch.setattr("tal_conformance.core.case_file.PART", 333)
    assert digest({}, {"x": tensor}) == whole
    tensor[-1] = 0
    assert digest({}, {"x": tensor}) != whole
