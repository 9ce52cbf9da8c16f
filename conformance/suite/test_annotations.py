"""ANN: conversion of the data loader's rows to ground truths."""

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("ANN", batches=STRATEGIES["annotations"])
def test_annotations(checker: Checker, recipe: Recipe) -> None:
    """Judge batches with any number of rows per image, including zero; boxes on, outside and across the border."""
    checker(recipe)
