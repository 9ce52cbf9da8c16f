"""TAL-CAND: anchors inside ground truths, small ones widened."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Checker


@pytest.mark.clauses("TAL-CAND")
@given(recipe=STRATEGIES["borders"])
def test_borders(checker: Checker, recipe: Recipe) -> None:
    """TAL-CAND-1: an anchor on the border is none of the box's candidates."""
    checker(recipe)


@pytest.mark.clauses("TAL-CAND")
@given(recipe=STRATEGIES["small_boxes"])
def test_small_boxes(checker: Checker, recipe: Recipe) -> None:
    """TAL-CAND-2: the floor of the sides, of the dialect that the implementation is held to."""
    checker(recipe)
