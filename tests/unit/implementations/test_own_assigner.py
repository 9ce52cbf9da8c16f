"""The official loss is judged with the hyperparameters of the assigner that the loss object holds."""

from types import ModuleType
from typing import Any

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.everything import check
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.adapters.stage_recorder import has_built_in_exponents, loss_arguments
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter, load_release
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Failure
from tal_reference import Hyperparameters

CROWD: Batch = Recipe(
    images=((Truth("huge"), Truth("tiny"), Truth("huge", size=(9, 9))), (Truth("ordinary"),)),
    cells=(8, 8),
    strides=(8, 16, 32),
    classes=2,
    predictions="near",
).build()
WRONG = {
    "k": ({"topk": 9}, "top-k"),
    "alpha": ({"alpha": 1.0}, "metric"),
    "beta": ({"beta": 5.0}, "metric"),
    "eps": ({"eps": 1e-2}, "normalisation"),
    "strides": ({"stride": [4, 8, 32]}, "candidates"),
    "classes": ({"num_classes": 1}, ""),
    "topk2": ({"topk2": 1}, "conflict"),
}
"""Wrong hyperparameters that a loss could give to its assigner, and the stage at which they are found."""


def changed(loss: ModuleType, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Implementation:
    """Return Ultralytics' installed release with the hyperparameters `numbers` in the assigner of its loss."""
    honest = loss.TaskAlignedAssigner
    monkeypatch.setattr(loss, "TaskAlignedAssigner", lambda **given: honest(**given | numbers))
    return implementation_from(UltralyticsAdapter(), "ultralytics")


def test_with_its_own_numbers_it_conforms(monkeypatch: pytest.MonkeyPatch):
    _, loss = load_release()
    check(changed(loss, {}, monkeypatch), CROWD)


@pytest.mark.parametrize("wrong", WRONG)
def test_numbers_that_the_loss_gives_wrongly_are_found(wrong: str, monkeypatch: pytest.MonkeyPatch):
    _, loss = load_release()
    numbers, stage = WRONG[wrong]
    with pytest.raises(Failure) as caught:
        check(changed(loss, numbers, monkeypatch), CROWD)
    assert caught.value.stage == stage, str(caught.value)


def test_a_default_of_the_loss_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch):
    _, loss = load_release()
    monkeypatch.setattr(loss.v8DetectionLoss.__init__, "__defaults__", (11, None))
    with pytest.raises(Failure) as caught:
        check(implementation_from(UltralyticsAdapter(), "ultralytics"), CROWD)
    assert caught.value.stage == "top-k"


def test_a_loss_is_told_only_what_it_cannot_know():
    assert loss_arguments(Hyperparameters()) == {}
    assert loss_arguments(Hyperparameters(topk=7, topk2=1)) == {"tal_topk": 7, "tal_topk2": 1}
    assert has_built_in_exponents(Hyperparameters(topk=1))
    assert not has_built_in_exponents(Hyperparameters(alpha=1.0))
    assert not has_built_in_exponents(Hyperparameters(beta=4.0))
