"""IOU and TAL-MET: overlap and alignment metric."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL-MET", "IOU", "OBB-MET", "OBB-IOU", batches=STRATEGIES["metric"])
def test_metric(checker: Checker, recipe: Recipe) -> None:
    """Judge overlap and metric of predicted boxes near a ground truth, equal to it, and far from it."""
    checker(recipe)
