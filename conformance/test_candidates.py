"""TAL-CAND: anchors inside ground truths, small ones widened."""

import pytest
from hypothesis import given

from conformance.batches import Recipe, recipes
from conformance.conforming import Conformance


@pytest.mark.clauses("TAL-CAND")
@given(recipe=recipes(kinds=("ordinary", "edge_on_centre", "on_border", "partly_outside")))
def test_borders(conforms: Conformance, recipe: Recipe):
    """TAL-CAND-1: an anchor on the border is none of the box's candidates."""
    conforms(recipe)


@pytest.mark.clauses("TAL-CAND")
@given(recipe=recipes(small_boxes=True))
def test_small_boxes(conforms: Conformance, recipe: Recipe):
    """TAL-CAND-2: the floor of the sides, of the dialect that the implementation is held to."""
    conforms(recipe)
