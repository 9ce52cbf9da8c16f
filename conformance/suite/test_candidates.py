"""TAL-CAND: anchors inside ground truths, small ones widened."""

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL-CAND", batches=STRATEGIES["borders"])
def test_borders(checker: Checker, recipe: Recipe) -> None:
    """TAL-CAND-1: an anchor on the border is none of the box's candidates."""
    checker(recipe)


@check("TAL-CAND", batches=STRATEGIES["small_boxes"])
def test_small_boxes(checker: Checker, recipe: Recipe) -> None:
    """TAL-CAND-2: the floor of the sides, of the dialect that the implementation is held to."""
    checker(recipe)
