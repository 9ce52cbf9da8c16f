"""SIZE: batches that are large in one dimension, where counters, indices, buffers and chunks end."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.long_batches import crossings, long_batches
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("SIZE", batches=crossings, mutants="never")
def test_crossings(checker: Checker, recipe: Recipe) -> None:
    """Judge batches just below and above sizes at which implementations break, such as 256 classes."""
    checker(recipe)


@check("SIZE", batches=long_batches, share=6, mutants="never")
def test_long_batches(checker: Checker, recipe: Recipe) -> None:
    """Judge batches of which one dimension, such as the number of ground truths, has any size."""
    checker(recipe)
