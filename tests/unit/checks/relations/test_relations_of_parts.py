"""Relations of poses and masks find their planted faults, and accept conforming implementations."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from tests.common.tiers import mostly_nightly
from tests.fauxmplementations.relation_faults import HONEST, PLANTED, planted
from torch import Tensor

import tal_reference.keypoints
import tal_reference.masks
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.checks.relations.relations import (
    MASKED_RELATIONS,
    POSED_RELATIONS,
    RELATIONS,
    RELATIONS_BY_TASK,
    NotApplicable,
    NotObservable,
)
from tal_conformance.checks.relations.transformations import mirrorable, mirrored
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import POSE, SEGMENT
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_reference import NEWEST

_pose_term, _visibility_term = tal_reference.keypoints.pose_term, tal_reference.keypoints.visibility_term
_mask_logits, _mask_term, _inside = (
    tal_reference.masks.mask_logits,
    tal_reference.masks.mask_term,
    tal_reference.masks.inside,
)


@cache
def batches(task: str, number: int = 40) -> list[Batch]:
    """Return batches of a task on which relations hold, the same in every test."""
    recipes = sample_recipes(STRATEGIES_BY_TASK[task]["relation"], number)
    return [batch for recipe in recipes if supports_relations(batch := recipe.build(), NEWEST)]


def all_visible(found: Any, sigmas: Tensor) -> Tensor:
    """Return a loss of keypoints that counts invisible ones."""
    visible = torch.ones_like(found.visible)
    return _pose_term(type(found)(found.predicted, found.logits, found.wanted, visible, found.area), sigmas)


def sigmas_by_place(found: Any, sigmas: Tensor) -> Tensor:
    """Return a loss in which later keypoints have larger sigmas, whatever the head's own are."""
    return _pose_term(found, sigmas * torch.linspace(1, 2, len(sigmas)).to(sigmas))


def visibility_as_share(keypoints: Tensor, *rest: Any) -> Any:
    """Return true keypoints whose visibility 1 counts as invisible, as in code that asks for v > 1."""
    changed = keypoints.clone()
    changed[..., 2] = (changed[..., 2] > 1).to(changed)
    return _true_keypoints(changed, *rest)


_true_keypoints = tal_reference.keypoints.true_keypoints


def first_prototype_left_out(coefficients: Tensor, prototypes: Tensor) -> Tensor:
    """Return logits without the first prototype, if there are others."""
    first = min(len(prototypes) - 1, 1)
    return _mask_logits(coefficients[:, first:], prototypes[first:])


def bounded_coefficients(coefficients: Tensor, prototypes: Tensor) -> Tensor:
    """Return logits of coefficients after a hyperbolic tangent, which is the head's work in other models."""
    return _mask_logits(coefficients.tanh(), prototypes)


def whole_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (P, h, w) True everywhere: masks that are not cropped."""
    return torch.ones_like(_inside(boxes, size))


def seg_over_images(predictions: Any, positives: Any) -> Tensor:
    """Return the mask loss as a mean over images of means over positives, as before 8.0.196."""
    return _mask_term(predictions, positives) * len(positives.image) / max(len(positives.image) - 1, 1)


OWN: dict[str, tuple[str, str, Fault]] = {
    "invisible keypoints count": (
        POSE.name,
        "META-POSE-INVISIBLE",
        planted({"tal_reference.keypoints.pose_term": all_visible}, "pose"),
    ),
    "visibility 1 is invisible": (
        POSE.name,
        "META-POSE-VISIBILITY",
        planted({"tal_reference.keypoints.true_keypoints": visibility_as_share}, "pose"),
    ),
    "sigmas by place": (
        POSE.name,
        "META-POSE-ORDER",
        planted({"tal_reference.keypoints.pose_term": sigmas_by_place}, "pose"),
    ),
    "first prototype left out": (
        SEGMENT.name,
        "META-MASK-ORDER",
        planted({"tal_reference.masks.mask_logits": first_prototype_left_out}, "seg"),
    ),
    "bounded coefficients": (
        SEGMENT.name,
        "META-MASK-SCALE",
        planted({"tal_reference.masks.mask_logits": bounded_coefficients}, "seg"),
    ),
    "masks not cropped": (
        SEGMENT.name,
        "META-MASK-OUTSIDE",
        planted({"tal_reference.masks.inside": whole_image}, "seg"),
    ),
    "seg divided by P - 1": (
        SEGMENT.name,
        "META-SPLIT",
        planted({"tal_reference.masks.mask_term": seg_over_images}, "seg"),
    ),
}
"""Faults by description, with the task and the relation that must find each of them."""
SHARED = ("contested anchors go to the first", "the first one's label for all", "not scaled by the overlap")
"""Faults of detection whose code poses and masks share."""
TASKS = (POSE.name, SEGMENT.name)


def subject(adapter: Any) -> Subject:
    return Subject(implementation_from(adapter, "double"), "cpu")


def failures(task: str, clause: str, tested: Subject, number: int | None = None) -> Iterator[Failure]:
    """Yield the failures of an implementation in the relation `clause`, over all batches or the first `number`."""
    for batch in batches(task)[:number]:
        try:
            RELATIONS_BY_TASK[task][clause](tested, batch)
        except (NotApplicable, NotObservable):
            continue
        except Failure as failure:
            yield failure


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_planted_fault_is_found_by_its_relation(name: str):
    task, clause, fault = OWN[name]
    failure = next(failures(task, clause, subject(FaultyReference(fault))))
    assert (failure.clause, failure.verdict.value) == (clause, "divergent")
    assert failure.values


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", mostly_nightly(list(SHARED), SHARED[:1]))
def test_shared_code_is_related_in_other_tasks_too(name: str, task: str):
    clause, _, fault = next(row for row in PLANTED if row[1] == name)
    assert next(failures(task, clause, subject(FaultyReference(fault)))).clause == clause


def test_every_relation_of_poses_and_masks_has_a_planted_fault():
    found = {clause for _, clause, _ in OWN.values()}
    assert found >= (set(POSED_RELATIONS) | set(MASKED_RELATIONS)) - set(RELATIONS)


HONEST_KINDS = mostly_nightly(["stages shown", "loss alone", "float64 inside"], ["loss alone"])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", HONEST_KINDS)
def test_nothing_is_found_in_what_is_right(task: str, kind: str):
    tested = subject(type("Honest", (HONEST[kind],), {"tasks": TASKS, "name": "honest"})())
    for clause in RELATIONS_BY_TASK[task]:
        assert not list(failures(task, clause, tested, 6))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_found_in_official_code(task: str):
    for clause in RELATIONS_BY_TASK[task]:
        assert not list(failures(task, clause, Subject(find("ultralytics"), "cpu"), 8))


def test_a_mirrored_mirror_image_of_poses_is_the_batch_again():
    compared = 0
    for batch in batches(POSE.name):
        first = mirrorable(batch)
        for plan in mirrored(batch):
            again = (
                next(other for other in mirrored(plan.changed[0].batch) if other.how == plan.how)
                .changed[0]
                .batch
            )
            if len(again.annotations) == len(first.annotations):
                compared += 1
                assert torch.equal(again.annotations[:, 6:], first.annotations[:, 6:])
                for old, new in zip(first.feature_maps, again.feature_maps, strict=True):
                    torch.testing.assert_close(old, new)
    assert compared > 10
