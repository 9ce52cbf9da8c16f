"""Relations of rotated boxes find their planted faults, and accept conforming implementations."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from tests.common.tiers import mostly_nightly
from tests.fauxmplementations.relation_faults import HONEST, PLANTED, planted
from torch import Tensor

import tal_reference.rotated
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.checks.relations.relations import (
    RELATIONS,
    TURNED_RELATIONS,
    NotApplicable,
    NotObservable,
)
from tal_conformance.checks.relations.turned_transformations import formable, half_turned_boxes, turned_scene
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import OBB
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_reference import NEWEST

_decode, _angle_loss = tal_reference.rotated.decode_rotated, tal_reference.rotated.angle_loss
HALF, FORM = ("META-TURN-HALF", "META-TURN-SIDES"), ("META-TURN-FORM",)


@cache
def batches(number: int = 60) -> list[Batch]:
    """Return batches of rotated boxes on which relations hold, the same in every test."""
    recipes = sample_recipes(STRATEGIES_BY_TASK[OBB.name]["relation"], number)
    return [batch for recipe in recipes if supports_relations(batch := recipe.build(), NEWEST)]


def angle_loss_of_a_full_turn(angles: Tensor, target: Tensor) -> Tensor:
    """Return an angle loss whose period is a full turn."""
    return _angle_loss(angles / 4, torch.cat((target[:, :4], target[:, 4:] / 4), 1))


def angle_loss_of_a_half_turn(angles: Tensor, target: Tensor) -> Tensor:
    """Return an angle loss whose period is a half turn."""
    return _angle_loss(angles / 2, torch.cat((target[:, :4], target[:, 4:] / 2), 1))


def centre_not_turned(distances: Tensor, angles: Tensor, anchors: Any) -> Tensor:
    """Return decoded boxes whose centre is moved along the image's axes instead of the box's."""
    upright = _decode(distances, torch.zeros_like(angles), anchors)
    return torch.cat((upright[:, :4], angles), dim=1)


def candidates_not_turned(truths: Any, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates (M, A) of boxes that are taken for upright ones."""
    boxes = tal_reference.rotated.widened(truths.boxes, floor)
    offset = (centres - boxes[:, None, :2]).abs()  # (M, A, 2)
    return (offset <= boxes[:, None, 2:4] / 2).all(-1) & truths.real[:, None]


OWN: dict[str, tuple[str, Fault]] = {
    "angle loss of a full turn": (
        "META-TURN-HALF",
        planted({"tal_reference.rotated.angle_loss": angle_loss_of_a_full_turn}, "angle"),
    ),
    "angle loss of a half turn": (
        "META-TURN-SIDES",
        planted({"tal_reference.rotated.angle_loss": angle_loss_of_a_half_turn}, "angle"),
    ),
    "centre not turned": (
        "META-TURN-FORM",
        planted({"tal_reference.rotated.decode_rotated": centre_not_turned}, "decode"),
    ),
    "candidates not turned": (
        "META-TURN-SCENE",
        planted({"tal_reference.rotated.candidates_of": candidates_not_turned}, "candidates"),
    ),
}
"""Faults by description, with the relation that must find each of them."""
SHARED = (
    "contested anchors go to the first",
    "the first one's label for all",
    "class 0 is no class",
    "over the mean",
    "not scaled by the overlap",
)
"""Faults of detection whose code rotated boxes share."""


def subject(adapter: Any) -> Subject:
    implementation: Implementation = implementation_from(adapter, "double")
    return Subject(implementation, "cpu")


def failures(clause: str, tested: Subject, number: int | None = None) -> Iterator[Failure]:
    """Yield the failures of an implementation in the relation `clause`, over all batches or the first `number`."""
    for batch in batches()[:number]:
        try:
            TURNED_RELATIONS[clause](tested, batch)
        except (NotApplicable, NotObservable):
            continue
        except Failure as failure:
            yield failure


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_planted_fault_is_found_by_its_relation(name: str):
    clause, fault = OWN[name]
    failure = next(failures(clause, subject(FaultyReference(fault))))
    assert (failure.clause, failure.verdict.value) == (clause, "divergent")
    assert failure.values


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_shared_code_is_related_in_rotated_boxes_too(name: str):
    clause, _, fault = next(row for row in PLANTED if row[1] == name)
    assert next(failures(clause, subject(FaultyReference(fault)))).clause == clause


def test_every_relation_of_rotated_boxes_has_a_planted_fault():
    assert {clause for clause, _ in OWN.values()} == set(TURNED_RELATIONS) - set(RELATIONS)


def test_a_half_turn_does_not_accuse_what_has_its_period():
    """A loss with the period of a half turn passes META-TURN-HALF, and so do candidates of upright boxes."""
    for name in ("angle loss of a half turn", "candidates not turned"):
        assert not list(failures("META-TURN-HALF", subject(FaultyReference(OWN[name][1])), 10))


@pytest.mark.slow
@pytest.mark.parametrize("clause", TURNED_RELATIONS)
@pytest.mark.parametrize(
    "kind", mostly_nightly(["stages shown", "loss alone", "float64 inside"], ["loss alone"])
)
def test_nothing_is_found_in_what_is_right(clause: str, kind: str):
    tested = subject(rotated(HONEST[kind])())
    for batch in batches()[:10]:
        try:
            TURNED_RELATIONS[clause](tested, batch)
        except (NotApplicable, NotObservable):
            continue


def rotated(adapter: type) -> type:
    """Return the adapter's class with rotated boxes among its tasks."""
    return type(adapter.__name__, (adapter,), {"tasks": (OBB.name,), "name": "honest"})


@pytest.mark.slow
@pytest.mark.parametrize("clause", TURNED_RELATIONS)
def test_nothing_is_found_in_official_code(clause: str):
    assert not list(failures(clause, Subject(find("ultralytics"), "cpu"), 12))


def test_transformations_start_from_a_stable_batch():
    """`formable` changes its own result no more, so that a case file reproduces a failing relation."""
    for batch in batches()[:20]:
        once = formable(batch)
        assert formable(once).id == once.id


def test_four_quarters_are_the_scene_again():
    turned = 0
    for batch in batches():
        first = scene = formable(batch)
        for _ in range(4):
            plans = list(turned_scene(scene))
            if not plans:
                break
            scene = plans[0].changed[0].batch
        if len(scene.annotations) == len(first.annotations) and scene is not first and plans:
            turned += 1
            assert scene.grids == first.grids
            torch.testing.assert_close(
                scene.annotations[:, :6], first.annotations[:, :6], rtol=1e-6, atol=1e-6
            )
            channels = first.head.channels
            for old, new in zip(first.feature_maps, scene.feature_maps, strict=True):
                assert torch.equal(old[:, :channels], new[:, :channels])
    assert turned > 5


def test_a_half_turn_of_all_exchanges_opposite_distances():
    batch = next(batch for batch in batches() if len(formable(batch).annotations))
    (plan,) = half_turned_boxes(batch)
    changed = plan.changed[0].batch
    width = batch.head.reg_max
    for old, new in zip(plan.sources[0].feature_maps, changed.feature_maps, strict=True):
        assert torch.equal(old[:, :width], new[:, 2 * width : 3 * width])
        assert not torch.equal(old[:, -1], new[:, -1])
