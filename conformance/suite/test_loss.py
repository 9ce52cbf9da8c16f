"""LOSS: the three terms, their sum and its gradient."""

from functools import partial

import pytest
from hypothesis import given, settings

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.options import share_of_examples

each_term = partial(judge_against_reference, each_term=True)


@pytest.mark.clauses("LOSS")
@given(recipe=STRATEGIES["loss"])
def test_loss(checker: Checker, recipe: Recipe) -> None:
    """Value and gradient, of each term too, on batches of all kinds."""
    checker(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@settings(
    max_examples=share_of_examples(2)
)  # large boxes need large grids, and each term a pass back of its own
@given(recipe=STRATEGIES["loss_of_large_boxes"])
def test_loss_of_large_boxes(checker: Checker, recipe: Recipe) -> None:
    """LOSS-DFL-1: target distances beyond the last bin."""
    checker(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@settings(max_examples=share_of_examples(2))
@given(recipe=STRATEGIES["loss_of_small_boxes"])
def test_loss_of_small_boxes(checker: Checker, recipe: Recipe) -> None:
    """IOU-1, IOU-3: boxes so small in grid units that eps is not lost in their areas."""
    checker(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@settings(max_examples=share_of_examples(4))
@given(recipe=STRATEGIES["loss_of_points"])
def test_loss_of_points(checker: Checker, recipe: Recipe) -> None:
    """IOU-1: ground truths without area, and predictions so close to them that eps decides."""
    checker(recipe, by=each_term)


@pytest.mark.clauses("LOSS")
@given(recipe=STRATEGIES["hyperparameters"])
def test_hyperparameters(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-1, LOSS-GAIN-1: k and gains are those that it is given."""
    checker(recipe)
