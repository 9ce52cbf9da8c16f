"""TAL-CAND: anchors inside ground truths; small ground truths are widened."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL-CAND", "OBB-CAND", batches=STRATEGIES["borders"])
def test_borders(checker: Checker, recipe: Recipe) -> None:
    """TAL-CAND-1: an anchor on the border of a box is not a candidate."""
    checker(recipe)


@check("TAL-CAND", batches=STRATEGIES["small_boxes"])
def test_small_boxes(checker: Checker, recipe: Recipe) -> None:
    """TAL-CAND-2: short sides of a ground truth are widened to the length that the dialect prescribes."""
    checker(recipe)
