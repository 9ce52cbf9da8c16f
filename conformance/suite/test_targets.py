"""TAL-TGT, TAL-NORM, TAL-EMPTY: what each anchor must learn."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import LANES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Conformance


@pytest.mark.clauses("TAL-TGT")
@given(recipe=LANES["targets"])
def test_targets(conforms: Conformance, recipe: Recipe) -> None:
    """Labels, boxes and target scores."""
    conforms(recipe)


@pytest.mark.clauses("TAL-EMPTY")
@given(recipe=LANES["no_ground_truth"])
def test_no_ground_truth(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-EMPTY-1, LOSS-GRAD-1: no ground truth in the whole batch."""
    conforms(recipe)
