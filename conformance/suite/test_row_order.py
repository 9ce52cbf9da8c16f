"""ANN-1, ANN-2: annotation rows that are not sorted by image, for dialects that allow them."""

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("ANN", batches=recipes(shuffled_rows=True, outside=True), share=3)
def test_rows_in_any_order(checker: Checker, recipe: Recipe) -> None:
    """ANN-2: if rows are not sorted by image, the ground truths of an image keep the order of their rows."""
    if checker.subject.implementation.dialect.rows_sorted:
        pytest.skip("the dialect requires rows sorted by image")
    checker(recipe)
