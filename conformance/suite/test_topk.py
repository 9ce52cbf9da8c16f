"""TAL-TOPK: each ground truth takes its k best anchors."""

import pytest
from hypothesis import given, settings

from tal_conformance.batches.named_strategies import JUST_ENOUGH, STRATEGIES, TOO_SMALL
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.options import share_of_examples


@pytest.mark.clauses("TAL-TOPK")
@given(recipe=STRATEGIES["topk"])
def test_topk(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-1, with equal metrics at the k-th place."""
    checker(recipe)


@pytest.mark.clauses("TAL-TOPK")
@given(recipe=STRATEGIES["zeros_compete"])
def test_zeros_compete(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-1: candidates whose metric is zero compete with every zero of the row."""
    checker(recipe)


@pytest.mark.clauses("TAL-TOPK")
@settings(max_examples=share_of_examples(8))
@given(recipe=TOO_SMALL)
def test_fewer_anchors_than_k(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-2: it is an error, and nothing may be silently dropped."""
    batch = recipe.build()
    because = f"k = {batch.hyperparameters.topk} is more than A = {batch.anchors}"
    checker.must_reject(batch, "top-k", "TAL-TOPK-2", because)


@pytest.mark.clauses("TAL-TOPK")
@settings(max_examples=share_of_examples(8))
@given(recipe=JUST_ENOUGH)
def test_as_many_anchors_as_k(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-2: k = A is none; every candidate is taken."""
    checker(recipe)
