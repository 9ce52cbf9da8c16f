"""TAL-CAND: anchors inside ground truths, small ones widened."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import LANES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Conformance


@pytest.mark.clauses("TAL-CAND")
@given(recipe=LANES["borders"])
def test_borders(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-CAND-1: an anchor on the border is none of the box's candidates."""
    conforms(recipe)


@pytest.mark.clauses("TAL-CAND")
@given(recipe=LANES["small_boxes"])
def test_small_boxes(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-CAND-2: the floor of the sides, of the dialect that the implementation is held to."""
    conforms(recipe)
