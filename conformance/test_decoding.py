"""PRE, ANC, DEC: feature maps to anchors and boxes."""

import pytest
from hypothesis import given

from conformance.batches import Recipe, recipes
from conformance.conforming import Conformance


@pytest.mark.clauses("DEC")
@given(recipe=recipes(bins=(16, 2, 4, 8, 32), predictions=("random", "saturated", "constant", "near")))
def test_decoding(conforms: Conformance, recipe: Recipe):
    """Any grid, any number of levels and bins."""
    conforms(recipe)
