"""Kinds of predictions, quantised logits and planted ties have the properties that their names promise."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import tal_reference
from tal_conformance.batches.content.predictions import PREDICTION_KINDS, Copy
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import flatten

CROWD = (Truth("ordinary", 0, (2, 2), (9, 9)), Truth("aligned", 1, (9, 9), (5, 5)))
quickly = settings(deadline=None, derandomize=True, database=None, max_examples=50)
SCENE = Recipe(images=(CROWD, CROWD[:1]), cells=(8, 8), strides=(8, 16), classes=2)


def predicted(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the boxes (B, A, 4) in pixels, decoded by the reference, and the class logits (B, A, C)."""
    anchors = tal_reference.make_anchors(batch.feature_maps, batch.head)
    distances, logits = tal_reference.flatten(batch.feature_maps, batch.head)
    return tal_reference.decode(distances, anchors, batch.head.reg_max) * anchors.strides, logits


def batch_of(kind: str, **changes: object) -> Batch:
    return dataclasses.replace(SCENE, predictions=kind, **changes).build()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
@quickly
@given(recipe=recipes(bins=(16, 1, 2, 4, 32)))
def test_every_kind_is_finite_on_every_recipe(kind: str, recipe: Recipe):
    batch = dataclasses.replace(recipe, predictions=kind).build()
    assert all(bool(level.isfinite().all()) for level in batch.feature_maps)


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
def test_the_seed_changes_every_kind(kind: str):
    assert batch_of(kind).id != batch_of(kind, seed=1).id


@pytest.mark.parametrize("kind", sorted(set(PREDICTION_KINDS) - {"constant"}))
def test_images_differ(kind: str):
    """Images with equal ground truths have different predictions, so that an exchange of images is found."""
    twins = dataclasses.replace(SCENE, images=(CROWD, CROWD), predictions=kind).build()
    assert not torch.equal(*twins.feature_maps[0].unbind(0))


@pytest.mark.parametrize("kind", ["offset", "extreme"])
def test_offsets_change_logits_and_no_distance(kind: str):
    """A different offset is added to all bins of each side: logits are large, and boxes still overlap their targets."""
    batch = batch_of(kind)
    content = Content(batch)
    assert content.overlap[content.candidates].median() > 0.4
    largest = flatten(batch.feature_maps, batch.head)[0].amax(-1)  # (B, A, 4)
    assert largest.max() > 100
    assert largest.min() < -100
    assert len(largest.round().unique()) > 100


def test_one_bin_has_no_offset():
    assert batch_of("offset", reg_max=1).id == batch_of("near", reg_max=1).id


def test_extreme_class_logits_reach_their_limit_and_most_are_ordinary():
    logits = predicted(batch_of("extreme"))[1].abs()
    assert 1000 < logits.max() <= 10_000
    assert logits.median() < 10


def test_random_predictions_differ_everywhere():
    boxes, logits = predicted(batch_of("random"))
    assert len(boxes.flatten(0, 1).unique(dim=0)) == boxes.shape[0] * boxes.shape[1]
    assert len(logits.unique()) == logits.numel()


def test_near_predictions_overlap_their_ground_truth_and_score_its_class():
    content = Content(batch_of("near"))
    overlap = content.overlap[content.candidates]
    assert overlap.median() > 0.4
    assert overlap.max() < 1
    logits = flatten(batch_of("near").feature_maps, SCENE.build().head)[1][
        1
    ]  # the image with only one GT, whose class is 0
    inside = content.candidates[content.image == 1][0]
    assert logits[inside, 0].sigmoid().mean() > 0.3
    assert logits[:, 1].sigmoid().max() < 0.13
    assert logits[~inside, 0].sigmoid().mean() < logits[inside, 0].sigmoid().mean()


@pytest.mark.parametrize("reg_max", [1, 16])
def test_close_predictions_err_by_a_share_of_the_box(reg_max: int):
    """Predicted sides miss a ground truth by at most a quarter of its side, and a point by less than a pixel."""
    for truth in Truth("aligned", 0, (5, 5), (15, 15)), Truth("zero_area", 0, (9, 9), (0, 0)):
        recipe = Recipe(((truth,),), (8, 8), (32, 64), reg_max=reg_max, predictions="close")
        content = Content(recipe.build())
        box = content.boxes[0]  # (4,)
        side = (box[2:] - box[:2]).repeat(2)  # (4,)
        error = (content.predicted - box).abs().amin(0)  # (4,) of the anchor whose bins can reach the edge
        assert (error <= 0.25 * (side + 64 * 2**-10) + 1e-3).all()
        assert len(content.predicted.unique(dim=0)) == len(content.predicted)


