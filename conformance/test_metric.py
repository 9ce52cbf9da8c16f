"""IOU and TAL-MET: overlap and alignment metric."""

import pytest
from hypothesis import given

from conformance.batches import Recipe
from conformance.conforming import Conformance
from conformance.lanes import LANES


@pytest.mark.clauses("TAL-MET")
@given(recipe=LANES["metric"])
def test_metric(conforms: Conformance, recipe: Recipe) -> None:
    """Predictions near the ground truth, as after training, right on it, and far from it."""
    conforms(recipe)
