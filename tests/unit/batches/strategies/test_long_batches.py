"""Profile `ci` has batches just below, at and just above each size at which implementations may break."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.recipe import Recipe, grids
from tal_conformance.batches.strategies.long_batches import (
    CHUNKS,
    CROSSINGS,
    SIZES,
    anchors,
    classes,
    clear_truths,
    crossings,
    grid_with,
    images,
    long_batches,
    positives,
    truths,
)
from tal_conformance.checks.profiles import PROFILES

NUMBERS = {
    classes: (128, 256, 1000),
    truths: (),
    anchors: (*CHUNKS, 1000, 1024, 2048, 65_536),
    images: (64,),
    positives: (2048,),
}


def test_the_gating_profile_draws_every_size():
    assert len(CROSSINGS) <= PROFILES["ci"].examples


@pytest.mark.parametrize("make", [make for make, numbers in NUMBERS.items() if numbers])
def test_every_number_is_crossed_from_both_sides(make: object):
    sizes = {size for maker, sizes in SIZES if maker is make for size in sizes}
    for number in NUMBERS[make]:  # type: ignore[index]
        assert {number - 1, number, number + 1} <= sizes


def test_ground_truths_cross_every_chunk():
    sizes = {size for maker, sizes in SIZES if maker in (truths, clear_truths) for size in sizes}
    assert all({number - 1, number, number + 1} <= sizes for number in CHUNKS)


def test_crossings_are_drawn_once_each():
    drawn: Counter[Recipe] = Counter()

    @settings(
        max_examples=PROFILES["ci"].examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=crossings)
    def collect(recipe: Recipe) -> None:
        drawn[recipe] += 1

    collect()
    assert set(drawn) == set(CROSSINGS)
    assert set(drawn.values()) == {1}


def test_a_failing_size_shrinks_to_the_first_that_fails():
    """If a batch of `CROSSINGS` and all later batches fail, the shrunk batch is the first of the failing batches."""
    first = next(number for number, recipe in enumerate(CROSSINGS) if recipe.classes > 300)
    smallest = find(
        crossings, lambda recipe: CROSSINGS.index(recipe) >= first, settings=settings(database=None)
    )
    assert smallest == CROSSINGS[first]


@pytest.mark.parametrize("count", [1, 2, 63, 101, 999, 1025, 2049, 8400, 65_537])
def test_a_grid_has_the_number_of_anchors(count: int):
    cells, strides = grid_with(count)
    assert sum(rows * columns for rows, columns in grids(cells, strides)) == count


def test_no_grid_has_no_anchor():
    with pytest.raises(ValueError, match="at least one anchor"):
        grid_with(0)


@pytest.mark.parametrize("count", [65, 257, 1025, 2049])
def test_the_last_anchor_is_selected(count: int):
    """In a batch with `count` anchors, a ground truth selects the last anchor, whose index is the largest."""
    assert bool(Content(anchors(count).build()).selected[:, -1].any())


CLEAR = next(sizes for make, sizes in SIZES if make is clear_truths)


@pytest.mark.parametrize("count", CLEAR)
def test_clear_crowds_have_one_assignment(count: int):
    ambiguous = {"tie_at_k", "zero_at_k", "equal_owners", "contested_at_zero"}
    assert not ambiguous & clear_truths(count).build().hazards


def test_drawn_sizes_differ():
    drawn: list[Recipe] = []

    @settings(
        max_examples=12, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(recipe=long_batches)
    def collect(recipe: Recipe) -> None:
        drawn.append(recipe)

    collect()
    assert len({repr(recipe) for recipe in drawn}) >= 10
    assert max(len(repr(recipe)) for recipe in drawn if len(recipe.images) < 9) < 400