def test_exact_hits_hit():
    """With predictions `exact_hit`, 40 to 56 of 64 anchors predict the only ground truth exactly."""
    aligned = Truth("aligned", at=(0, 0), size=(15, 15))
    content = Content(Recipe(((aligned,),), (8, 8), predictions="exact_hit").build())
    truth, _ = content.candidate_pairs
    hit = (content.predicted == content.boxes[truth]).all(1)
    assert len(hit) == 64
    assert 40 <= int(hit.sum()) <= 56


def test_predictions_between_two_ground_truths_overlap_both_alike():
    """With predictions `between` two mirrored ground truths, a batch has the hazard `symmetric_owners`."""
    images = ((Truth("aligned", at=(5, 5), size=(5, 3)), Truth("mirrored", at=(2, 0))),)
    batch = Recipe(images, (8, 8), predictions="between").build()
    assert "symmetric_owners" in batch.hazards


def test_saturated_predictions_are_at_the_ends():
    batch = batch_of("saturated")
    distances, logits = flatten(batch.feature_maps, batch.head)
    assert set(logits.unique().tolist()) == {-100.0, -30.0, 100.0}
    assert {0.0, 1.0} < set(logits.sigmoid().unique().tolist())
    assert bool((distances.softmax(-1).amax(-1) == 1).all())


def test_constant_predictions_are_constant_and_not_trivial():
    _, logits = predicted(batch_of("constant"))
    assert len(logits.flatten(0, 1).unique(dim=0)) == 1
    assert len(logits[0, 0].unique()) == 2
    assert Content(batch_of("constant")).overlap.max() > 0


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("kind", ["random", "near", "exact_hit", "between"])
def test_quantised_predictions(kind: str, levels: int):
    """Quantised to n levels, class logits have n different values; distances are multiples of half a cell."""
    boxes, logits = predicted(batch_of(kind, levels=levels))
    assert len(logits.unique()) == levels
    anchors = tal_reference.make_anchors(batch_of(kind).feature_maps, SCENE.build().head)
    from_anchors = (boxes - anchors.pixels.repeat(1, 2)) / anchors.strides
    assert torch.equal(2 * from_anchors, (2 * from_anchors).round())


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match="at least one level, not 0"):
        batch_of("near", levels=0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"unknown kind of predictions 'psychic'.*random, near"):
        batch_of("psychic")


def planted(recipe: Recipe) -> tuple[Batch, Batch]:
    """Return the recipe's batch twice: with the prediction of rank 10 copied onto rank 11, and without this copy."""
    with_copy = dataclasses.replace(recipe, levels=None, copies=(Copy(0, 0, 9, 10),))
    return with_copy.build(), dataclasses.replace(with_copy, copies=()).build()


@quickly
@given(recipe=recipes(kinds=["ordinary", "huge"], predictions=["near", "random"], contested=True))
def test_a_copy_makes_two_anchors_equal_and_touches_nothing_else(recipe: Recipe):
    """The copy and its original have equal scores and, if the bins allow, equal boxes; other logits are unchanged."""
    copied, original = planted(recipe)
    (boxes, logits), (_, before) = predicted(copied), predicted(original)
    ranked = int((Content(original).metric[0] > 0).sum())
    changed = (logits[0] != before[0]).any(1).nonzero().flatten()
    assert torch.equal(logits[1:], before[1:])
    if ranked <= 10:
        assert copied.id == original.id
    else:
        one, other = changed[0], changed[-1]
        assert len(changed) <= 2
        assert torch.equal(logits[0, one], logits[0, other])
        anchors = tal_reference.make_anchors(copied.feature_maps, copied.head)
        apart = (anchors.centres[one] - anchors.centres[other]).abs().max()
        if anchors.strides[one] == anchors.strides[other] and apart <= copied.head.reg_max - 1:
            assert torch.equal(boxes[0, one], boxes[0, other])


def test_most_copies_make_a_tie_at_the_tenth_place():
    """At least half of the batches in which the prediction of rank 10 is copied onto rank 11 have `tie_at_k`."""
    ties = tried = 0
    for seed in range(40):
        recipe = Recipe(
            images=((Truth("huge"),),), cells=(8, 8), predictions=("near", "random")[seed % 2], seed=seed
        )
        copied, original = planted(recipe)
        assert "tie_at_k" not in original.hazards
        tried += int((Content(original).metric[0] > 0).sum()) > 10
        ties += "tie_at_k" in copied.hazards
    assert tried == 40
    assert ties >= 20


@pytest.mark.parametrize(
    "copy", [Copy(0, 2, 9, 10), Copy(2, 0, 9, 10), Copy(0, -1, 9, 10), Copy(-1, 0, 9, 10)]
)
def test_a_copy_for_no_ground_truth_is_refused(copy: Copy):
    with pytest.raises(ValueError, match=r"Copy\(.*\) names a ground truth that does not exist"):
        batch_of("near", copies=(copy,))
