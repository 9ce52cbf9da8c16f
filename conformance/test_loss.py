"""LOSS: the three terms, their sum and its gradient."""

import pytest
from hypothesis import given

from conformance.batches import Recipe, recipes
from conformance.conforming import Conformance


@pytest.mark.clauses("LOSS")
@given(recipe=recipes(bins=(16, 2, 4, 8, 32)))
def test_loss(conforms: Conformance, recipe: Recipe):
    """Value and gradient on batches of all kinds."""
    conforms(recipe)


@pytest.mark.clauses("LOSS")
@given(recipe=recipes(kinds=("huge", "ordinary"), bins=(16, 4, 2, 8), predictions=("near", "random")))
def test_loss_of_large_boxes(conforms: Conformance, recipe: Recipe):
    """LOSS-DFL-1: target distances beyond the last bin."""
    conforms(recipe)
