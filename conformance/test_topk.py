"""TAL-TOPK: each ground truth takes its k best anchors."""

import pytest
from hypothesis import given

from conformance.batches import Recipe, Truth
from conformance.conforming import Conformance
from conformance.lanes import LANES


@pytest.mark.clauses("TAL-TOPK")
@given(recipe=LANES["topk"])
def test_topk(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-TOPK-1, with equal metrics at the k-th place."""
    conforms(recipe)


@pytest.mark.clauses("TAL-TOPK")
def test_fewer_anchors_than_k(conforms: Conformance) -> None:
    """TAL-TOPK-2: it is an error, and nothing may be silently dropped."""
    batch = Recipe(images=((Truth("ordinary"),),), cells=(3, 3)).build()
    because = f"k = {batch.hyperparameters.topk} is more than A = {batch.anchors}"
    conforms.must_raise(batch, "top-k", "TAL-TOPK-2", because)
