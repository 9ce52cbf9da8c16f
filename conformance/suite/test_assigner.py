"""TAL: the method `assign` of an implementation that also has a method `loss`."""

from functools import partial

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL", batches=STRATEGIES["assigner"], share=2)
def test_assigner(checker: Checker, recipe: Recipe) -> None:
    """Judge `assign` on inputs that the reference computes; without a `loss`, other tests do so already."""
    if not set(checker.subject.implementation.capabilities) >= {"assign", "loss"}:
        pytest.skip(
            "the implementation has no loss, so that every test judges its assigner, or it has no `assign`"
        )
    checker(recipe, by=partial(judge_against_reference, alone=True))


@check("TAL", batches=STRATEGIES["exponents"], share=2)
def test_exponents(checker: Checker, recipe: Recipe) -> None:
    """TAL-MET-1: `assign` uses the exponents alpha and beta of its inputs, also if not the defaults."""
    if "assign" not in checker.subject.implementation.capabilities:
        pytest.skip("the implementation has no `assign`, and its loss fixes alpha and beta")
    checker(recipe, by=partial(judge_against_reference, alone=True))
