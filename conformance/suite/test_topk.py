"""TAL-TOPK: each ground truth selects its k best anchors."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import JUST_ENOUGH, STRATEGIES, TOO_SMALL
from tal_conformance.checks.registry import check
from tal_conformance.core.task import StageName, stage_name
from tal_conformance.suite.checker import Checker


@check("TAL-TOPK", batches=STRATEGIES["topk"])
def test_topk(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-1: the k best anchors are selected; of anchors with equal metrics at rank k, any may be selected."""
    checker(recipe)


@check("TAL-TOPK", batches=STRATEGIES["zeros_compete"])
def test_zeros_compete(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-1: candidates with metric 0 tie with all other anchors with metric 0 for selection."""
    checker(recipe)


@check("TAL-TOPK", batches=TOO_SMALL, share=8)
def test_fewer_anchors_than_k(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-2: for an image with fewer anchors than k, the implementation must raise."""
    batch = recipe.build()
    reason = f"k = {batch.hyperparameters.topk} is more than A = {batch.anchors}"
    stage = stage_name(
        StageName.TOP_K, batch.family.branches[0]
    )  # of an end-to-end head, one2many selects more
    checker.must_reject(batch, stage, "TAL-TOPK-2", reason)


@check("TAL-TOPK", batches=JUST_ENOUGH, share=8)
def test_as_many_anchors_as_k(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-2: for an image with exactly k anchors, no error is raised and every candidate is selected."""
    checker(recipe)
