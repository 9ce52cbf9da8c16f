"""Recipes: a recipe builds the same batch in every run, on every machine."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.vendor.pretty import pretty

from tal_conformance.batches.content.predictions import Copy
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_reference import Hyperparameters

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
    assert pretty(recipe) == line, "Hypothesis prints the recipe differently"


@quickly
@given(recipe=EVERYTHING)
def test_the_recipe_makes_the_batch_again(recipe: Recipe):
    assert recipe.build().id == recipe.build().id
    assert recipe.build().origin == repr(recipe)


def test_defaults_are_left_out():
    assert repr(Recipe()) == "Recipe()"
    recipe = Recipe(((Truth("tiny", at=(1, 2)), Truth("ordinary")), ()), seed=3)
    assert repr(recipe) == "Recipe(images=((Truth('tiny', at=(1, 2)), Truth('ordinary')), ()), seed=3)"


def test_class_weights_are_repeated_for_further_classes():
    assert Recipe(classes=5, class_weights=(2.0, 0.5)).build().head.class_weights == (2.0, 0.5, 2.0, 0.5, 2.0)
    assert Recipe(classes=1, class_weights=(2.0, 0.5)).build().head.class_weights == (2.0,)
    assert Recipe(classes=3).build().head.class_weights is None


PINNED = {
    Recipe(): "91479218b658",
    Recipe(
        ((Truth("ordinary"), Truth("nested")), ()), (5, 4), (8, 16, 32), 3, predictions="near"
    ): "2409ab53e3e4",
    Recipe(((Truth("aligned"),),), (4, 6), predictions="exact_hit", seed=65535): "46fc907898d8",
    Recipe(((Truth("small", 79),),), (7, 5), (4, 8), 80, 4, "saturated"): "7906944a176d",
    Recipe(((Truth("off_lattice"),),), predictions="constant", reg_max=1): "f95908d72c67",
    Recipe(((Truth("huge"),),), (8, 8), levels=2, copies=(Copy(0, 0, 9, 10),)): "012e1c04277a",
}
"""Ids of batches, which must never change: reports, logs and ledgers refer to cases by id."""


@pytest.mark.parametrize(("recipe", "known"), PINNED.items(), ids=map(repr, PINNED))
def test_ids_do_not_change(recipe: Recipe, known: str):
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
    """Each level has ceil(input size / stride) cells in each direction, as strided convolutions give."""
    batch = Recipe(cells=cells, strides=strides).build()
    assert batch.grids == grids == Recipe(cells=cells, strides=strides).grids
    assert batch.size == (cells[0] * strides[0], cells[1] * strides[0])
    assert batch.anchors == sum(rows * columns for rows, columns in grids)


@quickly
@given(recipe=recipes(), data=st.data())
def test_without_an_image_the_others_keep_their_predictions(recipe: Recipe, data: st.DataObject):
    """Removing an image from a recipe leaves the predictions of all other images unchanged."""
    images, streams = ((), *recipe.images), (7, *(recipe.streams or range(len(recipe.images))))
    gone = data.draw(st.integers(0, len(images) - 1))
    whole = dataclasses.replace(recipe, images=images, streams=streams, copies=())
    part = dataclasses.replace(
        whole,
        images=images[:gone] + images[gone + 1 :],
        streams=streams[:gone] + streams[gone + 1 :],
        predictions="random" if recipe.predictions == "constant" else recipe.predictions,
    )
    whole = dataclasses.replace(whole, predictions=part.predictions)
    for before, after in zip(whole.build().feature_maps, part.build().feature_maps, strict=True):
        assert torch.equal(torch.cat((before[:gone], before[gone + 1 :])), after)


@quickly
@given(recipe=recipes(predictions=["random"]))
def test_without_a_ground_truth_random_predictions_stay(recipe: Recipe):
    recipe = dataclasses.replace(
        recipe, images=((Truth("huge"), *recipe.images[0]), *recipe.images[1:]), copies=()
    )
    without = dataclasses.replace(recipe, images=(recipe.images[0][1:], *recipe.images[1:]))
    assert all(map(torch.equal, recipe.build().feature_maps, without.build().feature_maps))


def test_every_image_has_its_own_stream():
    """By default each image has its own random stream; images with the same stream have equal predictions."""
    images = (Truth("ordinary"),), (Truth("ordinary"),)
    first, second = Recipe(images).build().feature_maps[0]
    assert not torch.equal(first, second)
    swapped = Recipe(images, streams=(1, 0)).build().feature_maps[0]
    assert torch.equal(swapped, torch.stack((second, first)))
    assert torch.equal(*Recipe(images, streams=(3, 3)).build().feature_maps[0])


@pytest.mark.parametrize("streams", [(0,), (0, 1, 2)])
def test_another_number_of_streams_is_rejected(streams: tuple[int, ...]):
    with pytest.raises(ValueError, match="one random stream for each image"):
        Recipe(((), ()), streams=streams).build()


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
def test_a_recipe_without_images_or_cells_is_rejected(recipe: Recipe):
    with pytest.raises(ValueError, match="at least one image and one cell"):
        recipe.build()


def test_an_invalid_head_is_rejected():
    with pytest.raises(ValueError, match="at least one level"):
        Recipe(strides=(8, 0)).build()
