"""HEAD and LOGITS: heads, hyperparameters and logits that official models do not have, but that the clauses allow."""

from functools import partial

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.generic_heads import heads, trained_logits, uneven_exponents
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("HEAD", batches=heads, mutants="last")
def test_heads(checker: Checker, recipe: Recipe) -> None:
    """Judge heads with unusual strides, one to six levels, any number of bins and classes, k and gains."""
    checker(recipe)


@check("HEAD", batches=uneven_exponents, share=3, mutants="last")
def test_uneven_exponents(checker: Checker, recipe: Recipe) -> None:
    """TAL-MET-1: `assign` uses the exponents alpha and beta of its inputs, also if not multiples of 1/2."""
    if "assign" not in checker.subject.implementation.capabilities:
        pytest.skip("the implementation has no `assign`, and its loss fixes alpha and beta")
    checker(recipe, by=partial(judge_against_reference, alone=True))


@check("LOGITS", batches=trained_logits, mutants="last")
def test_trained_logits(checker: Checker, recipe: Recipe) -> None:
    """DEC-1, LOSS-DFL-1, LOSS-CLS-1: distance logits shifted by up to ±120, class logits up to ±10,000."""
    checker(recipe, by=partial(judge_against_reference, each_term=True))
