"""Gradients of CIoU where predicted edges meet the target's: each is one of a few values, not anything between them."""

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
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.loss import gradient_range
from tal_conformance.judgement.loss.gradient_range import exceeds_range
from tal_conformance.judgement.rounding.gradient_branches import edge_branches
from tal_conformance.judgement.rounding.mixed_gradients import MixedGradients
from tal_conformance.judgement.rounding.mixed_precision import Interval, MixedTerms
from tal_reference import NEWEST
from tal_reference.boxes import ciou

DTYPES = (torch.float16, torch.bfloat16)
POSITIVES, REG_MAX = 300, 8
MEETING = Recipe(
    images=((Truth("off_lattice", at=(3, 5), size=(9, 12)),),),
    cells=(6, 8),
    strides=(8, 16),
    classes=2,
    predictions="exact_hit",
)
"""Predicted boxes that are equal to a ground truth's."""


def torch_function(first: Tensor, second: Tensor, smaller: bool) -> Tensor:
    return torch.minimum(first, second) if smaller else torch.maximum(first, second)


def by_comparison(first: Tensor, second: Tensor, smaller: bool) -> Tensor:
    """Return the minimum or the maximum; of equal numbers, the second one moves."""
    return torch.where(first < second if smaller else first > second, first, second)


def by_other_comparison(first: Tensor, second: Tensor, smaller: bool) -> Tensor:
    """Return the minimum or the maximum; of equal numbers, the first one moves."""
    return torch.where(first <= second if smaller else first >= second, first, second)


Extreme = Callable[[Tensor, Tensor, bool], Tensor]
"""Returns the minimum or the maximum of two tensors."""


def positives(dtype: torch.dtype) -> MixedTerms:
    """Return 300 positives whose predicted edges are equal to the target's, or a little inside or outside it."""
    random = torch.Generator().manual_seed(1)
    bins = torch.randint(1, REG_MAX - 1, (POSITIVES, 4), generator=random)
    distances = torch.zeros(POSITIVES, 4, REG_MAX).scatter(2, bins[..., None], 9.0)
    distances = (
        distances
        + torch.randn(distances.shape, generator=random) * (torch.arange(POSITIVES) % 2)[:, None, None]
    )
    centres = torch.randint(0, 20, (POSITIVES, 2), generator=random).double() + 0.5
    low = distances.flatten(1).to(dtype).double()
    terms = MixedTerms(
        low, centres, torch.zeros(POSITIVES, 4), torch.ones(POSITIVES).double(), REG_MAX, dtype
    )
    away = torch.tensor([0.0, 0.0, 1e-4, -1e-4, 0.3])[torch.randint(0, 5, (POSITIVES, 4), generator=random)]
    own = as_autocast(low.to(dtype), centres).double()
    return replace(terms, target=(own + away).float().double())


def as_autocast(distances: Tensor, centres: Tensor) -> Tensor:
    """Return boxes (P, 4) in grid units, in the dtype of the distance logits."""
    sides = distances.unflatten(1, (4, REG_MAX)).softmax(-1) @ torch.arange(REG_MAX).to(distances)
    places = centres.to(sides.dtype)
    return torch.cat((places - sides[:, :2], places + sides[:, 2:]), 1)


def ciou_with(extreme: Extreme, first: Tensor, second: Tensor) -> Tensor:
    """Return CIoU, whose minima and maxima are computed by `extreme`."""
    left_top = extreme(first[..., :2], second[..., :2], False)
    right_bottom = extreme(first[..., 2:], second[..., 2:], True)
    shared = (right_bottom - left_top).clamp(min=0).prod(-1)
    (w1, h1), (w2, h2) = ((b[..., 2] - b[..., 0], b[..., 3] - b[..., 1] + 1e-7) for b in (first, second))
    overlap = shared / (w1 * h1 + w2 * h2 - shared + 1e-7)
    outer = extreme(first[..., 2:], second[..., 2:], False) - extreme(first[..., :2], second[..., :2], True)
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    shape = 4 / torch.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square()
    weight = (shape / (1 - overlap + shape + 1e-7)).detach()
    return overlap - apart.square().sum(-1) / (outer.square().sum(-1) + 1e-7) - weight * shape


def test_the_port_of_ciou_is_ciou():
    terms = positives(torch.float16)
    for extreme in (torch_function, by_comparison, by_other_comparison):
        observed = ciou_with(extreme, terms.target, terms.exact_boxes)
        torch.testing.assert_close(observed, ciou(terms.target, terms.exact_boxes))


