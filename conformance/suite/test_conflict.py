"""TAL-CONF: anchors that several ground truths select."""

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL-CONF", batches=STRATEGIES["conflict"])
def test_conflict(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-1: nested, identical and overlapping ground truths."""
    checker(recipe)


@check("TAL-CONF", batches=STRATEGIES["topk2"])
def test_topk2(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-2: heads that keep only their best anchors."""
    checker(recipe)


@check("TAL-CONF", batches=STRATEGIES["topk2_above_k"])
def test_topk2_above_k(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-2: a ground truth keeps more anchors than it selected, as it wins contested ones."""
    checker(recipe)
