"""TAL-CONF: anchors that several ground truths take."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Checker


@pytest.mark.clauses("TAL-CONF")
@given(recipe=STRATEGIES["conflict"])
def test_conflict(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-1: nested, identical and overlapping ground truths."""
    checker(recipe)


@pytest.mark.clauses("TAL-CONF")
@given(recipe=STRATEGIES["topk2"])
def test_topk2(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-2: heads that keep only their best anchors."""
    checker(recipe)


@pytest.mark.clauses("TAL-CONF")
@given(recipe=STRATEGIES["topk2_above_k"])
def test_topk2_above_k(checker: Checker, recipe: Recipe) -> None:
    """TAL-CONF-2: a ground truth keeps more than it takes, of those that it wins besides."""
    checker(recipe)
