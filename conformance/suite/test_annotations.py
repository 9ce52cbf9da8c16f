"""ANN: rows of the data loader to ground truths."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Checker


@pytest.mark.clauses("ANN")
@given(recipe=STRATEGIES["annotations"])
def test_annotations(checker: Checker, recipe: Recipe) -> None:
    """Any number of rows an image, none included; boxes on the border, outside and beyond the corner."""
    checker(recipe)
