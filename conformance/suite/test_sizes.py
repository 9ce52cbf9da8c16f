"""SIZE: batches that are large in one dimension, where counters, indices, buffers and chunks end."""

from tal_conformance.batches.long_batches import crossings, long_batches
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("SIZE", batches=crossings, mutants="never")
def test_crossings(checker: Checker, recipe: Recipe) -> None:
    """Sizes on both sides of every number at which implementations break, each once."""
    checker(recipe)


@check("SIZE", batches=long_batches, share=6, mutants="never")
def test_long_batches(checker: Checker, recipe: Recipe) -> None:
    """Any size of one dimension."""
    checker(recipe)
