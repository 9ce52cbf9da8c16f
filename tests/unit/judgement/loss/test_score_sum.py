"""LOSS-SUM-1: if all loss terms are wrong by one factor, their divisor (sum of target scores) is reported."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.loss.gradients import like_division_by_zero
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import DIALECTS, NEWEST

SMALL_SUM = Recipe(images=((Truth("ordinary"),),), cells=(4, 4), predictions="random")
"""A batch whose target scores add up to less than 1."""
MANY = Recipe(images=((Truth("huge"), Truth("ordinary")), (Truth("huge"),)), cells=(6, 6), predictions="near")
"""A batch whose target scores add up to more than 1."""
NOBODY = Recipe()
"""A batch without ground truths: the sum of target scores is 0."""


class Scaled(ReferenceAdapter):
    """The reference's loss with box, cls and dfl multiplied by factors."""

    def __init__(self, factors: Any, hides: bool = False) -> None:
        super().__init__()
        self.factors, self.hides, self.exposes_stages = factors, hides, not hides

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        factors = torch.tensor(self.factors)
        assignment = None if self.hides else loss.assignment
        return Loss(loss.total * factors, loss.items * factors, assignment)


def failure(adapter: Any, recipe: Recipe) -> Failure:
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(implementation_from(adapter, "double"), "cpu"), recipe.build())
    return caught.value


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("recipe", [SMALL_SUM, MANY])
@pytest.mark.parametrize("factor", [0.5, 7.0])
def test_terms_that_are_off_by_one_factor_are_divided_by_another_sum(
    recipe: Recipe, factor: float, hides: bool
):
    found = failure(Scaled([factor] * 3, hides), recipe)
    assert (found.stage, found.clause) == ("cls", "LOSS-SUM-1")
    assert f"all terms are {factor:g} times the expected ones" in found.summary


@pytest.mark.parametrize("factors", [[1.0, 0.5, 1.0], [2.0, 0.5, 2.0], [1.0, 3.0, 3.0]])
def test_terms_that_are_off_each_by_itself_are_not(factors: list[float]):
    assert failure(Scaled(factors), MANY).clause == "LOSS-CLS-1"


def test_a_sum_without_a_floor_is_named():
    found = failure(FaultyReference(FAULTS["score_sum_not_clamped"]), SMALL_SUM)
    assert found.clause == "LOSS-SUM-1"
    assert "the sum of target scores without a floor, expected 1" in found.summary


def test_a_division_by_a_sum_of_zero_is_named():
    found = failure(Scaled([1.0, torch.inf, 1.0]), NOBODY)
    assert found.clause == "LOSS-SUM-1"
    assert "divided by N = 0, expected 1" in found.summary


def test_where_one_term_alone_is_not_zero_it_may_be_the_cross_entropy():
    """Without ground truths, a loss 7 times too large is reported at LOSS-CLS-1, because only cls is not 0."""
    assert failure(Scaled([7.0] * 3), NOBODY).clause == "LOSS-CLS-1"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_without_a_floor_a_division_by_zero_may_be_any_infinity_or_nan(value: float):
    """If a dialect divides by a score sum of 0, NaN and both infinities conform."""
    observed, naive = torch.tensor([value, 1.0]), torch.tensor([torch.inf, torch.inf])
    first, newest = DIALECTS["ultralytics-8.0.6"], NEWEST
    assert like_division_by_zero(observed, naive, first).tolist() == [torch.inf, 1.0]
    assert same(like_division_by_zero(observed, naive, newest), observed)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_first_dialect_accepts_what_its_division_by_zero_gives(value: float):
    class Divides(ReferenceAdapter):
        def loss(self, *arguments: Any) -> Loss:
            loss = super().loss(*arguments)
            factors = torch.tensor([1.0, value, 1.0])  # cls is infinite, and multiplied by `value`
            return Loss(loss.total * factors, loss.items * factors, loss.assignment)

    adapter = Divides(DIALECTS["ultralytics-8.0.6"])
    judge_against_reference(Subject(implementation_from(adapter, "first"), "cpu"), NOBODY.build())


OLDEST = DIALECTS["ultralytics-8.0.6"]


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("recipe", [NOBODY, Recipe(reg_max=1)])
def test_a_division_by_zero_that_the_dialect_prescribes_is_decided(recipe: Recipe, hides: bool):
    adapter = Scaled([1.0] * 3, hides)
    adapter.dialect = OLDEST
    judgement = judge_against_reference(
        Subject(implementation_from(adapter, "double"), "cpu"), recipe.build()
    )
    assert not judgement.verdict.fails
    assert judgement.verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("hides", [False, True])
def test_a_floor_where_the_dialect_has_none_is_found(hides: bool):
    class Floored(Scaled):
        def loss(self, *arguments: Any) -> Loss:
            self.dialect = NEWEST
            try:
                return super().loss(*arguments)
            finally:
                self.dialect = OLDEST

    adapter = Floored([1.0] * 3, hides)
    adapter.dialect = OLDEST
    assert failure(adapter, NOBODY).clause in ("LOSS-SUM-1", "LOSS-CLS-1")
