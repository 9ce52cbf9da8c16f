"""TAL: the assigner of an implementation that has a loss as well, on its own."""

from functools import partial

import pytest

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.registry import check
from tal_conformance.suite.checker import Checker


@check("TAL", batches=STRATEGIES["assigner"], share=2)
def test_assigner(checker: Checker, recipe: Recipe) -> None:
    """`assign` on the reference's inputs. Without a loss every other test judges it; without `assign` there is none."""
    if not set(checker.subject.implementation.capabilities) >= {"assign", "loss"}:
        pytest.skip("it has no loss, so that every test judges its assigner, or no assigner on its own")
    checker(recipe, by=partial(judge_against_reference, alone=True))


@check("TAL", batches=STRATEGIES["exponents"], share=2)
def test_exponents(checker: Checker, recipe: Recipe) -> None:
    """TAL-MET-1: alpha and beta are those that `assign` is given, whatever the loss has."""
    if "assign" not in checker.subject.implementation.capabilities:
        pytest.skip("it has no `assign`, and its loss fixes alpha and beta")
    checker(recipe, by=partial(judge_against_reference, alone=True))
