"""IOU and TAL-MET: overlap and alignment metric."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Checker


@pytest.mark.clauses("TAL-MET")
@given(recipe=STRATEGIES["metric"])
def test_metric(checker: Checker, recipe: Recipe) -> None:
    """Predictions near the ground truth, as after training, right on it, and far from it."""
    checker(recipe)
