"""Losses that hide their assignment under autocast are explained by one sequence of roundings, or diverge."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.adapters.reordered import ReorderedAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.hidden import rounding_sequences
from tal_conformance.judgement.hidden.rounding_sequences import (
    SequencedItems,
    pixel_sequences,
    power_sequences,
)
from tal_conformance.judgement.rounding.mixed_precision import Interval
from tal_conformance.mutation.plant import HIDDEN, Hidden, implementation_with
from tal_conformance.mutation.planted_faults import FAULTS

DTYPES = (torch.float16, torch.bfloat16)
ONE_TRUTH = Recipe(images=((Truth("ordinary"),),), predictions="random", levels=1, seed=9, reg_max=4)
"""A batch with few positives on one level of stride 8."""


def under_autocast(recipe: Recipe, dtype: torch.dtype) -> Batch:
    return replace(recipe.build().to(dtype=dtype), autocast=True)


def holds(interval: Interval, values: Tensor) -> bool:
    return bool(((interval.low <= values) & (values <= interval.high)).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [8.0, 24.0])
@pytest.mark.parametrize("way", ["16 bits", "float32", "float32, stored at last", "pixels first"])
def test_boxes_computed_in_one_way_lie_in_one_sequence(dtype: torch.dtype, stride: float, way: str):
    torch.manual_seed(0)
    logits = torch.randn(50, 4, 16).to(dtype)
    centres = torch.arange(50)[:, None].expand(-1, 2) + 0.5
    work = dtype if way in ("16 bits", "pixels first") else torch.float32
    bins = torch.arange(16).to(work)
    distance = logits.to(work).softmax(-1) @ bins  # (P, 4)
    middle = centres.to(work)
    if way == "pixels first":
        low, high = (middle * stride - distance[:, :2] * stride, middle * stride + distance[:, 2:] * stride)
        boxes = torch.cat((low, high), 1)
    else:
        boxes = torch.cat((middle - distance[:, :2], middle + distance[:, 2:]), 1) * stride
    boxes = boxes.to(dtype) if "stored" in way else boxes
    strides = torch.full((50, 1), stride, dtype=torch.float64)
    found = pixel_sequences(logits.double().flatten(1), centres.double(), strides, 16, dtype)
    assert any(holds(each, boxes.double()) for each in found)
    assert not any(holds(each, boxes.double() * 1.001) for each in found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_powers_computed_in_one_way_lie_in_one_sequence(dtype: torch.dtype, alpha: float):
    torch.manual_seed(0)
    logits = torch.randn(200).to(dtype) * 4
    ways = {
        "score and power in 16 bits": logits.sigmoid() ** alpha,
        "power in float32": logits.sigmoid().float() ** alpha,
        "both in float32": logits.float().sigmoid() ** alpha,
    }
    found = power_sequences(logits.double(), alpha, dtype)
    for way, power in ways.items():
        near = [Interval(each.low * (1 - 1e-6), each.high * (1 + 1e-6)) for each in found]
        assert any(holds(each, power.double()) for each in near), way


RIGHT = {
    "ultralytics": UltralyticsAdapter(),
    "reordered": ReorderedAdapter(),
    "reordered in float64": ReorderedAdapter(torch.float64),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RIGHT)
def test_correct_losses_are_explained(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    judged = []

    def misses(found: SequencedItems, items: Tensor) -> Tensor:
        judged.append(found)
        return original(found, items)

    original = SequencedItems.misses
    monkeypatch.setattr(SequencedItems, "misses", misses)
    subject = Subject(implementation_from(Hidden(RIGHT[name]), name), "cpu")
    one_bin = [replace(ONE_TRUTH, reg_max=1, seed=seed, predictions="near") for seed in range(5)]
    for recipe in (ONE_TRUTH, replace(ONE_TRUTH, strides=(24,)), *one_bin):
        judge_against_reference(subject, under_autocast(recipe, dtype))
    assert judged


FOUND = {
    "sums_in_16_bits": "dfl",
    "weights_in_16_bits": "dfl",
    "cross_entropy_in_16_bits": "cls",
}


@pytest.mark.parametrize("name", FOUND)
def test_a_rounding_that_no_sequence_has_is_found(name: str, monkeypatch: pytest.MonkeyPatch):
    """The faults move the loss by less than the bounds for all sequences together."""
    subject = Subject(implementation_with(FAULTS[name], HIDDEN), "cpu")
    batch = under_autocast(ONE_TRUTH, torch.bfloat16)
    with pytest.raises(Failure, match="no sequence of roundings to 16 bits explains it") as caught:
        judge_against_reference(subject, batch)
    assert caught.value.stage == FOUND[name]
    monkeypatch.setattr(rounding_sequences, "MAX_PAIRS", 0)
    judge_against_reference(subject, batch)


def test_items_are_not_judged_by_sequence_where_two_ground_truths_may_own_an_anchor(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*_: Any) -> Tensor:
        raise AssertionError("an assignment that is not certain was judged by sequence")

    monkeypatch.setattr(SequencedItems, "misses", fail)
    recipe = Recipe(images=((Truth("ordinary"), Truth("identical")),), cells=(5, 5), predictions="near")
    subject = Subject(implementation_from(Hidden(UltralyticsAdapter()), "hidden"), "cpu")
    judge_against_reference(subject, under_autocast(recipe, torch.bfloat16))
