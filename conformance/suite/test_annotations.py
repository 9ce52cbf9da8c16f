"""ANN: conversion of the data loader's rows to ground truths."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("ANN", "OBB-ANN", batches=STRATEGIES["annotations"])
def test_annotations(checker: Checker, recipe: Recipe) -> None:
    """Judge images with any number of annotation rows, also none, and boxes at or beyond the border."""
    checker(recipe)
