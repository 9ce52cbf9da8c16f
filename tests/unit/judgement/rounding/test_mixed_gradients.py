"""Bounds of gradients under autocast: they contain torch's results, and reveal wrong gradients."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rounding.mixed_gradients import CiouParts, MixedGradients
from tal_conformance.judgement.rounding.mixed_precision import MixedTerms
from tal_reference import NEWEST
from tal_reference.boxes import ciou
from tal_reference.loss import distances_to

DTYPES = (torch.float16, torch.bfloat16)
POSITIVES, REG_MAX = 400, 16
RECIPE = Recipe(
    images=((Truth("huge"), Truth("ordinary", label=1)), (Truth("ordinary", at=(5, 4), size=(9, 7)),)),
    classes=2, cells=(8, 8), predictions="near",
)  # fmt: skip


def positives(dtype: torch.dtype) -> MixedTerms:
    """Return the inputs of 400 positives' losses, with targets near the predictions."""
    random = torch.Generator().manual_seed(1)
    distances = (3 * torch.randn(POSITIVES, 4 * REG_MAX, generator=random)).to(dtype).double()
    centres = torch.randint(0, 40, (POSITIVES, 2), generator=random).double() + 0.5
    away = 1 + 12 * torch.rand(POSITIVES, 4, generator=random).double()
    target = torch.cat((centres - away[:, :2], centres + away[:, 2:]), 1)
    weights = torch.rand(POSITIVES, generator=random).double()
    return MixedTerms(distances, centres, target.float().double(), weights, REG_MAX, dtype)


def as_autocast(terms: MixedTerms, distances: Tensor) -> Tensor:
    """Return the distances (P, 4) as autocast computes them."""
    return distances.unflatten(1, (4, REG_MAX)).softmax(-1) @ torch.arange(REG_MAX).to(distances)


def with_exponentials(terms: MixedTerms, distances: Tensor) -> Tensor:
    """Return the distances (P, 4) as a quotient of two sums of exponentials."""
    sides = distances.unflatten(1, (4, REG_MAX))  # (P, 4, R)
    powers = (sides - sides.amax(-1, keepdim=True)).exp()
    return (powers * torch.arange(REG_MAX).to(distances)).sum(-1) / powers.sum(-1)


def in_float32(terms: MixedTerms, distances: Tensor) -> Tensor:
    """Return the distances (P, 4), computed in float32."""
    return as_autocast(terms, distances.float())


def box_loss(terms: MixedTerms, sides: Tensor) -> Tensor:
    """Return the sum of the weighted box losses, in the dtypes of autocast."""
    centres = terms.centres.to(sides.dtype)
    boxes = torch.cat((centres - sides[:, :2], centres + sides[:, 2:]), 1)
    return (terms.weights.float() * (1 - ciou(terms.target.float(), boxes))).sum()


@pytest.mark.parametrize("decoding", [as_autocast, with_exponentials, in_float32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_the_box_loss_lie_within_their_bound(
    dtype: torch.dtype, decoding: Callable[[MixedTerms, Tensor], Tensor]
):
    terms = positives(dtype)
    results = []
    for low, decode in ((terms.distances, as_autocast), (terms.distances.to(dtype), decoding)):
        leaf = low.clone().requires_grad_()
        if low.dtype is torch.float64:
            boxes = torch.cat(
                (terms.centres - decode(terms, leaf)[:, :2], terms.centres + decode(terms, leaf)[:, 2:]), 1
            )
            loss = (terms.weights * (1 - ciou(terms.target, boxes))).sum()
        else:
            loss = box_loss(terms, decode(terms, leaf))
        results.append(torch.autograd.grad(loss, leaf)[0].double())
    exact, observed = results
    allowed = MixedGradients(terms, torch.zeros(POSITIVES)).box(terms.weights[:, None, None]).flatten(1)
    assert ((observed - exact).abs() <= allowed).all()
    assert allowed.norm() < (0.08 if dtype is torch.float16 else 0.5) * exact.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_dfl_lie_within_their_bound(dtype: torch.dtype):
    terms = positives(dtype)
    clamped = distances_to(terms.target, terms.centres).clamp(0, REG_MAX - 1.01)
    lower = clamped.long()
    upper_share = clamped - lower

    def loss(distances: Tensor) -> Tensor:
        log_probability = distances.unflatten(1, (4, REG_MAX)).log_softmax(-1)
        below, above = (log_probability.gather(-1, (lower + step)[..., None])[..., 0] for step in (0, 1))
        kind = torch.promote_types(distances.dtype, torch.float32)
        each = -(below * (1 - upper_share).to(kind) + above * upper_share.to(kind)).mean(-1)
        return (each * terms.weights.to(kind)).sum()

    exact, observed, finer = (
        torch.autograd.grad(loss(leaf), leaf)[0].double()
        for leaf in (
            terms.distances.clone().requires_grad_(),
            terms.distances.to(dtype).requires_grad_(),
            terms.distances.float().requires_grad_(),
        )
    )
    scale = terms.weights[:, None, None] / 4
    allowed = MixedGradients(terms, torch.zeros(POSITIVES)).dfl(scale, 1e-5 * torch.ones_like(terms.target))
    for gradient in (observed, finer):
        assert ((gradient - exact).abs() <= allowed.flatten(1)).all()
    assert allowed.norm() < (0.03 if dtype is torch.float16 else 0.2) * exact.norm()


def test_the_parts_of_the_gradient_of_ciou_add_up_to_it():
    terms = positives(torch.float16)
    leaf = terms.exact_boxes.requires_grad_()
    (whole,) = torch.autograd.grad(ciou(terms.target, leaf).sum(), leaf)
    parts = CiouParts.of(terms.target, terms.exact_boxes)
    summed = parts.shared + parts.enclosing + parts.centre + parts.area + parts.shape
    torch.testing.assert_close(summed, whole)


class Steeper(ReferenceAdapter):
    """The reference with the gradient of one term multiplied by a factor; the loss itself is unchanged."""

    def __init__(self, term: int, factor: float) -> None:
        super().__init__(NEWEST)
        self.name, self.exposes_stages = "steeper", False
        self.term, self.factor = term, factor

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        factors = torch.ones(3).index_fill(0, torch.tensor(self.term), self.factor)
        steeper = loss.total * factors
        return replace(loss, total=steeper + (loss.total - steeper).detach())


def autocast(dtype: torch.dtype) -> Batch:
    return replace(RECIPE.build().to(dtype=dtype), autocast=True)


@pytest.mark.parametrize(
    ("term", "dtype", "factor"),
    [
        (0, torch.float16, 1.015),
        (2, torch.float16, 1.01),
        (0, torch.bfloat16, 1.1),
        (2, torch.bfloat16, 1.05),
    ],
)
def test_a_gradient_that_is_too_large_is_found(term: int, dtype: torch.dtype, factor: float):
    batch = autocast(dtype)
    judge_against_reference(Subject(implementation_from(Steeper(term, 1.0), "right"), "cpu"), batch)
    with pytest.raises(Failure, match="gradient"):
        judge_against_reference(Subject(implementation_from(Steeper(term, factor), "steeper"), "cpu"), batch)
