"""LARGE: batches at the size of training, asked for with `--large`."""

import pytest
from hypothesis import Phase, given, settings

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies import training_size
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.options import share_of_examples

NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Each batch takes half a minute or more, and what a small batch can show the other tests find on one."""


@pytest.mark.clauses("LARGE")
@settings(max_examples=share_of_examples(20, least=1), phases=NO_SHRINKING)
@given(recipe=training_size())
def test_training_size(checker: Checker, recipe: Recipe) -> None:
    """Every clause at once: 16 images of 640 x 640 pixels, up to 300 ground truths each, 80 classes."""
    checker(recipe)
