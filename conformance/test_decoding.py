"""PRE, ANC, DEC: feature maps to anchors and boxes."""

import pytest
from hypothesis import given

from conformance.batches import Recipe
from conformance.conforming import Conformance
from conformance.lanes import LANES


@pytest.mark.clauses("DEC")
@given(recipe=LANES["decoding"])
def test_decoding(conforms: Conformance, recipe: Recipe) -> None:
    """Any grid, any number of levels and bins."""
    conforms(recipe)
