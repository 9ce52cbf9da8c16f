"""The judge of poses: correct losses conform on fixed batches of every strategy, and wrong losses do not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.common.hidden import HidesEverything, subject_of

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import POSE, StageName, task_of
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure
from tal_conformance.judgement.rounding.keypoints import PoseErrors
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_conformance.mutation.planted_faults.keypoints import POSE_FAULTS, SHARED
from tal_reference import NEWEST, Head, Hyperparameters
from tal_reference.assignment import top_k
from tal_reference.keypoints import sigmas_of
from tal_reference.loss import positives_of

LEFT_OUT = ("crossings", "long_batches", "loss_of_large_boxes", "rows_in_any_order")
"""Strategies whose batches take seconds, or that the newest dialect does not accept."""
NAMES = [name for name in STRATEGIES_BY_TASK[POSE.name] if name not in LEFT_OUT]
POSED = Recipe(
    images=(
        (Truth("ordinary", 0, (3, 5), (9, 4)), Truth("ordinary", 1, (8, 8), (3, 6))),
        (Truth("ordinary", 1, (1, 1), (7, 7)),),
    ),
    classes=2,
    predictions="near",
    hyperparameters=Hyperparameters(pose_gain=3.0, kobj_gain=2.0),
    task=POSE.name,
    keypoints=(4, 3),
)
"""Two images with different numbers of ground truths, with gains of pose and kobj."""


@pytest.mark.parametrize("name", NAMES)
def test_correct_losses_conform(name: str):
    """Official code and the reference conform on fixed batches of every strategy of poses."""
    for recipe in sample_recipes(STRATEGIES_BY_TASK[POSE.name][name], 3):
        for adapter in (UltralyticsAdapter(), ReferenceAdapter()):
            judge_against_reference(subject_of(adapter), recipe.build(), each_term=True)


def test_a_hidden_assignment_conforms():
    judgement = judge_against_reference(subject_of(HidesEverything()), POSED.build())
    assert judgement.verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("term", ["pose_gain", "kobj_gain"])
def test_a_wrong_gain_diverges_in_its_term(term: str, hidden: bool):
    """A gain that is wrong by 0.1 % is found at the stage of its term, also if the assignment is hidden."""

    class WrongGain(HidesEverything if hidden else ReferenceAdapter):  # type: ignore[misc]
        def loss(self, maps: Any, rows: Any, head: Any, numbers: Any) -> Loss:
            changed = replace(numbers, **{term: getattr(numbers, term) * 1.001})
            result: Loss = super().loss(maps, rows, head, changed)
            return result

    with pytest.raises(Failure) as caught:
        judge_against_reference(subject_of(WrongGain()), POSED.build())
    assert caught.value.stage == term.removesuffix("_gain")


def test_an_ambiguous_hidden_assignment_is_not_a_divergence():
    """COR-2: positives of weight 0 count in full, so that a hidden loss is left open where several are admissible."""

    def last_of_equals(metric: torch.Tensor, k: int) -> torch.Tensor:
        return top_k(metric.flip(1), k).flip(1)

    class OtherChoice(HidesEverything):
        """A loss that takes the last of several equal candidates."""

        def loss(self, *arguments: Any) -> Loss:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tal_reference.assignment.top_k", last_of_equals)
                return super().loss(*arguments)

    different = 0
    for recipe in sample_recipes(STRATEGIES_BY_TASK[POSE.name]["topk"], 8):
        batch = recipe.build()
        given = batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters
        different += not torch.equal(OtherChoice().loss(*given).items, ReferenceAdapter().loss(*given).items)
        judgement = judge_against_reference(subject_of(OtherChoice()), batch)
        assert not judgement.verdict.fails
    assert different


def fault_on_a_batch(fault: Fault, recipe: Recipe) -> Failure | None:
    """Return the failure of the reference with a fault planted, on one batch."""
    try:
        judge_against_reference(subject_of(FaultyReference(fault)), recipe.build(), each_term=True)
    except Failure as failure:
        return failure
    return None


@pytest.mark.parametrize("name", [name for name in POSE_FAULTS if name not in SHARED])
@pytest.mark.slow
def test_a_planted_fault_is_found_at_its_stage(name: str):
    """The check that covers a planted fault of poses finds it at its stage; rare ones are on one batch of hundreds."""
    fault = POSE_FAULTS[name]
    recipes = sample_recipes(
        STRATEGIES_BY_TASK[POSE.name][fault.check], 250
    )  # few have a rare head or visibility
    failures = (fault_on_a_batch(fault, recipe) for recipe in recipes)
    assert any(failure.stage == fault.stage for failure in failures if failure is not None)


def test_the_exact_gradient_of_the_bounds_is_that_of_autograd():
    """The gradient whose errors are enclosed equals the reference's own gradient of the term pose."""
    batch = POSED.build()
    expected = Expectation(batch, NEWEST)
    assignment = (
        implementation_from(ReferenceAdapter(), "reference")
        .adapter.loss(batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters)
        .assignment
    )
    targets = expected.targets_of(assignment)
    known = expected.loss(targets, each_term=True)
    given = known.exact.predictions
    positives = targets.positives
    errors = PoseErrors.of(given, positives, sigmas_of(batch.head, given.logits), 0.0, 1e-7)  # type: ignore[arg-type]
    count = len(positives.image)
    of_points = known.exact.of_terms[1][2][known.positives].unflatten(1, (4, 3))[..., :2]  # (P, K, 2)
    found = errors.exact_gradient * (batch.images * 3.0 / count)
    torch.testing.assert_close(found, of_points, rtol=1e-12, atol=1e-15)
    assert (errors.gradient >= 0).all()
    assert positives_of(expected.assignment).image.equal(positives.image)


def test_rows_and_heads_of_poses():
    """A batch has three columns for each keypoint; a case file restores head and rows; other rows are rejected."""
    batch = replace(POSED, keypoint_sigmas=(0.5, 0.25)).build()
    assert batch.annotations.shape[1] == 6 + 12
    assert batch.head.keypoint_sigmas == (0.5, 0.25, 0.5, 0.25)
    assert "keypoints 4x3, keypoint sigmas 0.25 to 0.5" in batch.describe()
    assert task_of(batch.head, 18) is POSE
    with pytest.raises(ValueError, match=r"expected \(N, 18\)"):
        replace(batch, annotations=batch.annotations[:, :-3])
    with pytest.raises(ValueError, match="expects the number of keypoints"):
        replace(batch, head=Head((8,), 2))
    with pytest.raises(ValueError, match="expected a float32 number"):
        replace(batch, head=replace(batch.head, keypoint_sigmas=(0.1,) * 4))


def test_a_case_file_holds_keypoints(tmp_path: Any):
    batch = replace(POSED, keypoint_sigmas=(0.5,)).build()
    batch.save(tmp_path / "pose.safetensors")
    again = Batch.load(tmp_path / "pose.safetensors")
    assert (again.id, again.head, again.task) == (batch.id, batch.head, POSE.name)
    assert replace(POSED, keypoint_sigmas=(0.25,)).build().id != batch.id


def test_stages_of_poses_follow_those_of_detection():
    assert list(POSE.clauses)[8:] == ["cls", "box", "dfl", "pose", "kobj", "total", "gradients"]
    assert POSE.item_of == {"cls": 3, "box": 0, "dfl": 4, "pose": 1, "kobj": 2}
    assert [term.name for term in POSE.terms if not term.weighted] == [StageName.POSE, StageName.KOBJ]
