"""A failing batch shrinks to a readable line without unnecessary parts.

Each test calls `hypothesis.find` for the smallest recipe with a property. That takes hundreds of batches.
"""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, find, settings

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes

pytestmark = [pytest.mark.slow, pytest.mark.long]

LINE = 140
"""Largest number of characters of a readable line."""

Property = Callable[[Recipe], bool]


def smallest(wanted: Property, **options: bool) -> Recipe:
    quiet = settings(
        max_examples=3000,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return find(recipes(**options), wanted, settings=quiet)


def has(*hazards: str) -> Property:
    return lambda recipe: set(hazards) <= recipe.build().hazards


ONE = (Truth("ordinary"),)
TWO = (Truth("ordinary"), Truth("ordinary"))

# Properties of recipes, with the recipe to which Hypothesis must shrink.
EXACTLY: dict[str, tuple[Property, Recipe]] = {
    "any batch": (lambda recipe: True, Recipe()),
    "a ground truth": (lambda recipe: any(recipe.images), Recipe((ONE,))),
    "two of one image": (lambda recipe: any(len(truths) > 1 for truths in recipe.images), Recipe((TWO,))),
    "padding": (has("padding"), Recipe(((), ONE), streams=(0, 0))),
    "equal owners": (has("equal_owners"), Recipe((TWO,))),
    "a box that is dropped": (has("negative_sum"), Recipe(((Truth("beyond_top_left"),),))),
}


@pytest.mark.parametrize(("wanted", "expected"), EXACTLY.values(), ids=list(EXACTLY))
def test_shrinks_to_this_line(wanted: Property, expected: Recipe):
    assert smallest(wanted) == expected


def shrinks(wanted: Property, truths: int, **options: bool) -> Recipe:
    """Return the smallest recipe with the property `wanted`.

    Assert that it has one image, at most `truths` ground truths and a short line.
    """
    recipe = smallest(wanted, **options)
    assert len(repr(recipe)) <= LINE, recipe
    assert len(recipe.images) == 1, recipe
    assert len(recipe.images[0]) <= truths, recipe
    return recipe


def test_a_tie_at_the_tenth_place():
    shrinks(has("tie_at_k"), truths=2)


def test_a_tie_that_is_planted():
    recipe = shrinks(
        lambda recipe: recipe.predictions == "random" and recipe.levels is None and has("tie_at_k")(recipe),
        truths=1,
    )
    assert len(recipe.copies) == 1


def test_a_tiny_box():
    shrinks(has("tiny"), truths=1)


def test_a_third_owner():
    """A batch whose contested anchor is won by a ground truth that did not select it shrinks to three ground truths."""
    assert len(shrinks(has("third_owner"), truths=3, contested=True).images[0]) == 3


def test_symmetric_owners():
    shrinks(has("symmetric_owners"), truths=2, contested=True)
