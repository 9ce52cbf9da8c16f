"""ANN: rows of the data loader to ground truths."""

import pytest
from hypothesis import given

from conformance.batches import Recipe
from conformance.conforming import Conformance
from conformance.lanes import LANES


@pytest.mark.clauses("ANN")
@given(recipe=LANES["annotations"])
def test_annotations(conforms: Conformance, recipe: Recipe) -> None:
    """Any number of rows an image, none included; boxes on the border, outside and beyond the corner."""
    conforms(recipe)
