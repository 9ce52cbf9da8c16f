"""Poses and masks with NaN, infinity, float64 or 16 bits: faults are found, correct code conforms or is left open."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.non_finite import NonFiniteBatch
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import POSE, SEGMENT
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.judge import LOSS_NOT_IN_16_BITS
from tal_conformance.judgement.non_finite import judge_non_finite

PARTS: dict[str, dict[str, Any]] = {
    POSE.name: {"keypoints": (4, 3), "keypoint_kind": "labelled", "task": POSE.name},
    SEGMENT.name: {
        "prototypes": 4,
        "mask_kind": "ellipses",
        "mask_ratio": 4,
        "prototype_ratio": 4,
        "overlapping_masks": False,
        "task": SEGMENT.name,
    },
}
TASKS = tuple(PARTS)
PLACES = [("nan", True, 27), ("inf", True, 0), ("-inf", False, 27), ("nan", False, 27), ("nan", False, 0)]
"""Value, True for a class logit, and anchor: 27 is near the ground truth's centre, 0 in a corner outside of it."""


def recipe(task: str) -> Recipe:
    truth = Truth("ordinary", 0, (8, 8), (8, 8))
    return Recipe(images=((truth,), ()), cells=(8, 8), strides=(8, 16), predictions="near", **PARTS[task])


def subject(change: Callable[[Loss], Loss] | None = None) -> Subject:
    class Changed(ReferenceAdapter):
        tasks, name = TASKS, "changed"

        def loss(self, *arguments: Any) -> Loss:
            loss = super().loss(*arguments)
            return loss if change is None else change(loss)

    return Subject(implementation_from(Changed(), "changed"), "cpu")


def non_finite(task: str, value: str, class_logit: bool, place: int) -> NonFiniteBatch:
    return NonFiniteBatch(recipe(task), value, class_logit, 0, place)


judged = partial(judge_against_reference, judge=judge_non_finite)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("place", PLACES)
def test_a_value_that_is_not_finite_spreads_as_in_official_code(task: str, place: tuple[str, bool, int]):
    batch = non_finite(task, *place).build()
    for tested in (subject(), Subject(find("ultralytics"), "cpu")):
        assert not judged(tested, batch).verdict.fails


def spread_to_all(loss: Loss) -> Loss:
    """Return a loss in which a value that is not finite spreads to every term, as in one sum over all of them."""
    return loss if loss.items.isfinite().all() else replace(loss, items=loss.items * torch.nan)


def hidden_by_zeros(loss: Loss) -> Loss:
    """Return a loss without NaN, as after `nan_to_num`."""
    return replace(loss, items=loss.items.nan_to_num(0, 0, 0), total=loss.total.nan_to_num(0, 0, 0))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("change", [spread_to_all, hidden_by_zeros])
def test_a_loss_that_spreads_or_hides_it_is_found(task: str, change: Callable[[Loss], Loss]):
    with pytest.raises(Failure) as caught:
        judged(subject(change), non_finite(task, "nan", True, 27).build())
    assert caught.value.clause.startswith("NONFINITE")


def shifted(loss: Loss) -> Loss:
    """Return a loss whose second item is wrong."""
    wrong: Tensor = loss.items.clone()
    wrong[1] += 1
    return replace(loss, items=wrong)


@pytest.mark.parametrize("task", TASKS)
def test_float64_is_judged_like_float32(task: str):
    batch = recipe(task).build().to(dtype=torch.float64)
    assert judge_against_reference(subject(), batch).verdict in (Verdict.EXACT, Verdict.WITHIN_BOUND)
    with pytest.raises(Failure):
        judge_against_reference(subject(shifted), batch)


@pytest.mark.parametrize("task", TASKS)
def test_of_16_bits_only_the_assignment_is_judged(task: str):
    """The judgement is inconclusive, never green, and says why; a wrong assignment is found nevertheless."""
    batch = recipe(task).build().to(dtype=torch.float16)
    batch = replace(batch, autocast=True)
    judgement = judge_against_reference(subject(), batch)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert LOSS_NOT_IN_16_BITS in judgement.notes

    def halved(loss: Loss) -> Loss:
        assert loss.assignment is not None
        return replace(loss, assignment=replace(loss.assignment, scores=loss.assignment.scores / 2))

    with pytest.raises(Failure) as caught:
        judge_against_reference(subject(halved), batch)
    assert caught.value.stage == "normalisation"
