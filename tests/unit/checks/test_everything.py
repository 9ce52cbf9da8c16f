"""`check` runs every check of the suite on a given batch, so that it reproduces a failure of any of them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import tal_conformance.checks.everything
from tal_conformance import check
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.non_finite import NonFiniteBatch
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.everything import LARGEST_GENERATED
from tal_conformance.core.outcome import Assignment, Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure

BATCH = Recipe(
    images=((Truth("ordinary"), Truth("huge")), (Truth("ordinary", at=(3, 3)),)), predictions="near"
)
NAN = NonFiniteBatch(Recipe(images=((Truth("ordinary"),),), cells=(5, 5), predictions="near"), place=24)


class WrongAssigner(ReferenceAdapter):
    """A correct loss with a separate assigner that always uses k = 7."""

    def assign(self, inputs: Any) -> Assignment:
        return super().assign(replace(inputs, hyperparameters=replace(inputs.hyperparameters, topk=7)))


class OnTheCpu(ReferenceAdapter):
    def loss(self, *arguments: Any) -> Loss:
        honest = super().loss(*arguments)
        return replace(honest, items=honest.items + torch.zeros(3))


class WrongTerms(ReferenceAdapter):
    """A loss with the gradients of box and cls exchanged, and a correct sum."""

    def loss(self, *arguments: Any) -> Loss:
        honest = super().loss(*arguments)
        return replace(honest, total=honest.total[[1, 0, 2]])


class Noisy(ReferenceAdapter):
    """A loss whose items alternate between two values that differ by a rounding error, within all bounds."""

    calls = 0

    def loss(self, *arguments: Any) -> Loss:
        honest = super().loss(*arguments)
        self.calls += 1
        return replace(honest, items=honest.items * (1 + 1.2e-7 * (self.calls % 2)))


class WrongForOneImage(ReferenceAdapter):
    """A loss that is wrong for batches of one image only."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        honest = super().loss(feature_maps, *arguments)
        factor = 2 if len(feature_maps[0]) == 1 else 1
        return replace(honest, total=honest.total * factor, items=honest.items * factor)


class Cleaned(ReferenceAdapter):
    """A loss that replaces non-finite predictions by finite values."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        return super().loss(tuple(level.nan_to_num() for level in feature_maps), *arguments)


@pytest.mark.parametrize(
    ("adapter", "clause"),
    [
        (WrongAssigner, "TAL-TOPK-1"),
        (OnTheCpu, "DEVICE-1"),
        (WrongTerms, "LOSS-GRAD-1"),
        (Noisy, "DEVICE-3"),
        (WrongForOneImage, "META-SPLIT"),  # a relation that judges every image of the batch alone
    ],
)
def test_each_way_finds_its_own(adapter: type, clause: str):
    with pytest.raises(Failure) as caught:
        check(implementation_from(adapter(), "mine"), BATCH)
    assert caught.value.clause == clause


def test_numbers_that_are_none_have_their_own_clauses():
    batch = replace(NAN, class_logit=True).build()
    for name in ("reference", "ultralytics"):
        assert not check(find(name), batch).verdict.fails
    with pytest.raises(Failure, match="NONFINITE-1"):
        check(implementation_from(Cleaned(), "mine"), batch)


@pytest.mark.parametrize("name", ["reference", "ultralytics", "article", "rearranged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_right_is_right_in_every_way(name: str, dtype: torch.dtype):
    batch = replace(BATCH.build().to(dtype=dtype), autocast=dtype != torch.float32)
    assert not check(name, batch).verdict.fails


def test_a_batch_larger_than_any_that_is_drawn_is_not_related(monkeypatch: pytest.MonkeyPatch):
    """On a batch above `LARGEST_GENERATED`, `check` skips the relations, and does not report their faults."""
    monkeypatch.setattr(tal_conformance.checks.everything, "LARGEST_GENERATED", 10)
    assert not check(implementation_from(WrongForOneImage(), "mine"), BATCH).verdict.fails
    assert LARGEST_GENERATED > 4 * 12 * 12
