"""Benchmark batches resemble the batches of real trainings."""

from dataclasses import replace

import pytest
import torch

from tal_conformance.benchmarks.uninstrumented import UninstrumentedReference
from tal_conformance.benchmarks.workloads import (
    CASES,
    CURVES,
    SMALL,
    SMALL_OF_TASKS,
    TRAINING_OF_TASKS,
    Case,
)
from tal_conformance.core.batch import Batch
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.implementations.registry import find
from tal_reference import ciou


@pytest.fixture(scope="module", params=[SMALL, Case(2, 640, 50)], ids=lambda case: case.name)
def batch(request: pytest.FixtureRequest) -> Batch:
    built: Batch = request.param.build()
    return built


def test_the_sizes_of_the_issue_are_there():
    sizes = {(case.images, case.pixels, case.truths, case.classes) for case in CASES.values()}
    assert {(2, 160, 8, 80), (16, 640, 10, 80), (16, 640, 50, 80), (16, 640, 150, 80)} <= sizes
    assert {"2x160 8gt", "16x640 10gt", "16x640 10gt and 1000gt", "16x640 50gt 20c"} <= set(CASES)
    assert all(name == case.name for name, case in CASES.items())


def test_curves_change_one_number_each():
    base = (16, 640, 50, 80, 0)
    for case in CURVES:
        changed = (case.images, case.pixels, case.truths, case.classes, case.crowd)
        assert sum(one != other for one, other in zip(changed, base, strict=True)) == 1


def test_a_crowd_is_in_the_first_image_alone():
    rows = Case(3, 160, 4, crowd=30).build().annotations
    assert rows[:, 0].int().bincount().tolist() == [30, 4, 4]


def test_size(batch: Batch):
    side = batch.size[0]
    assert batch.size == (side, side)
    assert batch.grids == tuple((side // stride, side // stride) for stride in (8, 16, 32))
    assert (batch.head.classes, batch.head.reg_max) == (80, 16)


def test_the_same_every_time():
    first = SMALL.build()
    assert Case(1, 64, 3).build().id != first.id, "another batch in between, so that nothing kept is returned"
    assert SMALL.build() is not first
    assert SMALL.build().id == first.id


def test_rows_are_sorted_and_boxes_lie_in_the_image(batch: Batch):
    images, labels, centres, sides = batch.annotations.split((1, 1, 2, 2), dim=1)
    assert bool((images[1:] >= images[:-1]).all())
    assert torch.equal(images.unique(return_counts=True)[1], torch.full((2,), len(images) // 2))
    assert len(labels.unique()) > 5
    assert bool((centres - sides / 2 >= -1e-6).all())
    assert bool((centres + sides / 2 <= 1 + 1e-6).all())


def test_positives_are_such_as_in_the_middle_of_training(batch: Batch):
    """Most ground truths of a batch have ten positives with large overlaps; most anchors are background."""
    inputs = assigner_inputs(batch)
    assignment = find("reference").adapter.assign(inputs)
    foreground = assignment.foreground  # (B, A)
    per_truth = foreground.sum() / len(batch.annotations)
    assert 6 < per_truth <= 10
    assert foreground.float().mean() < 0.2
    overlaps = ciou(assignment.boxes[foreground], inputs.boxes[foreground])  # (P,)
    assert 0.6 < overlaps.median() < 0.95
    own = assignment.scores[foreground].amax(1)  # (P,)
    assert own.median() > 0.1


@pytest.mark.parametrize("small", SMALL_OF_TASKS, ids=lambda case: case.name)
def test_other_tasks_have_sizes_like_detection_and_most_anchors_are_background(small: Case):
    """The small case of every other task; its large one differs in sizes alone."""
    assert replace(small, images=16, pixels=640, truths=10) in TRAINING_OF_TASKS
    built = small.build()
    assert (built.task, built.images, built.size, len(built.annotations)) == (small.task, 2, (160, 160), 16)
    assert built.head == small.head
    loss = UninstrumentedReference().loss(
        built.feature_maps, built.annotations, built.head, built.hyperparameters
    )
    silent = [item for item in loss.items.tolist() if item <= 0]
    assert silent == [0] * (small.task == "segment"), "expected a value of every term but the semantic loss"
    foreground = find("reference").adapter.assign(assigner_inputs(built)).foreground  # (B, A)
    assert 0.02 < foreground.float().mean() < 0.3
