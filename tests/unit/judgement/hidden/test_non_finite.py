"""Losses that hide non-finite predictions are found, whether by replacing, by clamping or by leaving out the image."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.non_finite import NonFiniteBatch
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import NEWEST

RECIPE = Recipe(
    images=((Truth("ordinary"),), (Truth("huge"),)),
    cells=(5, 5),
    strides=(8, 16),
    classes=2,
    predictions="near",
)
INSIDE = 37
"""An anchor of image 1 that is inside its ground truth."""
Change = Callable[[list[Tensor], Tensor], tuple[list[Tensor], Tensor]]
"""Returns what a loss computes from instead of feature maps and annotation rows."""


def replaced(maps: list[Tensor], rows: Tensor) -> tuple[list[Tensor], Tensor]:
    return [level.nan_to_num() for level in maps], rows


def clamped(maps: list[Tensor], rows: Tensor) -> tuple[list[Tensor], Tensor]:
    return [level.clamp(-50, 50) for level in maps], rows


def without_the_image(maps: list[Tensor], rows: Tensor) -> tuple[list[Tensor], Tensor]:
    finite = torch.stack([level.flatten(1).isfinite().all(1) for level in maps]).all(0)  # (B,)
    return [level.nan_to_num(0.0, 0.0, 0.0) for level in maps], rows[finite[rows[:, 0].long()]]


def unchanged(maps: list[Tensor], rows: Tensor) -> tuple[list[Tensor], Tensor]:
    return maps, rows


class Hiding(ReferenceAdapter):
    """The reference on changed predictions or annotation rows; its assignment is exposed or hidden."""

    def __init__(self, change: Change, hides: bool) -> None:
        super().__init__(NEWEST)
        self.name, self.exposes_stages = "hiding", not hides
        self.change, self.hides = change, hides

    def loss(self, feature_maps: Any, annotations: Any, head: Any, hyperparameters: Any) -> Loss:
        maps, rows = self.change(list(feature_maps), annotations)
        loss = super().loss(maps, rows, head, hyperparameters)
        return replace(loss, assignment=None, inputs=None) if self.hides else loss


def one(value: str, class_logit: bool) -> Batch:
    """Return the batch with one non-finite prediction."""
    return NonFiniteBatch(RECIPE, value, class_logit, place=INSIDE).build()


def many(value: float, level: int, image: int) -> Batch:
    """Return the batch with `value` in all predictions of one image at one level."""
    batch = RECIPE.build()
    maps = [each.clone() for each in batch.feature_maps]
    maps[level][image] = value
    return replace(batch, feature_maps=tuple(maps), hazards=batch.hazards | {"not_finite"})


BATCHES = {
    "a NaN class logit": one("nan", True),
    "a NaN distance logit": one("nan", False),
    "an infinite class logit": one("inf", True),
    "an infinite distance logit": one("inf", False),
    "a level of an image that is NaN": many(torch.nan, 0, 0),
    "a level of an image that is infinite": many(torch.inf, 1, 1),
}


def subject(change: Change, hides: bool) -> Subject:
    return Subject(implementation_from(Hiding(change, hides), "hiding"), "cpu")


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", BATCHES)
def test_the_reference_conforms(name: str, hides: bool):
    assert not judge_against_reference(subject(unchanged, hides), BATCHES[name]).verdict.fails


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("change", [replaced, without_the_image])
def test_a_loss_that_stays_finite_is_found(change: Change, name: str, hides: bool):
    with pytest.raises(Failure):
        judge_against_reference(subject(change, hides), BATCHES[name])


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", [name for name in BATCHES if "infinite" in name])
def test_clamped_logits_are_found(name: str, hides: bool):
    """Clamping infinite logits is reported, with and without exposed assignment (a clamped NaN would remain NaN)."""
    with pytest.raises(Failure):
        judge_against_reference(subject(clamped, hides), BATCHES[name])
