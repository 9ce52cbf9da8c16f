"""If items are right but a gradient is wrong, the message names the loss term, even for a loss with only a total."""

from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import Head

RECIPE = Recipe(
    images=((Truth("ordinary"), Truth("huge", label=1)),), strides=(8, 16), classes=2, predictions="near"
)


class WrongGradient(ReferenceAdapter):
    """The reference with right values, but a wrong gradient: a further term of value 0 is added to the total."""

    def __init__(self, term: str) -> None:
        super().__init__()
        self.name, self.term = f"wrong gradient of {term}", term

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
        """Return the reference's total loss as one number, plus a term of value 0 whose gradient is not 0."""
        known = super().loss(feature_maps, annotations, head, hyperparameters)
        items = known.items.detach()
        total = known.total.sum()
        further = self.further(feature_maps, total, head)
        total = total + (further - further.detach())
        return Loss(total=total, items=items, assignment=known.assignment, inputs=known.inputs)

    def further(self, feature_maps: Any, total: torch.Tensor, head: Head) -> torch.Tensor:
        """Return a scalar that depends, by `term`, on the positives' boxes, on their bins, or on class logits."""
        distances = [level[:, : 4 * head.reg_max].unflatten(1, (4, head.reg_max)) for level in feature_maps]
        if self.term == "cls":
            return sum(0.01 * level[:, 4 * head.reg_max :].square().sum() for level in feature_maps)
        gradients = torch.autograd.grad(total, feature_maps, retain_graph=True)
        positives = [(gradient[:, : 4 * head.reg_max] != 0).any(1)[:, None] for gradient in gradients]
        if self.term == "box":
            bins = torch.arange(head.reg_max, dtype=distances[0].dtype)[:, None, None]
            sides = [(sides.softmax(2) * bins).sum(2) for sides in distances]  # (B, 4, H, W)
            return sum(
                0.01 * (side.square() * here).sum() for side, here in zip(sides, positives, strict=True)
            )
        return sum(
            0.01 * (sides.log_softmax(2)[:, :, 0] * here).sum()
            for sides, here in zip(distances, positives, strict=True)
        )


@pytest.mark.parametrize("term", ["box", "dfl", "cls"])
def test_the_term_with_the_wrong_gradient_is_named(term: str):
    subject = Subject(implementation_from(WrongGradient(term), "wrong"), "cpu")
    with pytest.raises(Failure) as raised:
        judge_against_reference(subject, RECIPE.build())
    assert raised.value.stage == "gradients"
    assert raised.value.summary.endswith(
        f"every item agrees, and only the gradient of the {term} term is wrong"
    )
