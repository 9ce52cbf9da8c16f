"""End-to-end losses on predictions of 16 bits: correct losses conform, wrong branches, weights and sums are found."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.common.tiers import mostly_nightly

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import IMAGES
from tal_conformance.batches.strategies.named import PRECISIONS
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import E2E
from tal_conformance.core.verdicts import State
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import EVERY, Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.coarse_branches import VALUES_LEFT, weighted
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.attack import faulty
from tal_conformance.mutation.planted_faults import FAULTS_BY_TASK
from tal_reference import NEWEST, Hyperparameters

COARSE = [name for name, (dtype, _) in PRECISIONS.items() if dtype not in (torch.float64, torch.float32)]
WEIGHTED = "total", "one2many/gradients", "one2one/gradients"
"""Stages that depend on the weights of the branches."""
FAULTS = {
    "alpha_of_one_in_one2one": "one2one",
    "iou_for_ciou_in_the_loss_in_one2many": "one2many",
    "label_of_the_first_in_one2one": "one2one",
    "one2one_keeps_all": "one2one",
    "weights_of_one": WEIGHTED,
    "weights_exchanged": WEIGHTED,
    "weights_never_updated": WEIGHTED,
    "one2one_detached": WEIGHTED,
    "items_of_one2many": "items",
    "total_without_weights": "total",
}
"""Planted faults, and the branch, stage or stages at which they must be found."""


def batch_in(precision: str, seed: int = 0) -> Batch:
    dtype, autocast = PRECISIONS[precision]
    recipe = Recipe(
        images=IMAGES[0],
        cells=(4, 6),
        strides=(8, 16),
        classes=3,
        reg_max=4,
        predictions="near",
        seed=seed,
        hyperparameters=Hyperparameters(updates=2, epochs=5),
        task=E2E.name,
    )
    return replace(recipe.build().to(dtype=dtype), autocast=autocast)


class Hidden(ReferenceAdapter):
    """The reference's end-to-end loss without its branches."""

    name, tasks, exposes_stages = "hidden", (E2E.name,), False

    def loss(self, *arguments: Any) -> Loss:
        return replace(super().loss(*arguments), branches=None)

    assign = None  # type: ignore[assignment] # a loss alone


def judged(implementation: Implementation, batch: Batch) -> Any:
    return judge_against_reference(Subject(replace(implementation, precisions=EVERY), "cpu"), batch)


def judged_on_all(implementation: Implementation, batches: list[Batch]) -> None:
    """Judge all batches: not every fault shows on each of them."""
    for batch in batches:
        judged(implementation, batch)


@pytest.mark.parametrize("precision", COARSE)
@pytest.mark.parametrize("name", ["hidden", "ultralytics"])
def test_right_losses_conform(name: str, precision: str):
    implementation = implementation_from(Hidden, name) if name == "hidden" else find(name)
    judgement = judged(implementation, batch_in(precision))
    assert not judgement.verdict.fails
    assert not judgement.inconclusive
    for stage in ("one2many/gradients", "one2one/gradients", "items", "total", "weights"):
        assert judgement.stages[stage].state is State.AGREES, stage


def test_the_log_says_that_values_of_a_hidden_branch_are_judged_with_the_whole_loss():
    shown, hidden = (
        judged(implementation_from(adapter, adapter.name), batch_in("autocast-bfloat16"))
        for adapter in (ReferenceAdapter, Hidden)
    )
    assert any(VALUES_LEFT in note for note in hidden.notes)
    assert not any(VALUES_LEFT in note for note in shown.notes)


@pytest.mark.parametrize("precision", mostly_nightly(COARSE, ("autocast-bfloat16",)))
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str, precision: str):
    implementation = faulty(FAULTS_BY_TASK[E2E.name][name])
    with pytest.raises(Failure) as caught:
        judged_on_all(implementation, [batch_in(precision, seed) for seed in range(4)])
    assert caught.value.stage.startswith(FAULTS[name])


def test_weights_are_gains():
    """The gradients of a weighted branch are those of a loss whose gains are multiplied by the weight."""
    part = branch_batches(batch_in("autocast-bfloat16"))["one2many"]
    own = weighted(Expectation(part, NEWEST), 0.25).batch.hyperparameters
    numbers = part.hyperparameters
    assert (own.box_gain, own.cls_gain, own.dfl_gain) == (
        0.25 * numbers.box_gain,
        0.25 * numbers.cls_gain,
        0.25 * numbers.dfl_gain,
    )
    assert replace(own, box_gain=7.5, cls_gain=0.5, dfl_gain=1.5) == numbers
