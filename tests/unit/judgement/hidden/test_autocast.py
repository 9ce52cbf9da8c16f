"""Official losses that do not expose their assignment, under autocast: unknown target scores are rounded too."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject


class Hidden(UltralyticsAdapter):
    """The installed release of Ultralytics, which does not expose its assignment, with a factor on its class loss."""

    factor = 1.0

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        assert loss.items is not None
        factors = loss.items.new_tensor([1.0, self.factor, 1.0])
        total = loss.total * factors if loss.total.ndim else loss.total
        return replace(loss, total=total, items=loss.items * factors, assignment=None, inputs=None)


class Wrong(Hidden):
    factor = 1.01


SATURATED = Recipe(
    images=((Truth("ordinary", at=(4, 12), size=(10, 0)),),), reg_max=1, predictions="saturated"
)
BATCHES = [
    (SATURATED, torch.float16),
    (Recipe(images=((Truth("ordinary"),),), predictions="near", levels=2), torch.bfloat16),
]


@pytest.mark.parametrize(("recipe", "dtype"), BATCHES, ids=["float16", "bfloat16"])
def test_scores_that_are_not_exposed_are_rounded_by_an_unknown_amount(recipe: Recipe, dtype: torch.dtype):
    batch = replace(recipe.build().to(dtype=dtype), autocast=True)
    right = Subject(implementation_from(Hidden(), "hidden"), "cpu")
    assert not judge_against_reference(right, batch).verdict.fails
    with pytest.raises(Failure, match=r"cls loss|class logits"):
        judge_against_reference(Subject(implementation_from(Wrong(), "wrong"), "cpu"), batch)
