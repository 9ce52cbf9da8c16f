"""Non-finite predictions: implementations that spread or replace NaN are found, and correct implementations conform."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.common.tiers import mostly_nightly

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.non_finite import NonFiniteBatch, rarely_at_infinity
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.non_finite import judge_non_finite
from tal_reference import DIALECTS, Dialect

RECIPE = Recipe(images=((Truth("ordinary"),), (Truth("huge"),)), cells=(5, 5), predictions="near")
INSIDE, OUTSIDE = 0, 24
"""Two anchors of the first image: a candidate, and an anchor that is not a candidate."""
LOST = Recipe(
    images=((Truth("ordinary"), Truth("ordinary", label=1, size=(15, 6))),), classes=2, predictions="near"
)
"""Anchor 0 is a candidate of two ground truths; the first overlaps it more and wins it."""
judge = partial(judge_against_reference, judge=judge_non_finite)


class Cleaned(ReferenceAdapter):
    """A faulty loss that replaces NaN and infinities before it computes anything."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        return super().loss([level.nan_to_num() for level in feature_maps], *arguments)


class Spread(ReferenceAdapter):
    """A faulty loss that multiplies background by zero instead of skipping it, so that NaN spreads."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        honest = super().loss(feature_maps, *arguments)
        leak = sum((level * 0).sum() for level in feature_maps)
        return replace(honest, total=honest.total + leak, items=honest.items + leak.detach())


@pytest.mark.parametrize("name", ["ultralytics", "article", "reference", "rearranged"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("class_logit", [True, False])
@pytest.mark.parametrize("place", [INSIDE, OUTSIDE])
def test_right_implementations_conform(name: str, value: str, class_logit: bool, place: int):
    judge(Subject(find(name), "cpu"), NonFiniteBatch(RECIPE, value, class_logit, place=place).build())


@pytest.mark.parametrize("name", ["ultralytics", "article", "reference", "rearranged"])
@pytest.mark.parametrize("value", ["inf", "-inf"])
@pytest.mark.parametrize("channel", range(4))
def test_the_overlap_of_an_edge_at_infinity_is_zero_or_nan(name: str, value: str, channel: int):
    recipe = Recipe(((Truth("ordinary"),),), reg_max=1, predictions="near")
    judge(Subject(find(name), "cpu"), NonFiniteBatch(recipe, value, channel=channel).build())


@pytest.mark.parametrize("name", ["ultralytics", "article", "reference", "rearranged"])
def test_on_a_border_that_is_not_sharp_the_anchor_may_be_a_candidate_or_not(name: str):
    """If an anchor lies on a box edge up to rounding, implementations conform whether or not it is a candidate."""
    recipe = Recipe(((Truth("ordinary"),),), (11, 13), (1, 2), predictions="near")
    judge(Subject(find(name), "cpu"), NonFiniteBatch(recipe).build())


class SpreadByDFL(ReferenceAdapter):
    """A faulty loss whose dfl is always NaN."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        honest = super().loss(feature_maps, *arguments)
        leak = torch.tensor([0, 0, torch.nan])
        return replace(honest, total=honest.total + leak, items=honest.items + leak)


@pytest.mark.parametrize("value", ["inf", "-inf"])
@pytest.mark.parametrize("bins", [1, 16])
def test_infinity_at_background_excuses_no_other_value(value: str, bins: int):
    recipe = Recipe(((Truth("ordinary"),),), (5, 5), reg_max=bins, predictions="near")
    batch = NonFiniteBatch(recipe, value, place=OUTSIDE).build()
    with pytest.raises(Failure, match="dfl loss is finite: False, expected True"):
        judge(Subject(implementation_from(SpreadByDFL, "double"), "cpu"), batch)


def test_images_beside_an_edge_at_infinity_are_judged():
    """With an infinite box edge in image 0, NaN target scores in image 1 are reported."""

    class Lost(ReferenceAdapter):
        def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
            honest = super().loss(feature_maps, *arguments)
            assert honest.assignment is not None
            scores = honest.assignment.scores * torch.tensor([1.0, torch.nan])[:, None, None]
            return replace(honest, assignment=replace(honest.assignment, scores=scores))

    batch = NonFiniteBatch(replace(RECIPE, reg_max=1), "inf").build()
    assert judge(Subject(find("reference"), "cpu"), batch).inconclusive
    with pytest.raises(Failure, match="image with finite target scores is False at image 1"):
        judge(Subject(implementation_from(Lost, "double"), "cpu"), batch)


def test_an_edge_at_infinity_of_no_candidate_changes_nothing():
    recipe = Recipe(((Truth("ordinary"),),), (5, 5), reg_max=1, predictions="near")
    batch = NonFiniteBatch(recipe, "inf", place=OUTSIDE).build()
    judge(Subject(find("rearranged"), "cpu"), batch)
    with pytest.raises(Failure):
        judge(Subject(implementation_from(Spread, "double"), "cpu"), batch)


