"""Exponentials that err in proportion to their argument, as MLX's on a CPU do, are admitted; larger errors are not."""

from typing import Any

import pytest
import torch

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject

SATURATED = Recipe(predictions="saturated", classes=3)  # without ground truths: gradients are scores
ROUNDING = torch.finfo(torch.float32).eps


class CoarseExponential(ReferenceAdapter):
    """The reference, whose class scores in the gradient are those of logits with `error` times their rounding."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def loss(self, feature_maps: Any, annotations: Any, head: Any, *arguments: Any) -> Loss:
        maps = [level.detach().requires_grad_() for level in feature_maps]
        loss = super().loss(maps, annotations, head, *arguments)
        gradients = torch.autograd.grad(loss.total.sum(), maps)
        for gradient, logits in zip(gradients, maps, strict=True):
            given = logits.detach()[:, -head.classes :]
            share = given.abs() * (-given).sigmoid()  # of the class score, per relative error of the argument
            gradient[:, -head.classes :] *= 1 + self.error * ROUNDING * share
        return Loss(loss.total.sum().detach(), loss.items.detach(), loss.assignment, gradients=gradients)


def judge(error: float) -> Verdict:
    subject = Subject(implementation_from(CoarseExponential(error), "double"), "cpu")
    return judge_against_reference(subject, SATURATED.build()).verdict


def test_the_error_of_a_rounded_argument_is_admitted():
    logits = SATURATED.build().feature_maps[0][:, -3:]
    assert logits.min() < -25, "saturated predictions no longer show it"
    assert not judge(0.5).fails  # the largest that was measured on MLX


def test_a_larger_error_is_not():
    with pytest.raises(Failure, match="gradient of total on class logits"):
        judge(60.0)
