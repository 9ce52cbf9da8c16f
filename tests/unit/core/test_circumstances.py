"""Circumstances of a recorded batch: they survive a case file, and a hostile header does no harm."""

import math
from pathlib import Path

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content, read_circumstances, write
from tal_conformance.core.circumstances import Circumstances

BATCH = Recipe().build()
KNOWN = Circumstances(
    step=31,
    epoch=2,
    learning_rates=(0.01, 0.1),
    amp=False,
    autocast="float16",
    loss_scale=65536.0,
    world_size=2,
    rank=1,
    source="ultralytics 8.4.190",
    loss=math.inf,
    reasons=("raised",),
    exception="IndexError: 3",
    raised_at="tal.py:10 in get",
    traceback="a\nb",
    dtypes=("float16", "float32"),
)


def test_circumstances_survive_a_case_file(tmp_path: Path):
    path = tmp_path / "case.safetensors"
    write(path, Content(*(getattr(BATCH, name) for name in Content._fields)), KNOWN)
    assert read_circumstances(path) == KNOWN
    assert Batch.load(path).id == BATCH.id  # readers that do not know circumstances ignore them
    BATCH.save(path)
    assert read_circumstances(path) == Circumstances()


def test_numbers_that_json_lacks_are_words():
    values = Circumstances(loss=math.nan, learning_rates=(math.inf,)).as_dict()
    assert (values["loss"], values["learning_rates"]) == ("nan", ["inf"])
    assert math.isnan(Circumstances.from_dict(values).loss or 0)


@pytest.mark.parametrize(
    "values",
    [None, [], 3, {"step": "one"}, {"step": True}, {"learning_rates": 3}, {"learning_rates": [1, "x"]}, {"loss": []},
     {"reasons": [1]}, {"amp": 1}, {"unknown": 1}, {"exception": None}],
)  # fmt: skip
def test_values_of_other_types_are_ignored(values: object):
    assert Circumstances.from_dict(values) == Circumstances()


def test_words_name_what_is_known():
    assert KNOWN.words() == (
        "step 31, epoch 2, learning rates 0.01 to 0.1, autocast float16, loss scale 65536, rank 1 of 2, loss inf"
    )
    assert Circumstances().words() == ""
