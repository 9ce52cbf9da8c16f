"""PRE, ANC, DEC: conversion of feature maps to anchors and boxes."""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("DEC", "PRE", "ANC", "OBB-DEC", batches=STRATEGIES["decoding"])
def test_decoding(checker: Checker, recipe: Recipe) -> None:
    """Judge anchors and decoded boxes for any grid size, number of levels and number of bins."""
    checker(recipe)
