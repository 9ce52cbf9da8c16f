"""Recipes: one line that makes the same batch every time, on every machine."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.vendor.pretty import pretty

from conformance.batches import Copy, Recipe, Truth, recipes
from reference import Hyperparameters

quickly = settings(deadline=None, derandomize=True, database=None, max_examples=50)
NAMES = {"Copy": Copy, "Hyperparameters": Hyperparameters, "Recipe": Recipe, "Truth": Truth}
EVERYTHING = recipes(
    shuffled_rows=True,
    bins=(16, 1, 2, 8),
    hyperparameters=st.builds(Hyperparameters, topk=st.integers(1, 13), topk2=st.none() | st.just(1)),
)


@quickly
@given(recipe=EVERYTHING)
def test_the_line_makes_the_recipe_again(recipe: Recipe):
    line = repr(recipe)
    assert "\n" not in line
    assert eval(line, dict(NAMES)) == recipe
    assert pretty(recipe) == line, "Hypothesis prints it otherwise"


@quickly
@given(recipe=EVERYTHING)
def test_the_recipe_makes_the_batch_again(recipe: Recipe):
    assert recipe.build().id == recipe.build().id
    assert recipe.build().origin == repr(recipe)


def test_defaults_are_left_out():
    assert repr(Recipe()) == "Recipe()"
    recipe = Recipe(((Truth("tiny", at=(1, 2)), Truth("ordinary")), ()), seed=3)
    assert repr(recipe) == "Recipe(images=((Truth('tiny', at=(1, 2)), Truth('ordinary')), ()), seed=3)"


PINNED = {
    Recipe(): "ed5cfdf1d082",
    Recipe(
        ((Truth("ordinary"), Truth("nested")), ()), (5, 4), (8, 16, 32), 3, predictions="near"
    ): "1f39bcf6f6bb",
    Recipe(((Truth("aligned"),),), (4, 6), predictions="exact_hit", seed=65535): "0a27b396b75e",
    Recipe(((Truth("small", 79),),), (7, 5), (4, 8), 80, 4, "saturated"): "3dd915f3a8ca",
    Recipe(((Truth("off_lattice"),),), predictions="constant", reg_max=1): "ad93d150c9f7",
    Recipe(((Truth("huge"),),), (8, 8), levels=2, copies=(Copy(0, 0, 9, 10),)): "c29ff88d2c83",
}
"""Ids of batches as they are today. Cases are named by them in reports, logs and ledgers for years."""


@pytest.mark.parametrize(("recipe", "known"), PINNED.items(), ids=map(repr, PINNED))
def test_known_recipes_keep_their_ids(recipe: Recipe, known: str):
    assert recipe.build().id == known


def test_global_state_of_torch_neither_matters_nor_changes():
    recipe = Recipe(((Truth("ordinary"),), (Truth("tiny"),)), predictions="near", shuffled=True)
    expected, before = recipe.build().id, torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        between = torch.random.get_rng_state()
        batch = recipe.build()
        assert torch.equal(torch.random.get_rng_state(), between)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.random.set_rng_state(before)
    assert batch.id == expected
    assert batch.dtype == torch.float32


@pytest.mark.parametrize(
    ("cells", "strides", "grids"),
    [
        ((4, 6), (8, 16, 32), ((4, 6), (2, 3), (1, 2))),
        ((5, 7), (8, 16), ((5, 7), (3, 4))),
        ((1, 12), (8, 16, 32, 64), ((1, 12), (1, 6), (1, 3), (1, 2))),
        ((3, 3), (12, 24), ((3, 3), (2, 2))),
    ],
)
def test_levels_cover_the_input(
    cells: tuple[int, int], strides: tuple[int, ...], grids: tuple[tuple[int, int], ...]
):
    """Level l has ceil(size / stride) cells, as strided convolutions give."""
    batch = Recipe(cells=cells, strides=strides).build()
    assert batch.grids == grids == Recipe(cells=cells, strides=strides).grids
    assert batch.size == (cells[0] * strides[0], cells[1] * strides[0])
    assert batch.anchors == sum(rows * columns for rows, columns in grids)


@quickly
@given(recipe=recipes())
def test_without_a_ground_truth_the_others_keep_their_predictions(recipe: Recipe):
    """And so it is without the last image. Else little could be taken away from a failing batch."""
    recipe = dataclasses.replace(
        recipe, images=((Truth("huge"),), *recipe.images), predictions="random", copies=()
    )
    fewer = dataclasses.replace(recipe, images=recipe.images[:-1])
    for whole, part in zip(recipe.build().feature_maps, fewer.build().feature_maps, strict=True):
        assert torch.equal(whole[:-1], part)
    without = dataclasses.replace(recipe, images=((), *recipe.images[1:]))
    assert all(map(torch.equal, recipe.build().feature_maps, without.build().feature_maps))


def test_shuffled_rows_are_the_same_rows():
    recipe = Recipe(((Truth("ordinary"), Truth("tiny")), (Truth("huge"),), (Truth("thin"),)))
    for seed in range(20):
        ordered = dataclasses.replace(recipe, seed=seed).build().annotations
        shuffled = dataclasses.replace(recipe, seed=seed, shuffled=True).build().annotations
        assert not torch.equal(shuffled[:, 0], ordered[:, 0])
        assert sorted(shuffled.tolist()) == sorted(ordered.tolist())


def test_shuffling_one_image_is_possible():
    batch = Recipe(((Truth("ordinary"),),), shuffled=True).build()
    assert len(batch.annotations) == 1


@pytest.mark.parametrize("recipe", [Recipe(images=()), Recipe(cells=(0, 4)), Recipe(cells=(4, -1))])
def test_a_recipe_of_nothing_is_refused(recipe: Recipe):
    with pytest.raises(ValueError, match="at least one image and one cell"):
        recipe.build()


def test_what_is_no_head_is_refused():
    with pytest.raises(ValueError, match="at least one level"):
        Recipe(strides=(8, 0)).build()
