"""TAL-CONF: anchors that several ground truths select."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL-CONF", batches=STRATEGIES["conflict"])
def test_conflict(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-1: of nested, equal or overlapping ground truths, the largest overlap wins a contested anchor."""
    checker(recipe)


@check("TAL-CONF", batches=STRATEGIES["topk2"])
def test_topk2(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-2: with topk2 below k, each ground truth keeps only its `topk2` best anchors."""
    checker(recipe)


@check("TAL-CONF", batches=STRATEGIES["topk2_above_k"])
def test_topk2_above_k(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-2: with topk2 above k, a ground truth keeps anchors assigned to it that it did not select."""
    checker(recipe)
