"""The ten batches on which a new adapter is tried show nearly every known mistake in the loss alone."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance import Loss
from tal_conformance.batches.strategies.trial_recipes import NUMBER, trial_recipes
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import TASKS
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import CHOICES, NEWEST, Dialect, detection_loss


class LossOf:
    """The reference's loss in a dialect, without its assignment."""

    name = "wrong"

    def __init__(self, computed: Dialect) -> None:
        self.computed = computed

    def loss(self, *inputs: Any) -> Loss:
        loss = detection_loss(*inputs, self.computed)
        return Loss(loss.total, loss.items)


NEEDS_AN_UNUSUAL_BATCH = {
    "at_least_one",
    "dropped_picks",
    "every_row_counts",
    "k_cut",
    "metric_masked",
    "rows_sorted",
}
NOT_IN_A_LOSS = {("exponents", "built in")}
"""The loss has these exponents built in."""
MISTAKES = [
    pytest.param(name, value, id=f"{name}={value}")
    for name, choice in CHOICES.items()
    for value in choice.words
    if "detect" in choice.tasks
    and value != getattr(NEWEST, name)
    and name not in NEEDS_AN_UNUSUAL_BATCH
    and (name, getattr(value, "value", value)) not in NOT_IN_A_LOSS
]


@cache
def batches() -> list[Batch]:
    return [recipe.build() for recipe in trial_recipes()]


def losses(batch: Batch, dialect: Dialect) -> Tensor:
    """Return items and total of the loss; rejected batches have no finite loss."""
    try:
        loss = detection_loss(
            batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters, dialect
        )
    except (ValueError, RuntimeError):
        return torch.full((4,), torch.nan)
    return torch.cat((loss.items, loss.terms.sum()[None]))


@pytest.mark.parametrize(("name", "value"), MISTAKES)
def test_a_mistake_changes_the_loss(name: str, value: Any):
    wrong = NEWEST.but(**{name: value})
    shown = (
        not torch.allclose(losses(batch, NEWEST), losses(batch, wrong), rtol=2e-3, atol=1e-5)
        for batch in batches()
    )
    assert any(shown)


def test_k_is_shown_by_several_batches():
    wrong = NEWEST.but(built_in_k=type(NEWEST.built_in_k).THIRTEEN)
    assert sum(not torch.allclose(losses(b, NEWEST), losses(b, wrong), rtol=2e-3) for b in batches()) >= 3


def test_an_edge_that_counts_is_judged_divergent_in_a_loss_alone():
    """The batch has boxes with sides of 2^n px, so that no rounding can move an anchor off an edge."""
    wrong = LossOf(NEWEST.but(edge_counts=True))
    subject = Subject(implementation_from(wrong, "wrong"), "cpu")
    (batch,) = [batch for batch in batches() if batch.head.reg_max == 4]
    with pytest.raises(Failure):
        judge_against_reference(subject, batch)


def test_most_batches_have_the_usual_head():
    assert sum(recipe.reg_max == 16 for recipe in trial_recipes()) >= NUMBER - 2


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_batches_with_ground_truths(task: str):
    recipes = trial_recipes(task)
    assert len(recipes) == NUMBER
    assert {recipe.build().task for recipe in recipes} == {task}
    assert sum(any(recipe.images) for recipe in recipes) >= NUMBER - 1
