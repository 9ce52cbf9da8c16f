"""TAL-TGT, TAL-NORM, TAL-EMPTY: the targets (label, box, scores) of every anchor."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL-TGT", "TAL-NORM", batches=STRATEGIES["targets"])
def test_targets(checker: Checker, recipe: Recipe) -> None:
    """Judge the targets of every anchor: label, box and target scores."""
    checker(recipe)


@check("TAL-EMPTY", batches=STRATEGIES["no_ground_truth"])
def test_no_ground_truth(checker: Checker, recipe: Recipe) -> None:
    """TAL-EMPTY-1, LOSS-GRAD-1: batches without ground truths have no positives, but have gradients."""
    checker(recipe)
