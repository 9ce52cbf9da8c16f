"""Error bounds: for inputs within given errors, every possible result lies in the computed range."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_conformance.judgement.rounding.bounds import gradient_range
from tal_reference import Hyperparameters
from tal_reference.boxes import ciou

PAIRS, SAMPLES = 200, 1000
ONCE_OUT_OF_BOUNDS = {
    "an edge may lie on either side of the target's": Recipe(
        images=((Truth("off_lattice", at=(14, 15), size=(15, 3)),),), cells=(8, 4), predictions="exact_hit"
    ),
    "the product of bins and exponentials underflows": Recipe(
        images=((), (Truth("ordinary", at=(1, 0)), Truth("off_lattice", at=(1, 6)))), cells=(9, 12),
        predictions="near", seed=1, streams=(0, 0),
    ),
}  # fmt: skip
"""Generated batches on which a correct loss, in float16 under autocast, was once reported as divergent."""


def gradient(target: Tensor, predicted: Tensor) -> Tensor:
    """Return the gradient (.., 4) of CIoU with respect to the predicted boxes (.., 4)."""
    moved = predicted.detach().requires_grad_()
    return torch.autograd.grad(ciou(target, moved).sum(), moved)[0]


@pytest.mark.parametrize("error", [1e-6, 1e-3, 1e-2])
def test_no_box_within_the_error_of_its_edges_leaves_the_range_of_the_gradient(error: float):
    random = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, dtype=torch.float64)

    centre, half = 10 * uniform(PAIRS, 2), 0.25 + 2 * uniform(PAIRS, 2)
    target = torch.cat((centre - half, centre + half), 1)  # (P, 4)
    predicted = target + (4 * uniform(PAIRS, 4) - 2) * error  # within two errors of the target
    exact, change = gradient_range(target, predicted, target.new_full((PAIRS, 1), error))
    nearby = predicted + (2 * uniform(SAMPLES, PAIRS, 4) - 1) * error  # (S, P, 4)
    seen = (gradient(target, nearby) - exact).abs().amax(0)  # (P, 4)
    second_order = 1 + error / (2 * half.min())  # the range is exact to first order in error / side
    assert (seen <= change * second_order).all()


@pytest.mark.parametrize("implementation", ["rearranged", "ultralytics", "article", "reference"])
@pytest.mark.parametrize("reason", ONCE_OUT_OF_BOUNDS)
def test_every_legal_order_of_operations_is_accepted(reason: str, implementation: str):
    batch = replace(ONCE_OUT_OF_BOUNDS[reason].build().to(dtype=torch.float16), autocast=True)
    judge_against_reference(Subject(find(implementation), "cpu"), batch)


ENDS = 0.0, 1e-45, torch.finfo(torch.float32).max
"""Smallest and largest valid exponent or gain, and the smallest positive number of float32."""
EXTREMES: list[dict[str, Any]] = [
    *({name: end} for name in ("alpha", "beta", "box_gain", "cls_gain", "dfl_gain") for end in ENDS),
    dict.fromkeys(("box_gain", "cls_gain", "dfl_gain"), ENDS[2]),
    {"topk": 1},
    {"topk": 1, "topk2": 1},
    {"topk2": 0},
]


@pytest.mark.parametrize("numbers", EXTREMES, ids=str)
def test_the_reference_agrees_with_itself_at_the_ends_of_every_range(numbers: dict[str, Any]):
    recipe = Recipe(((Truth("ordinary"), Truth("tiny")), ()), (4, 5), reg_max=4, predictions="near")
    settings = Hyperparameters(**({"topk": 3} | numbers))
    judge_against_reference(
        Subject(find("reference"), "cpu"), replace(recipe, hyperparameters=settings).build()
    )