@pytest.mark.parametrize("name", ["ultralytics", "article", "reference", "rearranged"])
def test_a_non_finite_value_of_a_lost_anchor_may_affect_its_image_or_not(name: str):
    judge(Subject(find(name), "cpu"), NonFiniteBatch(LOST, "nan", class_logit=True, channel=1).build())


def test_a_non_finite_logit_of_a_lost_anchor_affects_the_class_loss():
    batch = NonFiniteBatch(LOST, "nan", class_logit=True, channel=1).build()
    with pytest.raises(Failure, match="cls loss is finite: True, expected False"):
        judge(Subject(implementation_from(Cleaned, "double"), "cpu"), batch)


@pytest.mark.parametrize(
    ("adapter", "value", "class_logit", "place", "clause"),
    [
        (Cleaned, "nan", False, INSIDE, "NONFINITE-2"),
        (Cleaned, "inf", True, OUTSIDE, "NONFINITE-3"),
        (Spread, "nan", False, OUTSIDE, "NONFINITE-1"),
    ],
)
def test_hidden_and_spread_values_are_found(
    adapter: Any, value: str, class_logit: bool, place: int, clause: str
):
    batch = NonFiniteBatch(RECIPE, value, class_logit, place=place).build()
    with pytest.raises(Failure) as caught:
        judge(Subject(implementation_from(adapter, "double"), "cpu"), batch)
    assert caught.value.clause == clause


def test_repr_evaluates_to_the_batch():
    batch = NonFiniteBatch(RECIPE, "-inf", class_logit=True, channel=3, place=30)
    assert eval(repr(batch), {"NonFiniteBatch": NonFiniteBatch, "Recipe": Recipe, "Truth": Truth}) == batch
    assert int((~batch.build().feature_maps[0].isfinite()).sum()) == 1
    assert "not_finite" in batch.build().hazards
    assert not torch.equal(batch.build().feature_maps[0], RECIPE.build().feature_maps[0])


class FewerPlaces(ReferenceAdapter):
    """A faulty assigner that selects five anchors fewer if the batch has a non-finite value."""

    def loss(self, feature_maps: Any, annotations: Any, head: Any, hyperparameters: Any) -> Loss:
        spoilt = any(not level.isfinite().all() for level in feature_maps)
        taken = 5 if spoilt else 0
        fewer = replace(hyperparameters, topk=hyperparameters.topk - taken)
        return super().loss(feature_maps, annotations, head, fewer)


class OtherValues(ReferenceAdapter):
    """A faulty loss that returns three times the correct values if the batch has a non-finite value."""

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        honest = super().loss(feature_maps, *arguments)
        factor = 1 if all(level.isfinite().all() for level in feature_maps) else 3
        return replace(honest, total=honest.total * factor, items=honest.items * factor)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("class_logit", [True, False])
def test_a_non_finite_value_changes_no_target(value: str, class_logit: bool):
    batch = NonFiniteBatch(RECIPE, value, class_logit, place=OUTSIDE).build()
    with pytest.raises(Failure) as caught:
        judge(Subject(implementation_from(FewerPlaces(), "mine"), "cpu"), batch)
    assert caught.value.stage == "top-k"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_distance_off_the_positives_changes_no_loss(value: str):
    batch = NonFiniteBatch(RECIPE, value, place=OUTSIDE).build()
    with pytest.raises(Failure) as caught:
        judge(Subject(implementation_from(OtherValues(), "mine"), "cpu"), batch)
    assert caught.value.stage == "cls"


class SpreadsOverTheImage(ReferenceAdapter):
    """An assigner that sets all target scores of an image to NaN if one of its predictions is non-finite."""

    def __init__(self, dialect: Dialect, spreads_to_the_loss: bool = True, all_images: bool = False) -> None:
        super().__init__(dialect)
        self.spreads_to_the_loss, self.all_images = spreads_to_the_loss, all_images

    def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
        honest = super().loss(feature_maps, *arguments)
        assert honest.assignment is not None
        spoilt = torch.stack([~level.isfinite().flatten(1).all(1) for level in feature_maps]).any(0)  # (B,)
        if self.all_images:
            spoilt = spoilt.any().expand_as(spoilt)
        scores = honest.assignment.scores.where(~spoilt[:, None, None], torch.nan)
        shown = replace(honest.assignment, scores=scores)
        if not self.spreads_to_the_loss:
            return replace(honest, assignment=shown)
        return Loss(honest.total * torch.nan, honest.items * torch.nan, shown, honest.inputs)


EVERYWHERE = [DIALECTS[name] for name in ("ultralytics-8.0.51", "ultralytics-8.0.6")]


