"""LOSS: the three terms, their sum and its gradient."""

import pytest
from hypothesis import given

from conformance.batches import Recipe
from conformance.conforming import Conformance
from conformance.lanes import LANES


@pytest.mark.clauses("LOSS")
@given(recipe=LANES["loss"])
def test_loss(conforms: Conformance, recipe: Recipe) -> None:
    """Value and gradient on batches of all kinds."""
    conforms(recipe)


@pytest.mark.clauses("LOSS")
@given(recipe=LANES["loss_of_large_boxes"])
def test_loss_of_large_boxes(conforms: Conformance, recipe: Recipe) -> None:
    """LOSS-DFL-1: target distances beyond the last bin."""
    conforms(recipe)
