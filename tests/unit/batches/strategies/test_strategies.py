"""Strategies of recipes: frequency of each hazard, share of unambiguous batches, and sizes of batches."""

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.predictions import PREDICTION_KINDS, Copy
from tal_conformance.batches.content.truths import COMMON_KINDS, ManyTruths, Truth
from tal_conformance.batches.hazards import sizes
from tal_conformance.batches.hazards.catalogue import HAZARDS
from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import SPECIAL_PREDICTIONS, recipes, training_size
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.attack import faulty
from tal_conformance.mutation.plant import Hidden
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import Hyperparameters

DRAWS = 600
AMBIGUOUS = {"tie_at_k", "zero_at_k", "equal_owners", "contested_at_zero"}
EVERY = "default"
STRATEGIES: dict[str, SearchStrategy[Recipe]] = {
    EVERY: recipes(shuffled_rows=True),
    "ties": recipes(ties=True),
    "contested": recipes(contested=True),
    "small_boxes": recipes(small_boxes=True),
    "outside": recipes(outside=True),
}


@cache
def drawn(name: str) -> list[Recipe]:
    """Return a list of recipes drawn from the strategy with the given name, the same list in every call."""
    return draw(STRATEGIES[name], DRAWS if name == EVERY else DRAWS // 2)


@cache
def built(name: str) -> list[Batch]:
    return [recipe.build() for recipe in drawn(name)]


def draw(strategy: SearchStrategy[Recipe], count: int) -> list[Recipe]:
    """Return `count` recipes that twelve runs of Hypothesis drew; a single run often repeats earlier draws."""
    found: list[Recipe] = []
    for number in range(12):

        @seed(number)
        @settings(
            max_examples=count // 12,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(recipe=strategy)
        def collect(recipe: Recipe) -> None:
            found.append(recipe)

        collect()
    return found


@cache
def hazard_counts(name: str) -> Counter[str]:
    return Counter(hazard for batch in built(name) for hazard in batch.hazards)


# Least number of 600 batches in which each hazard occurs: a third of the number when this was written, because another
# release of Hypothesis draws other batches.
AT_LEAST = {
    "no_gt_in_batch": 30,
    "image_without_gt": 50,
    "padding": 110,
    "shuffled_rows": 50,
    "negative_sum": 24,
    "tiny": 50,
    "small_8_16": 80,
    "thin": 34,
    "huge": 70,
    "zero_area": 18,
    "edge_on_centre": 100,
    "on_border": 80,
    "partly_outside": 70,
    "wholly_outside": 26,
    "nested": 90,
    "identical_boxes": 50,
    "same_box_other_class": 32,
    "touching": 30,
    "contested": 140,
    "contested_selection": 120,
    "third_owner": 28,
    "contested_at_zero": 16,
    "equal_owners": 70,
    "symmetric_owners": 5,
    "no_candidates": 28,
    "few_candidates": 140,
    "many_candidates": 120,
    "tie_at_k": 14,
    "zero_at_k": 90,
    "no_overlap": 38,
    "constant_predictions": 12,
    "quantised": 80,
    "saturated": 18,
    "exact_hit": 30,
    "dfl_clamp": 28,
    "one_level": 38,
    "many_levels": 18,
    "other_strides": 90,
    "non_square": 130,
    "uneven_levels": 70,
    "many_classes": 20,
    "few_bins": 22,
    "one_bin": 5,
}
OF_SIZE = set(vars(sizes)) & set(HAZARDS)
ELSEWHERE = {"not_finite", "fewer_anchors_than_k", "keeps_fewer", "tie_at_topk2"} | OF_SIZE
"""Hazards that need hyperparameters or predictions which other strategies draw."""
# Least number of 300 batches, for strategies that emphasise the hazard.
EMPHASISED = {
    "ties": {
        "tie_at_k": 60,
        "quantised": 180,
        "exact_hit": 40,
        "many_candidates": 130,
        "symmetric_owners": 5,
    },
    "contested": {
        "contested": 200,
        "contested_selection": 190,
        "third_owner": 40,
        "equal_owners": 150,
        "symmetric_owners": 8,
        "nested": 130,
        "same_box_other_class": 70,
    },
    "small_boxes": {
        "tiny": 120,
        "small_8_16": 100,
        "thin": 80,
        "zero_area": 90,
        "edge_on_centre": 110,
    },
    "outside": {
        "on_border": 120,
        "partly_outside": 100,
        "wholly_outside": 80,
        "negative_sum": 90,
        "no_candidates": 90,
    },
}


def test_every_hazard_has_a_frequency():
    assert set(AT_LEAST) == set(HAZARDS) - ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize("hazard", AT_LEAST)
def test_every_hazard_occurs(hazard: str):
    assert hazard_counts(EVERY)[hazard] >= AT_LEAST[hazard]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("emphasis", "hazard", "least"),
    [
        (emphasis, hazard, least)
        for emphasis, counts in EMPHASISED.items()
        for hazard, least in counts.items()
    ],
)
def test_emphasis_makes_it_frequent(emphasis: str, hazard: str, least: int):
    assert hazard_counts(emphasis)[hazard] >= least


@pytest.mark.parametrize("emphasis", EMPHASISED)
def test_emphasis_leaves_most_other_hazards_possible(emphasis: str):
    missing = set(AT_LEAST) - set(hazard_counts(emphasis)) - {"shuffled_rows", "no_gt_in_batch"}
    assert len(missing) <= 2, missing


def test_most_batches_are_not_trivial():
    """Most drawn batches have many candidates, and most candidates overlap their ground truth."""
    contents = [Content(batch) for batch in built(EVERY)]
    candidates = sum(int(content.candidates.sum()) for content in contents)
    overlapping = sum(int((content.overlap > 0).sum()) for content in contents)
    assert overlapping >= 0.75 * candidates
    assert sum(float(content.overlap.sum()) for content in contents) >= 0.2 * candidates
    assert candidates >= 40 * DRAWS


def test_many_batches_have_one_answer_alone():
    """At least 30 % of the drawn batches have no hazard of ties, so that their assignment is unique."""
    unique = [batch.hazards for batch in built(EVERY) if not AMBIGUOUS & batch.hazards]
    assert len(unique) >= 0.3 * DRAWS
    assert sum("contested_selection" in hazards for hazards in unique) >= 0.05 * DRAWS
    assert sum("many_candidates" in hazards for hazards in unique) >= 0.1 * DRAWS


@pytest.mark.parametrize("name", STRATEGIES)
def test_drawn_recipes_are_small_and_possible(name: str):
    batches = built(name)
    assert all(10 <= batch.anchors <= 250 for batch in batches)
    assert {batch.images for batch in batches} == {1, 2, 3, 4}
    assert sum(batch.anchors for batch in batches) <= 100 * len(batches)
    assert max(len(truths) for recipe in drawn(name) for truths in recipe.images) == 8


def test_few_recipes_are_drawn_twice():
    assert len(set(drawn(EVERY))) >= 0.85 * DRAWS
    assert len({batch.id for batch in built(EVERY)}) >= 0.85 * DRAWS


def test_every_kind_of_truths_and_predictions_is_drawn():
    kinds = Counter(truth.kind for recipe in drawn(EVERY) for truths in recipe.images for truth in truths)
    assert set(kinds) == set(COMMON_KINDS)
    assert min(kinds.values()) >= 15
    regimes = Counter(recipe.predictions for recipe in drawn(EVERY))
    assert set(regimes) == set(PREDICTION_KINDS) - set(SPECIAL_PREDICTIONS)
    assert min(regimes.values()) >= 10


def values(recipe: Recipe) -> dict[str, Any]:
    return {
        "kinds": {truth.kind for truths in recipe.images for truth in truths},
        "predictions": {recipe.predictions},
        "strides": {recipe.strides},
        "classes": {recipe.classes},
        "bins": {recipe.reg_max},
    }


@pytest.mark.parametrize(
    ("name", "requested"),
    [
        ("kinds", ("huge", "tiny")),
        ("predictions", ("saturated", "near")),
        ("strides", ((8, 16, 32), (64,))),
        ("classes", (3, 7)),
        ("bins", (1, 5)),
    ],
)
def test_only_requested_values_are_drawn(name: str, requested: tuple[Any, ...]):
    options: dict[str, Any] = {name: requested}
    found = [values(recipe)[name] for recipe in draw(recipes(**options), 60)]
    assert set().union(*found) == set(requested)


@pytest.mark.parametrize("emphasis", ["ties", "contested", "small_boxes", "outside"])
def test_kinds_asked_for_prevail_over_emphasis(emphasis: str):
    options: dict[str, Any] = {emphasis: True}
    found = draw(recipes(kinds=["thin"], **options), 40)
    assert set().union(*(values(recipe)["kinds"] for recipe in found)) == {"thin"}


def test_numbers_of_images_and_ground_truths_are_bounded():
    found = draw(recipes(max_images=2, max_truths=3), 60)
    assert {len(recipe.images) for recipe in found} == {1, 2}
    assert {len(truths) for recipe in found for truths in recipe.images} == {0, 1, 2, 3}


def test_no_ground_truths_can_be_asked_for():
    assert not any(any(recipe.images) for recipe in draw(recipes(max_truths=0), 30))


def test_contested_batches_have_two_ground_truths_to_begin_with():
    assert all(len(recipe.images[0]) >= 2 for recipe in drawn("contested"))


def test_rows_are_sorted_unless_asked_for():
    assert not any(recipe.shuffled for name in EMPHASISED for recipe in drawn(name))
    assert any(recipe.shuffled for recipe in drawn(EVERY))


@pytest.mark.parametrize("topk", [1, 10, 13, 30])
def test_there_are_always_as_many_anchors_as_k(topk: int):
    """TAL-TOPK-2: `recipes` draws no batch with fewer than k anchors, on which implementations must raise."""
    found = draw(recipes(hyperparameters=st.just(Hyperparameters(topk=topk)), ties=True), 60)
    assert all(recipe.build().anchors >= topk for recipe in found)
    assert {recipe.hyperparameters.topk for recipe in found} == {topk}


@pytest.mark.parametrize("topk", [3, 13])
def test_planted_ties_are_about_the_kth_place(topk: int):
    found = draw(recipes(hyperparameters=st.just(Hyperparameters(topk=topk)), ties=True), 60)
    places = {copy[2:] for recipe in found for copy in recipe.copies}
    assert (topk - 1, topk) in places


def test_training_size_is_that_of_training():
    found = draw(training_size(), 24)
    assert {len(recipe.images) for recipe in found} == {16}
    assert {(recipe.cells, recipe.strides, recipe.classes) for recipe in found} == {
        ((80, 80), (8, 16, 32), 80)
    }
    counts = [len(truths) for recipe in found for truths in recipe.images]
    assert max(counts) <= 300
    assert max(counts) >= 200


FEW = training_size(images=2, most=12, classes=5, kinds=("off_lattice",), predictions=("near",))


def test_training_size_with_few_ground_truths_has_one_assignment():
    found = [recipe.build() for recipe in draw(FEW, 12)]
    assert {kind.kind for recipe in draw(FEW, 12) for image in recipe.images for kind in image} == {
        "off_lattice"
    }
    assert not any(AMBIGUOUS & batch.hazards for batch in found)


def test_a_hidden_assignment_of_training_size_is_judged():
    """A fault that changes only weights is found in a loss that does not expose its assignment, at training size."""
    hidden = Hidden(FaultyReference(FAULTS["beta_of_five"], exposes_stages=False))
    with pytest.raises(Failure):
        judge_against_reference(
            Subject(implementation_from(hidden, "hidden"), "cpu"), draw(FEW, 12)[-1].build()
        )


def test_the_first_batch_of_training_size_is_the_whole_size():
    """The simplest batch of training size, often a run's only batch of this size, has 300 ground truths per image."""
    simplest = find(training_size(), lambda _: True)
    assert {len(truths) for truths in simplest.images} == {300}


def test_a_crowd_is_written_in_one_line_and_is_the_same_again():
    recipe = Recipe(
        images=(ManyTruths(300, 5, 80), ManyTruths(3, 1, 80)), cells=(16, 16), strides=(8, 16), classes=80
    )
    assert len(repr(recipe)) < 200
    again = eval(repr(recipe), {"Recipe": Recipe, "ManyTruths": ManyTruths, "Truth": Truth, "Copy": Copy})
    assert again == recipe
    assert again.build().id == recipe.build().id


def test_a_crowd_holds_every_kind_and_the_smaller_one_begins_it():
    crowd = ManyTruths(300, 5, 80)
    assert {truth.kind for truth in crowd} == set(COMMON_KINDS)
    assert max(truth.label for truth in crowd) > 70
    assert tuple(ManyTruths(7, 5, 80)) == crowd[:7]
    assert tuple(ManyTruths(7, 6, 80)) != crowd[:7]


def test_a_crowd_may_be_of_some_kinds():
    crowd = ManyTruths(50, 5, 3, ("huge", "nested"))
    assert {truth.kind for truth in crowd} == {"huge", "nested"}
    assert repr(crowd) == "ManyTruths(50, 5, classes=3, kinds=('huge', 'nested'))"


@pytest.mark.parametrize("name", ["nine_for_ten", "alpha_and_beta_swapped"])
def test_crowds_find_faults(name: str):
    fault = FAULTS[name]
    recipe = Recipe(
        (ManyTruths(30, 1, 80), ManyTruths(25, 2, 80)), (16, 16), (8, 16, 32), classes=80, predictions="near"
    )
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(faulty(fault), "cpu"), recipe.build())
    assert caught.value.stage == fault.stage
