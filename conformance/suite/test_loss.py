"""LOSS: the three terms, their sum and its gradient."""

from functools import partial

import pytest
from hypothesis import given, settings

from tal_conformance.batches.named_strategies import LANES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import conform
from tal_conformance.suite.checker import Conformance
from tal_conformance.suite.options import share_of_examples

each_term = partial(conform, each_term=True)


@pytest.mark.clauses("LOSS")
@given(recipe=LANES["loss"])
def test_loss(conforms: Conformance, recipe: Recipe) -> None:
    """Value and gradient, of each term too, on batches of all kinds."""
    conforms(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@settings(
    max_examples=share_of_examples(2)
)  # large boxes need large grids, and each term a pass back of its own
@given(recipe=LANES["loss_of_large_boxes"])
def test_loss_of_large_boxes(conforms: Conformance, recipe: Recipe) -> None:
    """LOSS-DFL-1: target distances beyond the last bin."""
    conforms(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@settings(max_examples=share_of_examples(2))
@given(recipe=LANES["loss_of_small_boxes"])
def test_loss_of_small_boxes(conforms: Conformance, recipe: Recipe) -> None:
    """IOU-1, IOU-3: boxes so small in grid units that eps is not lost in their areas."""
    conforms(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@settings(max_examples=share_of_examples(4))
@given(recipe=LANES["loss_of_points"])
def test_loss_of_points(conforms: Conformance, recipe: Recipe) -> None:
    """IOU-1: ground truths without area, and predictions so close to them that eps decides."""
    conforms(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@given(recipe=LANES["hyperparameters"])
def test_hyperparameters(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-TOPK-1, LOSS-GAIN-1: k and gains are those that it is given."""
    conforms(recipe)
