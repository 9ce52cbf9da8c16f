"""PRE, ANC, DEC: feature maps to anchors and boxes."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import LANES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Conformance


@pytest.mark.clauses("DEC")
@given(recipe=LANES["decoding"])
def test_decoding(conforms: Conformance, recipe: Recipe) -> None:
    """Any grid, any number of levels and bins."""
    conforms(recipe)
