"""TAL-CONF: anchors that several ground truths take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.batches import Recipe, recipes
from conformance.conforming import Conformance
from reference import Hyperparameters

ONE_TO_ONE = st.sampled_from([Hyperparameters(topk2=1), Hyperparameters(topk=7, topk2=1), Hyperparameters(topk2=3)])


@pytest.mark.clauses("TAL-CONF")
@given(recipe=recipes(contested=True))
def test_conflict(conforms: Conformance, recipe: Recipe):
    """TAL-CONF-1: nested, identical and overlapping ground truths."""
    conforms(recipe)


@pytest.mark.clauses("TAL-CONF")
@given(recipe=recipes(contested=True, hyperparameters=ONE_TO_ONE))
def test_topk2(conforms: Conformance, recipe: Recipe):
    """TAL-CONF-2: heads that keep only their best anchors."""
    conforms(recipe)
