"""LARGE: batches of the size used in training, with the option `--large`."""

from dataclasses import replace

from tal_conformance.batches.hazards.catalogue import with_hazards
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import training_size
from tal_conformance.batches.strategies.named import PRECISIONS
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker

ORDINARY = training_size(most=12, kinds=("off_lattice",), predictions=("near",))
"""Batches with as many ground truths as photographs have. Hardly ever are two deciding values equal: a loss that does
not expose its assignment can then be judged by one assignment, unlike with 300 ground truths of all kinds."""


@check("LARGE", batches=training_size(), share=20, least=1, mutants="never", shrinks=False)
def test_training_size(checker: Checker, recipe: Recipe) -> None:
    """Judge every clause on 16 images of 640 x 640 pixels with up to 300 ground truths each and 80 classes.

    A failing batch is not shrunk, because judging it takes at least half a minute, and other tests find the same fault
    on small batches.
    """
    checker(recipe)


@check("LARGE", batches=ORDINARY, share=45, least=1, mutants="never", shrinks=False)
def test_ordinary_training(checker: Checker, recipe: Recipe) -> None:
    """Judge the loss on large batches with up to 12 ground truths an image, whose assignment is unique."""
    checker(recipe)


@check(
    "LARGE",
    batches=ORDINARY,
    share=90,
    least=1,
    parameter=("precision", ("autocast-float16", "autocast-bfloat16")),
    mutants="never",
    shrinks=False,
)
def test_training_under_autocast(checker: Checker, precision: str, recipe: Recipe) -> None:
    """Judge the same batches as the official trainer calls the loss, in automatic mixed precision."""
    if precision not in checker.subject.implementation.precisions:
        checker.not_tested(f"precision {precision}: the adapter does not declare it (attribute `precisions`)")
    dtype, autocast = PRECISIONS[precision]
    checker(with_hazards(replace(recipe.build().to(dtype=dtype), autocast=autocast)))
