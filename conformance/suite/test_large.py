"""LARGE: batches of the size used in training, with the option `--large`."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies import training_size
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("LARGE", batches=training_size(), share=20, least=1, mutants="never", shrinks=False)
def test_training_size(checker: Checker, recipe: Recipe) -> None:
    """Judge every clause on 16 images of 640 x 640 pixels with up to 300 ground truths each and 80 classes.

    A failing batch is not shrunk, because judging it takes at least half a minute, and other tests find the same fault
    on small batches.
    """
    checker(recipe)
