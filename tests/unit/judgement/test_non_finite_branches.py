"""Non-finite predictions of end-to-end heads: they may affect one branch and the total, and nothing else."""

from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.non_finite import NonFiniteBatch
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject

RECIPE = Recipe(images=((Truth("ordinary"),), ()), strides=(8, 16), classes=2, predictions="near", task="e2e")
OF_ONE2MANY, OF_ONE2ONE = (
    NonFiniteBatch(RECIPE, class_logit=True),
    NonFiniteBatch(RECIPE, class_logit=True, place=1),
)


class OneBranchSpoilsBoth(ReferenceAdapter):
    """Takes the mean of both branches' class logits where one of them is not finite."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Any:
        levels = len(feature_maps) // 2
        many, one = feature_maps[:levels], feature_maps[levels:]
        spoilt = [
            second + 0 * first.nan_to_num(nan=torch.inf) for first, second in zip(many, one, strict=True)
        ]
        return super().loss((*many, *spoilt), *arguments)


class HidesNaN(ReferenceAdapter):
    """Replaces NaN by zero before anything is computed."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Any:
        return super().loss(tuple(level.nan_to_num() for level in feature_maps), *arguments)


def verdict_of(adapter: type[ReferenceAdapter], batch: NonFiniteBatch) -> Verdict:
    """Return the verdict on an adapter, whether or not it fails."""
    try:
        return judge_against_reference(
            Subject(implementation_from(adapter, "mine"), "cpu"), batch.build()
        ).verdict
    except Failure as failure:
        return failure.verdict


@pytest.mark.parametrize("batch", [OF_ONE2MANY, OF_ONE2ONE], ids=["one2many", "one2one"])
def test_the_reference_conforms(batch: NonFiniteBatch):
    assert verdict_of(ReferenceAdapter, batch) in (Verdict.EXACT, Verdict.WITHIN_BOUND)


def test_the_place_decides_the_branch():
    many, one = OF_ONE2MANY.build(), OF_ONE2ONE.build()
    assert [bool(level.isnan().any()) for level in many.feature_maps] == [True, False, False, False]
    assert [bool(level.isnan().any()) for level in one.feature_maps] == [False, False, True, False]


@pytest.mark.parametrize("batch", [OF_ONE2MANY, OF_ONE2ONE], ids=["one2many", "one2one"])
def test_a_hidden_nan_is_found(batch: NonFiniteBatch):
    assert verdict_of(HidesNaN, batch).fails


def test_a_branch_that_is_not_finite_because_the_other_is_not_is_found():
    assert verdict_of(OneBranchSpoilsBoth, OF_ONE2MANY).fails
