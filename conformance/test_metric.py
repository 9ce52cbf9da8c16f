"""IOU and TAL-MET: overlap and alignment metric."""

import pytest
from hypothesis import given

from conformance.batches import Recipe, recipes
from conformance.conforming import Conformance


@pytest.mark.clauses("TAL-MET")
@given(recipe=recipes(predictions=("near", "exact_hit", "random", "saturated")))
def test_metric(conforms: Conformance, recipe: Recipe):
    """Predictions near the ground truth, as after training, right on it, and far from it."""
    conforms(recipe)
