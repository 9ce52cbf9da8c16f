"""TAL: the assigner of an implementation that has a loss as well, on its own."""

from functools import partial

import pytest
from hypothesis import given, settings

from tal_conformance.batches.named_strategies import LANES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import conform
from tal_conformance.suite.checker import Conformance
from tal_conformance.suite.options import share_of_examples


@pytest.mark.clauses("TAL")
@settings(max_examples=share_of_examples(2))
@given(recipe=LANES["assigner"])
def test_assigner(conforms: Conformance, recipe: Recipe) -> None:
    """`assign` on the reference's inputs. Without a loss every other test judges it; without `assign` there is none."""
    if not set(conforms.subject.implementation.capabilities) >= {"assign", "loss"}:
        pytest.skip("it has no loss, so that every test judges its assigner, or no assigner on its own")
    conforms(recipe, by=partial(conform, alone=True))


@pytest.mark.clauses("TAL")
@settings(max_examples=share_of_examples(2))
@given(recipe=LANES["exponents"])
def test_exponents(conforms: Conformance, recipe: Recipe) -> None:
    """TAL-MET-1: alpha and beta are those that `assign` is given, whatever the loss has."""
    if "assign" not in conforms.subject.implementation.capabilities:
        pytest.skip("it has no `assign`, and its loss fixes alpha and beta")
    conforms(recipe, by=partial(conform, alone=True))
