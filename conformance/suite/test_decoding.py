"""PRE, ANC, DEC: feature maps to anchors and boxes."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Checker


@pytest.mark.clauses("DEC")
@given(recipe=STRATEGIES["decoding"])
def test_decoding(checker: Checker, recipe: Recipe) -> None:
    """Any grid, any number of levels and bins."""
    checker(recipe)
