"""Hazards of sizes, heads and large logits are detected in batches that have the hazard, and in no others."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tal_conformance.batches.content.truths import ManyTruths, Truth
from tal_conformance.batches.hazards import sizes
from tal_conformance.batches.hazards.catalogue import HAZARDS
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies import long_batches
from tal_reference import Hyperparameters

HERE = set(vars(sizes)) & set(HAZARDS)
HUGE = Recipe(((Truth("huge"),),), (8, 8), predictions="near")
SLOW = {"positives_above_65536", "candidates_above_65536", "logits_above_2_24", "anchor_above_65535"}
"""Hazards whose examples take longer than half a second to build."""


def huge(**changes: Any) -> Recipe:
    return replace(HUGE, **changes)


def numbers(**changes: Any) -> Recipe:
    return huge(hyperparameters=Hyperparameters(**changes))


def labelled(label: int) -> Recipe:
    return huge(images=((Truth("huge", label),),), classes=300)


# For every hazard: recipes that have it, and recipes that barely lack it.
EXAMPLES: dict[str, tuple[list[Recipe], list[Recipe]]] = {
    "strides_not_doubled": (
        [huge(strides=(8, 32)), huge(strides=(8, 16, 24))],
        [huge(strides=(8, 16)), huge(strides=(16, 8))],
    ),
    "unsorted_strides": ([huge(strides=(16, 8)), huge(strides=(8, 32, 16))], [huge(strides=(8, 32))]),
    "five_levels": ([huge(strides=(2, 4, 8, 16, 32))], [huge(strides=(2, 4, 8, 16))]),
    "other_bins": ([huge(reg_max=3), huge(reg_max=20)], [huge(reg_max=1), huge(reg_max=2), huge(reg_max=32)]),
    "label_above_127": ([labelled(128)], [labelled(127), huge(classes=300)]),
    "label_above_255": ([labelled(256)], [labelled(255)]),
    "k_above_13": (
        [numbers(topk=14)],
        [numbers(topk=13), huge(images=((Truth("tiny"),),), hyperparameters=Hyperparameters(topk=14))],
    ),
    "k_above_32": ([numbers(topk=33)], [numbers(topk=32)]),
    "uneven_exponents": ([numbers(alpha=0.3), numbers(beta=5.3)], [numbers(alpha=1.5, beta=2.0)]),
    "gain_not_in_float16": (
        [numbers(box_gain=7.37), numbers(cls_gain=70_000.0), numbers(dfl_gain=3e-8)],
        [numbers(box_gain=7.25), HUGE],
    ),
    "gain_of_zero": ([numbers(dfl_gain=0.0)], [numbers(dfl_gain=3e-8)]),
    "images_above_8": ([huge(images=((),) * 9)], [huge(images=((),) * 8)]),
    "images_above_64": ([huge(images=((),) * 65)], [huge(images=((),) * 64)]),
    "rows_above_256": ([huge(images=(ManyTruths(257),))], [huge(images=(ManyTruths(256), ManyTruths(256)))]),
    "claimants_above_255": ([long_batches.claimants(256)], [long_batches.claimants(255)]),
    "anchor_above_2047": ([long_batches.anchors(2049)], [long_batches.anchors(2048)]),
    "anchor_above_65535": ([long_batches.anchors(65_537)], [long_batches.anchors(65_536)]),
    "beyond_1024_px": ([long_batches.columns(129)], [long_batches.columns(128)]),
    "beyond_2048_px": ([long_batches.columns(257)], [long_batches.columns(256)]),
    "candidates_above_65536": ([long_batches.candidates(60)], [long_batches.candidates(30)]),
    "positives_above_2048": ([long_batches.positives(2049)], [long_batches.positives(2048)]),
    "positives_above_65536": (
        [long_batches.positives_of_images(58, 1130)],
        [long_batches.positives_of_images(51, 1285)],
    ),
    "logits_above_2_24": ([long_batches.logits(14_042, 1203)], [long_batches.logits(13_900, 1203)]),
    "offset_distance_logits": ([huge(predictions="offset")], [HUGE, huge(predictions="offset", reg_max=1)]),
    "class_logits_above_1000": ([huge(predictions="extreme")], [huge(predictions="saturated")]),
}
WITH = [
    pytest.param(hazard, recipe, marks=[pytest.mark.slow] if hazard in SLOW else [], id=f"{hazard}-{number}")
    for hazard, (examples, _) in EXAMPLES.items()
    for number, recipe in enumerate(examples)
]
WITHOUT = [
    pytest.param(hazard, recipe, marks=[pytest.mark.slow] if hazard in SLOW else [], id=f"{hazard}-{number}")
    for hazard, (_, examples) in EXAMPLES.items()
    for number, recipe in enumerate(examples)
]


def test_every_hazard_has_examples():
    assert set(EXAMPLES) == HERE


@pytest.mark.parametrize(("hazard", "recipe"), WITH)
def test_hazard_is_found(hazard: str, recipe: Recipe):
    assert hazard in recipe.build().hazards


@pytest.mark.parametrize(("hazard", "recipe"), WITHOUT)
def test_hazard_is_not_found_beside_it(hazard: str, recipe: Recipe):
    assert hazard not in recipe.build().hazards


MAKERS: list[tuple[Callable[[int], Recipe], int, str]] = [
    (long_batches.truths, 601, "annotations"),
    (long_batches.anchors, 1025, "anchors"),
    (long_batches.images, 17, "images"),
]


@pytest.mark.parametrize(("make", "size", "what"), MAKERS, ids=["truths", "anchors", "images"])
def test_a_recipe_has_the_size_that_was_asked_for(make: Callable[[int], Recipe], size: int, what: str):
    found = getattr(make(size).build(), what)
    assert (found if isinstance(found, int) else len(found)) == size