@pytest.mark.parametrize("extreme", [torch_function, by_comparison, by_other_comparison])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_lie_on_a_branch_and_no_wrong_gradient_does(dtype: torch.dtype, extreme: Extreme):
    terms = positives(dtype)

    def gradient(distances: Tensor, function: Extreme, target: Tensor) -> Tensor:
        leaf = distances.clone().requires_grad_()
        loss = 1 - ciou_with(function, target, as_autocast(leaf, terms.centres))  # (P,)
        return torch.autograd.grad(loss.sum(), leaf)[0].double()

    exact = gradient(terms.distances, torch_function, terms.target)  # (P, 4R)
    observed = gradient(terms.distances.to(dtype), extreme, terms.target.float())
    branches = MixedGradients(terms, torch.zeros(POSITIVES)).box_branches(torch.ones(POSITIVES, 1, 1))
    whole = branches.whole.flatten(1)
    wanted, allowed = branches.nearest(observed, exact, whole)
    assert ((observed - wanted).abs() <= allowed).all()
    assert allowed.norm() < 0.4 * whole.norm()
    far = branches.moves.where(branches.possible[..., None], 0)  # (K, P, 4, R)
    farthest = far.gather(
        0, far.abs().sum(-1, keepdim=True).argmax(0, keepdim=True).expand(1, *far.shape[1:])
    )[0]
    wrong = exact + farthest.flatten(1) / 4  # between two branches
    assert ((wrong - exact).abs() <= whole).all()  # an interval accepts it
    wanted, allowed = branches.nearest(wrong, exact, whole)
    beyond = ((wrong - wanted).abs() > allowed).view_as(farthest).any(-1)[farthest.any(-1)]
    assert beyond.double().mean() > (0.9 if dtype is torch.float16 else 0.5)


def test_an_edge_that_meets_no_edge_has_one_branch():
    target, exact = (
        torch.tensor([[0.0, 0.0, 4.0, 4.0]]).double(),
        torch.tensor([[1.0, 1.0, 3.0, 5.0]]).double(),
    )
    branches = edge_branches(target, exact, [Interval(exact - 0.01, exact + 0.01)])
    assert branches.possible.sum() == 4
    assert (branches.radii[0] > 0).all()
    meeting = edge_branches(target, exact, [Interval(exact - 1.0, exact + 0.01)])
    assert meeting.possible[1:].any(0).tolist() == [[True, True, False, True]]


class Steeper(ReferenceAdapter):
    """The reference with the gradient of the box loss multiplied by a factor; the loss itself is unchanged."""

    def __init__(self, factor: float, hides: bool = False) -> None:
        super().__init__(NEWEST)
        self.name, self.factor, self.hides = "steeper", factor, hides
        self.exposes_stages = not hides

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        steeper = loss.total * torch.tensor([self.factor, 1.0, 1.0])
        total = steeper + (loss.total - steeper).detach()
        changed = replace(loss, total=total)
        return replace(changed, assignment=None, inputs=None) if self.hides else changed


def meeting(dtype: torch.dtype) -> Batch:
    return replace(MEETING.build().to(dtype=dtype), autocast=True)


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_gradient_of_boxes_that_meet_their_targets_is_found(dtype: torch.dtype, hides: bool):
    right = Subject(implementation_from(Steeper(1.0, hides), "right"), "cpu")
    assert not judge_against_reference(right, meeting(dtype)).verdict.fails
    with pytest.raises(Failure) as caught:
        judge_against_reference(
            Subject(implementation_from(Steeper(2.0, hides), "steeper"), "cpu"), meeting(dtype)
        )
    assert caught.value.stage == "gradients"


def test_a_bound_of_more_than_half_the_range_on_a_level_exceeds_it():
    batch = meeting(torch.bfloat16)
    wanted, untrained = torch.ones(4, 3), torch.full((4, 3), 2.0)
    anchor = torch.tensor([0, 1, 2, batch.anchors - 1])
    narrow = torch.full((4, 3), 0.9)
    assert not exceeds_range(batch, wanted, untrained, narrow, anchor)
    wide = narrow.index_fill(0, torch.tensor([3]), 1.1)
    assert exceeds_range(batch, wanted, untrained, wide, anchor)  # on the last level, which has one row
    one_of_many = narrow.index_fill(0, torch.tensor([0]), 1.1)
    assert not exceeds_range(batch, wanted, untrained, one_of_many, anchor)
    everywhere = torch.ones(2, batch.anchors, 3)
    assert exceeds_range(batch, everywhere, everywhere, 0.6 * everywhere)
    assert not exceeds_range(batch, everywhere, everywhere, 0.4 * everywhere)


def test_a_gradient_with_a_bound_that_cannot_fail_is_inconclusive(monkeypatch: pytest.MonkeyPatch):
    right = Subject(implementation_from(ReferenceAdapter(NEWEST), "reference"), "cpu")
    assert judge_against_reference(right, meeting(torch.bfloat16)).verdict is not Verdict.INCONCLUSIVE
    monkeypatch.setattr(gradient_range, "MAX_TOLERANCE_SHARE", 1e-4)
    judgement = judge_against_reference(right, meeting(torch.bfloat16))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "gradient of total on distance logits is not judged" in judgement.notes[0]
