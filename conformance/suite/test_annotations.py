"""ANN: rows of the data loader to ground truths."""

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("ANN", batches=STRATEGIES["annotations"])
def test_annotations(checker: Checker, recipe: Recipe) -> None:
    """Judge batches with any number of rows an image, also zero; boxes on the border, outside and beyond the corner."""
    checker(recipe)
