"""Ranges of loss terms: a term far below the rounding of the total is judged, however wide its bound is beside it."""

from typing import Any

import pytest
import torch
from tests.fauxmplementations.relation_faults import LossAlone

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject

POINTS = Recipe(
    images=((Truth("zero_area", at=(7, 2), size=(3, 11)), Truth("zero_area", at=(7, 15), size=(11, 2))),),
    strides=(32,),
    classes=2,
    reg_max=2,
    predictions="close",
)
"""Ground truths without area: the weights are below 1e-20, with errors as large as they are."""


class Offset(LossAlone):
    """The reference's loss alone, with an amount added to its box item and its total."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        return Loss(loss.total + self.amount, loss.items + torch.tensor((self.amount, 0.0, 0.0)))


def verdict_of(amount: float) -> Verdict:
    subject = Subject(implementation_from(Offset(amount), "tested"), "cpu")
    try:
        return judge_against_reference(subject, POINTS.build()).verdict
    except Failure as failure:
        return failure.verdict


def test_a_correct_loss_is_not_inconclusive():
    assert verdict_of(0.0) is Verdict.EXACT


@pytest.mark.parametrize("amount", [1e-6, 1e-12, 1e-20])
def test_a_wrong_term_is_found(amount: float):
    assert verdict_of(amount) is Verdict.DIVERGENT
