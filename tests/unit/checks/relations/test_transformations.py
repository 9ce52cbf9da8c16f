"""Transformed batches: ground truths and predictions are where the transformation's mapping says."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.checks.relations import transformations as changes
from tal_conformance.checks.relations.transformations import FollowUp, TransformationPlan
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import anchors as layout_anchors
from tal_conformance.core.geometry import decode, flatten, pixel_boxes

CHANGES = {
    change.__name__: change
    for change in (
        changes.permuted_truths, changes.permuted_images, changes.more_padding, changes.split, changes.empty_image,
        changes.mirrored, changes.renamed_classes, changes.unreachable_class, changes.shifted_logits,
    )
}  # fmt: skip
FEW = settings(max_examples=25, derandomize=True, database=None, deadline=None)
BATCH: Batch = Recipe(
    images=((Truth("ordinary"), Truth("nested", label=1), Truth("thin", label=2)), (), (Truth("huge", label=1),)),
    cells=(4, 6), strides=(8, 16), classes=3, predictions="near",
)  # fmt: skip
BATCH = BATCH.build()


def truths(batch: Batch, image: int) -> tuple[Tensor, Tensor]:
    """Return classes (M,) and boxes (M, 4) in pixels of the ground truths of an image."""
    rows = batch.annotations[batch.annotations[:, 0] == image].double()
    return rows[:, 1].long(), pixel_boxes(rows, batch.size)


def predicted(batch: Batch, image: int) -> tuple[Tensor, Tensor]:
    """Return boxes (A, 4) in pixels and class logits (A, C) of an image."""
    distances, logits = flatten([level.double() for level in batch.feature_maps], batch.head)
    centres, strides = layout_anchors(batch.grids, batch.head.strides)
    return decode(distances[image], centres.double(), strides.double()), logits[image]


def plans(name: str, batch: Batch) -> list[TransformationPlan]:
    return list(CHANGES[name](batch))


@pytest.mark.parametrize("name", CHANGES)
@FEW
@given(recipe=recipes(max_images=3, max_truths=4))
def test_every_image_is_found_where_its_look_says(name: str, recipe: Recipe):
    for plan in plans(name, recipe.build()):
        for changed in plan.changed:
            for source, image, changed_image, mapping in changed.pairs:
                before = plan.sources[source]
                labels, boxes = truths(before, image)
                labels_now, boxes_now = truths(changed.batch, changed_image)
                assert torch.equal(mapping.labels(labels_now[mapping.truths]), labels)
                assert torch.allclose(mapping.boxes(boxes_now[mapping.truths]), boxes, rtol=0, atol=1e-9)
                guess, logits = predicted(before, image)
                guess_now, logits_now = predicted(changed.batch, changed_image)
                assert torch.allclose(mapping.boxes(guess_now[mapping.anchors]), guess, rtol=0, atol=1e-9)
                assert torch.equal(logits_now[mapping.anchors][:, mapping.classes], logits)


@pytest.mark.parametrize("name", CHANGES)
def test_every_image_appears_once_on_either_side(name: str):
    for plan in plans(name, BATCH):
        pairs = [(pair.source, pair.image) for changed in plan.changed for pair in changed.pairs]
        assert sorted(pairs) == [(s, i) for s, batch in enumerate(plan.sources) for i in range(batch.images)]
        for changed in plan.changed:
            assert [pair.changed_image for pair in changed.pairs] == list(range(changed.batch.images))


@pytest.mark.parametrize("name", CHANGES)
def test_annotations_stay_sorted_by_image(name: str):
    for plan in plans(name, BATCH):
        for changed in plan.changed:
            images = changed.batch.annotations[:, 0]
            assert torch.equal(images, images.sort(stable=True).values)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_the_batch_and_does_so_the_same_way_every_time(name: str):
    first, second = plans(name, BATCH), plans(name, BATCH)
    ids = [[changed.batch.id for changed in plan.changed] for plan in first]
    assert ids == [[changed.batch.id for changed in plan.changed] for plan in second]
    assert BATCH.id not in {one for plan in ids for one in plan}


def only(plan: TransformationPlan) -> FollowUp:
    (changed,) = plan.changed
    return changed


@pytest.mark.parametrize("axis", [0, 1])
def test_mirrored_twice_is_the_batch_itself(axis: int):
    first = plans("mirrored", BATCH)[axis]
    second = plans("mirrored", only(first).batch)[axis]
    again, given_batch = only(second).batch, first.sources[0]
    assert torch.equal(again.annotations, given_batch.annotations)
    assert all(map(torch.equal, again.feature_maps, given_batch.feature_maps))


def test_renamed_as_often_as_there_are_classes_is_the_batch_itself():
    batch = BATCH
    for _ in range(3):
        batch = only(plans("renamed_classes", batch)[0]).batch
    assert batch.id == BATCH.id


def test_what_breaks_the_mirror_symmetry_is_left_out():
    outside = Recipe(
        images=((Truth("beyond_top_left"), Truth("beyond_bottom_right"), Truth("ordinary")),)
    ).build()
    kept = changes.mirrorable(outside)
    assert len(kept.annotations) == 1
    assert changes.mirrorable(kept).id == kept.id


def test_logits_are_shifted_exactly():
    """META-LOGIT-SHIFT: a constant is added to all bins of a side; differences between bins stay bitwise equal."""
    (plan,) = plans("shifted_logits", BATCH)
    source, shifted = (
        flatten(batch.feature_maps, BATCH.head)[0] for batch in (plan.sources[0], only(plan).batch)
    )
    difference = (shifted - source).flatten(0, 2)  # (B A 4, R)
    assert set(difference[:, 0].tolist()) == set(changes.SHIFTS)
    assert bool((difference == difference[:, :1]).all())
    assert changes.shiftable(plan.sources[0]).id == plan.sources[0].id


def test_the_logit_of_a_single_bin_is_not_shifted():
    assert not plans("shifted_logits", Recipe(images=((Truth(),),), reg_max=1).build())


def test_there_is_no_mirror_image_where_a_level_reaches_beyond_the_input():
    odd = Recipe(images=((Truth(),),), cells=(4, 5), strides=(8, 16)).build()
    assert [plan.how for plan in plans("mirrored", odd)] == ["mirrored top-bottom"]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("permuted_truths", Recipe(images=((Truth(),), (Truth(),)))),
        ("permuted_images", Recipe(images=((Truth(),),))),
        ("split", Recipe(images=((Truth(),),))),
        ("renamed_classes", Recipe(images=((Truth(),),), classes=1)),
    ],
)
def test_a_relation_without_a_change_says_so(name: str, recipe: Recipe):
    assert plans(name, recipe.build()) == []


def test_the_fuller_image_has_more_ground_truths_than_any_other():
    plan = plans("more_padding", BATCH)[0]
    counts = torch.bincount(only(plan).batch.annotations[:, 0].long())
    assert counts[-1] == counts[:-1].max() + changes.MORE


def test_the_unreachable_class_is_predicted_and_nobodys():
    changed = only(plans("unreachable_class", BATCH)[0])
    assert changed.extra == 0
    assert changed.batch.head.classes == 4
    assert 0 not in changed.batch.annotations[:, 1]
    _, logits = flatten(changed.batch.feature_maps, changed.batch.head)
    assert torch.equal(logits[..., 0], logits[..., 1:].amax(-1))