@pytest.mark.parametrize("dialect", EVERYWHERE)
@pytest.mark.parametrize("place", [INSIDE, OUTSIDE])
def test_where_overlaps_are_compared_everywhere_it_spreads_over_its_image(dialect: Dialect, place: int):
    """In old dialects, NaN in one prediction spreads over its image: overlaps of all anchors are compared."""
    batch = NonFiniteBatch(RECIPE, place=place).build()
    judge(subject(SpreadsOverTheImage(dialect)), batch)
    if place == OUTSIDE:  # if the anchor is a candidate, the reference's loss is not finite either
        with pytest.raises(Failure, match="loss is finite: True, expected False"):
            judge(subject(SpreadsOverTheImage(dialect, spreads_to_the_loss=False)), batch)
    with pytest.raises(Failure, match="image with finite target scores is False at image 1"):
        judge(subject(SpreadsOverTheImage(dialect, all_images=True)), batch)


@pytest.mark.parametrize("place", [INSIDE, OUTSIDE])
def test_a_padding_row_reads_the_first_class_everywhere(place: int):
    """NaN in class 0 may spread over an image only if the image has padding rows: their class is 0."""
    recipe = replace(RECIPE, images=((Truth("ordinary", label=1),), (Truth("huge", label=1),) * 2), classes=2)
    of_padding = NonFiniteBatch(recipe, class_logit=True, channel=0, place=place).build()
    judge(subject(SpreadsOverTheImage(EVERYWHERE[0])), of_padding)
    unread = replace(recipe, images=(((Truth("ordinary", label=1),) * 2), (Truth("huge", label=1),) * 2))
    by_nobody = NonFiniteBatch(unread, class_logit=True, channel=0, place=place).build()
    with pytest.raises(Failure):
        judge(subject(SpreadsOverTheImage(EVERYWHERE[0])), by_nobody)


@pytest.mark.parametrize(
    "dialect", [d for d in DIALECTS.values() if d not in EVERYWHERE], ids=lambda d: d.name
)
def test_in_other_dialects_it_does_not(dialect: Dialect):
    batch = NonFiniteBatch(replace(RECIPE, strides=(8, 16), cells=(6, 6)), place=35).build()
    with pytest.raises(Failure, match="image with finite target scores is False at image 0"):
        judge(subject(SpreadsOverTheImage(dialect)), batch)


@pytest.mark.parametrize(
    "dialect",
    mostly_nightly(
        DIALECTS.values(), ["ultralytics-8.4.190", "ultralytics-8.0.6"], lambda dialect: dialect.name
    ),
    ids=list(DIALECTS),
)
@pytest.mark.parametrize("bins", [1, 16])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_the_reference_of_every_dialect_conforms_to_it(dialect: Dialect, bins: int, value: str):
    filled = replace(RECIPE, strides=(8, 16), cells=(6, 6), reg_max=bins)
    own = subject(ReferenceAdapter(dialect))
    for recipe in (filled, replace(filled, images=((), ()))):
        for place in (0, 7, 14, 35):
            for class_logit in (False, True):
                judge(own, NonFiniteBatch(recipe, value, class_logit, place=place).build())


class WithoutSingleBinLoss(ReferenceAdapter):
    """The reference's loss with a constant dfl of 0, as in dialects without DFL for reg_max = 1."""

    def loss(self, *arguments: Any) -> Loss:
        honest = super().loss(*arguments)
        kept = torch.tensor([True, True, False])
        return replace(honest, total=honest.total.where(kept, 0), items=honest.items.where(kept, 0))


def test_a_dialect_without_a_loss_of_one_bin_has_none_where_n_is_not_finite():
    recipe = replace(RECIPE, strides=(8, 16), cells=(6, 6), reg_max=1)
    batch = NonFiniteBatch(recipe, class_logit=True, place=7).build()
    judge(subject(WithoutSingleBinLoss(DIALECTS["ultralytics-8.3.253"])), batch)
    with pytest.raises(Failure, match="dfl loss is finite: True, expected False"):
        judge(subject(WithoutSingleBinLoss(DIALECTS["ultralytics-8.4.190"])), batch)


def subject(adapter: Any) -> Subject:
    return Subject(implementation_from(adapter, "double"), "cpu")


def test_edges_at_infinity_are_rare_and_other_values_stay():
    heads = {bins: Recipe(images=((Truth("ordinary"),),), reg_max=bins) for bins in (1, 16)}
    drawn = [
        NonFiniteBatch(heads[bins], value, class_logit, channel)
        for bins in heads
        for value in ("nan", "inf", "-inf")
        for class_logit in (False, True)
        for channel in range(16)
    ]
    changed = [batch for batch in drawn if rarely_at_infinity(batch) != batch]
    assert all(batch.recipe.reg_max == 1 and not batch.class_logit for batch in changed)
    assert {rarely_at_infinity(batch).value for batch in changed} == {"nan"}
    assert len(changed) == 2 * 14, "of 2 x 16 infinite edges, 2 x 2 stay"
