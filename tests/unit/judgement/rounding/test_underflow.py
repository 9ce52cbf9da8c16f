"""Subnormal numbers: a framework may flush them to zero wherever they arise, and nothing more is admitted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import Hyperparameters

TINY = torch.finfo(torch.float32).tiny
THREE = (Truth("huge", at=(2, 3)), Truth("off_lattice", at=(3, 14)), Truth("off_lattice", at=(4, 13)))


def batch(**gains: float) -> Recipe:
    """Return a recipe of logits of which some are 100 below the largest, so that their probabilities are subnormal."""
    numbers = Hyperparameters(**gains)
    return Recipe(
        (THREE,),
        cells=(5, 5),
        strides=(10, 30),
        classes=20,
        reg_max=17,
        predictions="near",
        hyperparameters=numbers,
    )


BATCHES = [batch(box_gain=70_000.0, dfl_gain=0.0), batch(box_gain=0.0, dfl_gain=70_000.0)]


@contextmanager
def flushed() -> Iterator[None]:
    """Flush subnormal numbers to zero, as XLA and many devices do."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Flushing(ReferenceAdapter):
    """The reference with subnormal numbers flushed; `error` is added to its gradients at positives."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        maps = [level.detach().requires_grad_() for level in feature_maps]
        with flushed():
            loss = super().loss(maps, *arguments)
            gradients = torch.autograd.grad(loss.total.sum(), maps)
        gradients = tuple(gradient + self.error * (gradient[:, :1] != 0) for gradient in gradients)
        return Loss(loss.total.sum().detach(), loss.items.detach(), loss.assignment, gradients=gradients)


def judged(adapter: Any, recipe: Recipe) -> Verdict:
    return judge_against_reference(
        Subject(implementation_from(adapter, "double"), "cpu"), recipe.build()
    ).verdict


@pytest.mark.parametrize("recipe", BATCHES, ids=["box", "dfl"])
def test_subnormal_numbers_may_be_flushed(recipe: Recipe):
    built = recipe.build()
    maps = [level.clone().requires_grad_() for level in built.feature_maps]
    loss = ReferenceAdapter().loss(maps, built.annotations, built.head, built.hyperparameters)
    gradients = torch.autograd.grad(loss.total.sum(), maps)
    flushing = Flushing().loss(built.feature_maps, built.annotations, built.head, built.hyperparameters)
    lost = [
        (a != 0) & (b == 0) & (a.abs() > TINY) for a, b in zip(gradients, flushing.gradients, strict=True)
    ]
    assert any(level.any() for level in lost), "no gradient above the smallest normal number is lost"
    assert not judged(Flushing(), recipe).fails


@pytest.mark.parametrize("recipe", BATCHES, ids=["box", "dfl"])
def test_an_error_above_that_of_flushing_is_found(recipe: Recipe):
    """The factor of a flushed probability is at most the gain times R squared bins: 1e8 for these batches."""
    with pytest.raises(Failure) as caught:
        judged(Flushing(error=1e8 * TINY), recipe)
    assert caught.value.stage == "gradients"
