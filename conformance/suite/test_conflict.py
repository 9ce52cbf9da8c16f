"""TAL-CONF: anchors that several ground truths take."""

import pytest
from hypothesis import given

from tal_conformance.batches.named_strategies import LANES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.suite.checker import Conformance


@pytest.mark.clauses("TAL-CONF")
@given(recipe=LANES["conflict"])
def test_conflict(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-CONF-1: nested, identical and overlapping ground truths."""
    conforms(recipe)


@pytest.mark.clauses("TAL-CONF")
@given(recipe=LANES["topk2"])
def test_topk2(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-CONF-2: heads that keep only their best anchors."""
    conforms(recipe)


@pytest.mark.clauses("TAL-CONF")
@given(recipe=LANES["topk2_above_k"])
def test_topk2_above_k(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-CONF-2: a ground truth keeps more than it takes, of those that it wins besides."""
    conforms(recipe)
