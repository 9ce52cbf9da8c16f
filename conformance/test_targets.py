"""TAL-TGT, TAL-NORM, TAL-EMPTY: what each anchor must learn."""

import pytest
from hypothesis import given

from conformance.batches import Recipe, recipes
from conformance.conforming import Conformance


@pytest.mark.clauses("TAL-TGT")
@given(recipe=recipes(classes=(2, 3, 5, 80), predictions=("near", "random", "exact_hit")))
def test_targets(conforms: Conformance, recipe: Recipe):
    """Labels, boxes and target scores."""
    conforms(recipe)


@pytest.mark.clauses("TAL-EMPTY")
@given(recipe=recipes(max_truths=0))
def test_no_ground_truth(conforms: Conformance, recipe: Recipe):
    """TAL-EMPTY-1, LOSS-GRAD-1: no ground truth in the whole batch."""
    conforms(recipe)
