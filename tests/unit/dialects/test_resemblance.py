"""Resemblance: the reference is closest to an implementation in the dialect that it computes."""

import math
from typing import Any

import pytest
import torch
from tests.fauxmplementations.dense_port import DensePort

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.dialects.observations import Observations
from tal_conformance.dialects.resemblance import Resemblance, relative
from tal_conformance.implementations.protocol import implementation_from
from tal_reference import NEWEST, Hyperparameters, parse

IOU = parse("ultralytics-8.4.190, overlap=iou")


def resemblance(shows: str, **choices: Any) -> Resemblance:
    return Resemblance(Observations(implementation_from(DensePort(NEWEST, shows, **choices), "port")))


@pytest.mark.parametrize("shows", ["all", "nothing"])
def test_the_dialect_that_is_computed_is_the_most_similar(shows: str):
    measured = resemblance(shows, overlap="iou")
    recipes = sample_recipes(STRATEGIES["metric"], 6)
    assert measured.total(IOU, recipes) < measured.total(NEWEST, recipes) / 10
    assert all(measured.is_similar(recipe, IOU) for recipe in recipes)
    assert not all(measured.is_similar(recipe, NEWEST) for recipe in recipes)


def test_differences_below_rounding_still_rank():
    """Clamping at 1e-9 in place of adding 1e-9 changes target scores by less than the tolerance of `is_similar`."""
    measured = resemblance("all", norm_clamped=True)
    recipes = sample_recipes(STRATEGIES["metric"], 6)
    clamped = parse("ultralytics-8.4.190, norm_clamped")
    assert measured.total(clamped, recipes) < measured.total(NEWEST, recipes)


def test_a_difference_of_one_result_is_closer_than_one_of_all():
    """Without the number of images, total and gradients differ; with plain IoU the items do too."""
    measured = resemblance("nothing", total_times_images=False)
    (recipe,) = [r for r in sample_recipes(STRATEGIES["metric"], 20) if len(r.images) > 1][:1]
    assert 0 < measured.distance(recipe, NEWEST) < measured.distance(recipe, IOU) < 1


def test_an_exception_differs_from_a_result():
    few = Recipe(
        images=((Truth("ordinary"),),), levels=1, cells=(2, 2), hyperparameters=Hyperparameters(topk=10)
    )
    measured = resemblance("all")
    assert measured.distance(few, NEWEST) == 0  # both raise: there are fewer anchors than k
    assert measured.distance(few, parse("ultralytics-8.4.190, k_cut")) == 1


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 4.0], 0.25),
        ([0.0], [0.0], 0.0),
        ([0.0], [1e-12], 0.0),
        ([], [], 0.0),
        ([math.nan], [math.nan], 0.0),
        ([math.nan], [1.0], 1.0),
    ],
)
def test_relative_differences(one: list[float], other: list[float], distance: float):
    assert relative(torch.tensor(one), torch.tensor(other)) == distance
