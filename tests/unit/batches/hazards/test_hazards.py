"""Hazards (properties of a batch that expose faults) are detected in batches with the hazard, and only there."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import tal_reference
from tal_conformance.batches.content.predictions import Copy
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards import sizes
from tal_conformance.batches.hazards.catalogue import HAZARDS, MEANINGS, hazards_of
from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.core.batch import Batch
from tal_reference import Hyperparameters

quickly = settings(deadline=None, derandomize=True, database=None, max_examples=100)
Example = Callable[[], Batch]
Box = tuple[float, ...]
"""x1, y1, x2, y2 in pixels, then the class unless it is 0."""

A: Box = (10.25, 10.25, 40.25, 40.25)
"""A box without any hazard on an image of 64 x 64 px with strides 8 and 16."""


def images(*every: list[Box], **recipe: Any) -> Example:
    """Return a function that builds a batch of 64 x 64 px images, one for each given list of ground truths."""

    def build() -> Batch:
        settings: dict[str, Any] = {"cells": (8, 8), "strides": (8, 16), "classes": 2} | recipe
        batch = Recipe(images=((),) * len(every), **settings).build()
        height, width = batch.size
        rows = [
            (
                image,
                *(label or [0]),
                (x1 + x2) / 2 / width,
                (y1 + y2) / 2 / height,
                (x2 - x1) / width,
                (y2 - y1) / height,
            )
            for image, boxes in enumerate(every)
            for x1, y1, x2, y2, *label in boxes
        ]
        return with_hazards(dataclasses.replace(batch, annotations=torch.tensor(rows).reshape(-1, 6)))

    return build


def gts(*boxes: Box, **recipe: Any) -> Example:
    """Return a function that builds a batch of one 64 x 64 px image with the given ground truths."""
    return images(list(boxes), **recipe)


def with_hazards(batch: Batch) -> Batch:
    return dataclasses.replace(batch, hazards=hazards_of(batch))


def head(**recipe: Any) -> Example:
    return images([], **recipe)


def changed(example: Example, *place: int, value: float) -> Example:
    """Return a function that builds the example with one value of its first feature map replaced."""

    def build() -> Batch:
        first, *others = example().feature_maps
        first[place] = value
        return with_hazards(dataclasses.replace(example(), feature_maps=(first, *others)))

    return build


TEN_ANCHORS: dict[str, Any] = {"cells": (2, 5), "strides": (8,)}
NEAR = Recipe(((Truth("ordinary"), Truth("huge")),), predictions="near")
THIRD = Recipe(((Truth("ordinary"), Truth("ordinary"), Truth("huge")),), (4, 8))
HIT = Recipe(((Truth("aligned", size=(15, 15)),),), (8, 8), predictions="exact_hit")
AXIS = Recipe(
    ((Truth("aligned", at=(5, 5), size=(5, 3)), Truth("mirrored", at=(2, 0))),), (8, 8), predictions="between"
)
COPY = Recipe(((Truth("huge"),),), (8, 8), predictions="near", copies=(Copy(0, 0, 9, 10),))
BEST_TWICE = dataclasses.replace(NEAR, copies=(Copy(0, 1, 0, 1),))
CONSTANT = Recipe(((Truth("ordinary"),),), predictions="constant")

# For every hazard: batches that have it, and batches that barely lack it.
EXAMPLES: dict[str, tuple[list[Example], list[Example]]] = {
    "no_gt_in_batch": ([gts(), images([], [])], [images([], [A]), gts((-5, -5, 5, 5))]),
    "image_without_gt": ([images([], [A])], [images([A], [A]), images([], [])]),
    "padding": ([images([A], [A, A]), images([], [A])], [images([A], [A]), images([], [])]),
    "shuffled_rows": (
        [Recipe(((Truth(),), (Truth(),)), shuffled=True).build],
        [Recipe(((Truth(),), (Truth(),))).build, Recipe(((Truth(), Truth("tiny")),), shuffled=True).build],
    ),
    "negative_sum": ([gts((-5, -5, 5, 5)), gts((-40, 5, 20, 15))], [gts((-5, -5, 5, 5.25))]),
    "tiny": (
        [gts((10.25, 10.25, 18, 40.25)), gts((10.25, 10.25, 40.25, 10.5))],
        [gts((10.25, 10.25, 18.25, 40.25)), gts((10.25, 10.25, 40.25, 10.25))],
    ),
    "small_8_16": (
        [gts((10.25, 10.25, 18.25, 40.25)), gts((10.25, 10.25, 40.25, 26))],
        [
            gts((10.25, 10.25, 18, 40.25)),
            gts((10.25, 10.25, 26.25, 40.25)),
            gts((1, 1, 13, 13), strides=(8,)),
        ],
    ),
    "thin": ([gts((2, 2, 50, 8)), gts((2, 2, 8, 50))], [gts((2, 2, 50, 8.25)), gts((2, 2, 50, 2))]),
    "huge": ([gts((0, 0, 64, 51.25))], [gts((0, 0, 64, 51))]),
    "zero_area": (
        [gts((10, 10, 10, 30)), gts((10, 10, 30, 10))],
        [gts((10, 10, 10.25, 30)), gts((-5, -5, -5, 5))],
    ),
    "edge_on_centre": (
        [gts((12, 10.25, 40.25, 40.25)), gts((10.25, 10.25, 40.25, 40)), gts((11, 11, 21, 21))],
        [gts((12.25, 10.25, 40.25, 40.25)), gts((12, 65, 30, 90)), gts((11.25, 11.25, 21.25, 21.25))],
    ),
    "on_border": (
        [gts((0, 10, 30, 30)), gts((10, 10, 30, 64))],
        [gts((0.25, 10, 30, 30)), gts((-1, 10, 30, 30))],
    ),
    "partly_outside": (
        [gts((-1, 10, 30, 30)), gts((10, 60, 30, 65))],
        [gts((0, 10, 30, 64)), gts((64, 10, 80, 30)), gts((-80, 10, -1, 90))],
    ),
    "wholly_outside": (
        [gts((64, 10, 80, 30)), gts((10, -20, 30, 0))],
        [gts((63.75, 10, 80, 30)), gts((10, -20, 30, 0.25)), gts((-30, -30, -10, -10))],
    ),
    "nested": (
        [gts(A, (12, 12, 20, 20)), gts((12, 12, 20, 20), A), gts(A, (*A[:3], 40))],
        [gts(A, A), gts(A, (10, 12, 20, 20)), images([A], [(12, 12, 20, 20)])],
    ),
    "identical_boxes": (
        [gts(A, A), gts(A, (1, 1, 9, 9), A)],
        [gts(A, (*A, 1)), images([A], [A]), gts(A, (*A[:3], 40))],
    ),
    "same_box_other_class": ([gts(A, (*A, 1))], [gts(A, A), images([A], [(*A, 1)]), gts(A, (*A[:3], 40, 1))]),
    "touching": (
        [gts(A, (40.25, 20, 50, 50)), gts((20, 40.25, 30, 50), A)],
        [
            gts(A, (40.5, 20, 50, 50)),
            gts(A, (40, 20, 50, 50)),
            gts(A, (40.25, 40.25, 50, 50)),
            images([A], [(40.25, 20, 50, 50)]),
        ],
    ),
    "contested": (
        [gts(A, (38, 38, 60, 60))],
        [gts(A, (40.5, 40.5, 60, 60)), images([A], [(38, 38, 60, 60)])],
    ),
    "contested_selection": (
        [gts(A, A), Recipe(((Truth(), Truth(at=(1, 0))),)).build],
        [NEAR.build, images([A], [A])],
    ),
    "third_owner": ([THIRD.build], [NEAR.build, gts(A, A), gts(A, (12, 12, 42, 42))]),
    # With A = k every candidate is selected, whatever its alignment metric t.
    "contested_at_zero": (
        [
            gts((10, 2, 10, 14), (10, 2, 10, 14), **TEN_ANCHORS),
            gts((10, 2, 10, 14), (12, 2, 12, 9), **TEN_ANCHORS),
        ],
        [
            gts((10, 2, 10, 14), **TEN_ANCHORS),
            gts((10, 2, 10, 14), (3, 2, 15, 14), **TEN_ANCHORS),
            gts((10, 2, 10, 14), (30, 2, 30, 14), **TEN_ANCHORS),
            images([(10, 2, 10, 14)], [(10, 2, 10, 14)], **TEN_ANCHORS),
        ],
    ),
    "equal_owners": (
        [gts(A, A), gts(A, (*A, 1)), AXIS.build],
        [gts(A, (10.25, 10.25, 40.25, 40)), images([A], [A]), gts((10, 10, 10, 30), (10, 10, 10, 30))],
    ),
    "symmetric_owners": ([AXIS.build], [gts(A, A), gts(A, (10.25, 10.25, 40.25, 40))]),
    "no_candidates": (
        [gts((64, 10, 80, 30)), gts((12.25, 12.25, 19.75, 19.75), strides=(8,))],
        [gts((12.25, 12.25, 19.75, 19.75)), gts((-40, -40, -20, -20)), gts((10, 10, 10, 10))],
    ),
    "few_candidates": ([gts((10, 10, 28, 30))], [gts((10, 10, 30, 30)), gts((64, 10, 80, 30))]),
    "many_candidates": (
        [gts(A), gts((10, 10, 30, 30), hyperparameters=Hyperparameters(topk=2))],
        [gts((10, 10, 30, 30)), gts((10, 10, 10, 64))],
    ),
    "tie_at_k": (
        [COPY.build],
        [dataclasses.replace(COPY, copies=(Copy(0, 0, 3, 4),)).build, gts((10, 10, 10, 64))],
    ),
    "zero_at_k": (
        [gts((10, 10, 10, 30)), gts((10, 10, 10, 64))],
        [gts((10, 2, 10, 14), **TEN_ANCHORS), gts((64, 10, 80, 30)), HIT.build],
    ),
    "no_overlap": ([gts((10, 10, 10, 30))], [HIT.build, gts((64, 10, 80, 30))]),
    "constant_predictions": (
        [CONSTANT.build],
        [
            NEAR.build,
            changed(CONSTANT.build, 0, 0, 3, 3, value=1.0),
            changed(CONSTANT.build, 0, 64, 3, 3, value=9.0),
        ],
    ),
    "quantised": (
        [head(levels=1), head(levels=8), dataclasses.replace(NEAR, predictions="saturated").build],
        [head(), head(levels=12), CONSTANT.build, head(cells=(2, 5), strides=(8,), classes=1)],
    ),
    "saturated": (
        [
            changed(NEAR.build, 0, 64, 0, 0, value=17.0),
            dataclasses.replace(NEAR, predictions="saturated").build,
        ],
        [
            NEAR.build,
            changed(NEAR.build, 0, 64, 0, 0, value=16.9),
            changed(NEAR.build, 0, 0, 0, 0, value=99.0),
        ],
    ),
    "exact_hit": (
        [HIT.build, AXIS.build],
        [NEAR.build, lambda: shifted(HIT.build())],
    ),
    "dfl_clamp": (
        [gts(A, reg_max=2), gts((10.25, 10.25, 40.25, 20.25), reg_max=4)],
        [gts(A, reg_max=5), gts((64, 10, 80, 30), reg_max=2), gts(A, reg_max=1)],
    ),
    "one_level": ([head(strides=(8,))], [head(strides=(8, 16))]),
    "many_levels": ([head(strides=(8, 16, 32, 64))], [head(strides=(8, 16, 32))]),
    "other_strides": (
        [head(strides=(4, 8, 16)), head(strides=(16, 32)), head(strides=(8, 16, 32, 64))],
        [head(strides=(8, 16, 32)), head(strides=(8, 16)), head(strides=(8,))],
    ),
    "non_square": ([head(cells=(8, 4))], [head(cells=(8, 8))]),
    "uneven_levels": (
        [head(cells=(8, 5)), head(cells=(5, 8))],
        [head(cells=(8, 4)), head(cells=(5, 7), strides=(8,))],
    ),
    "many_classes": ([head(classes=20)], [head(classes=19)]),
    "few_bins": ([head(reg_max=2), head(reg_max=4)], [head(reg_max=5), head(reg_max=1)]),
    "one_bin": ([head(reg_max=1)], [head(reg_max=2)]),
    "not_finite": (
        [changed(NEAR.build, 0, 64, 0, 0, value=math.nan), changed(NEAR.build, 0, 0, 0, 0, value=math.inf)],
        [NEAR.build],
    ),
    "fewer_anchors_than_k": (
        [head(cells=(3, 3), strides=(8,))],
        [
            head(cells=(3, 4), strides=(8,)),
            head(cells=(3, 3), strides=(8,), hyperparameters=Hyperparameters(topk=9)),
        ],
    ),
    "keeps_fewer": (
        [dataclasses.replace(NEAR, hyperparameters=Hyperparameters(topk2=1)).build],
        [NEAR.build, dataclasses.replace(NEAR, hyperparameters=Hyperparameters(topk2=10)).build],
    ),
    "tie_at_topk2": (
        [dataclasses.replace(BEST_TWICE, hyperparameters=Hyperparameters(topk2=1)).build],
        [BEST_TWICE.build, dataclasses.replace(NEAR, hyperparameters=Hyperparameters(topk2=1)).build],
    ),
}


def shifted(batch: Batch) -> Batch:
    """Return the batch with all ground truths moved 1/64 px to the right."""
    rows = batch.annotations.clone()
    rows[:, 2] += 1 / 64 / batch.size[1]
    return with_hazards(dataclasses.replace(batch, annotations=rows))


def test_every_hazard_has_examples_and_a_meaning():
    """Every hazard has a meaning, and a batch that has the hazard in this module or in test_sizes."""
    elsewhere = vars(sizes)
    assert tuple(EXAMPLES) == tuple(name for name in HAZARDS if name not in elsewhere)
    assert tuple(MEANINGS) == HAZARDS
    assert all(
        meaning.endswith(".") and meaning.isprintable() and len(meaning) > 10 for meaning in MEANINGS.values()
    )


@pytest.mark.parametrize("hazard", EXAMPLES)
def test_hazard_is_found(hazard: str):
    for example in EXAMPLES[hazard][0]:
        assert hazard in example().hazards, example()


@pytest.mark.parametrize("hazard", EXAMPLES)
def test_hazard_is_not_found_beside_it(hazard: str):
    for example in EXAMPLES[hazard][1]:
        assert hazard not in example().hazards, example()


def test_the_harmless_box_is_harmless():
    """A batch with only the box A, on which all other examples are based, has no hazard except `many_candidates`."""
    assert gts(A)().hazards == {"many_candidates"}


@quickly
@given(recipe=recipes(shuffled_rows=True))
def test_hazards_are_names_of_hazards(recipe: Recipe):
    assert recipe.build().hazards <= set(HAZARDS)


@quickly
@given(recipe=recipes())
def test_looking_for_hazards_changes_nothing(recipe: Recipe):
    batch = recipe.build()
    before = [level.clone() for level in batch.feature_maps]
    assert hazards_of(batch) == batch.hazards
    assert all(map(torch.equal, batch.feature_maps, before))
    assert not any(level.is_inference() for level in batch.feature_maps)


def of_the_reference(batch: Batch) -> dict[str, bool]:
    """Return a dict from the names of hazards of candidates, top-k and overlap to True if the reference finds them."""
    k = batch.hyperparameters.topk
    names = (
        "contested",
        "contested_selection",
        "no_candidates",
        "few_candidates",
        "many_candidates",
        "no_overlap",
    )
    found = dict.fromkeys(names, False)
    anchors = tal_reference.make_anchors(batch.feature_maps, batch.head)
    distances, logits = tal_reference.flatten(batch.feature_maps, batch.head)
    boxes = tal_reference.decode(distances, anchors, batch.head.reg_max) * anchors.strides
    scores, strides = logits.sigmoid(), batch.head.strides
    for image, truths in enumerate(tal_reference.ground_truths(batch.annotations, batch.images, batch.size)):
        if not len(truths):
            continue
        trace = tal_reference.assign(
            scores[image], boxes[image], anchors.pixels, truths, strides, keep_trace=True
        ).trace
        assert trace is not None
        found["contested"] |= bool((trace.candidates.sum(0) > 1).any())
        found["contested_selection"] |= bool((trace.selected.sum(0) > 1).any())
        for truth in truths.real.nonzero().flatten().tolist():
            count = int(trace.candidates[truth].sum())
            found["no_candidates"] |= count == 0
            found["few_candidates"] |= 0 < count < k
            found["many_candidates"] |= int((trace.metric[truth] > 0).sum()) > k
            found["no_overlap"] |= count > 0 and float(trace.overlap[truth].max()) == 0
    return found


@quickly
@given(recipe=recipes(contested=True, small_boxes=True))
def test_hazards_agree_with_the_reference(recipe: Recipe):
    batch = recipe.build()
    expected = of_the_reference(batch)
    if {"tie_at_k", "zero_at_k"} & batch.hazards:
        del expected["contested_selection"]  # which of several equal anchors is selected may differ
    assert {name: name in batch.hazards for name in expected} == expected


@quickly
@given(recipe=recipes(ties=True))
def test_equal_values_at_k_are_found_by_sorting_too(recipe: Recipe):
    batch = recipe.build()
    content, k = Content(batch), batch.hyperparameters.topk
    tie = zero = False
    for row, candidates in zip(content.metric.tolist(), content.candidates.sum(1).tolist(), strict=True):
        row.sort(reverse=True)
        positive = sum(t > 0 for t in row)
        if len(row) > k:
            tie |= row[k - 1] == row[k] > 0
            zero |= row[k - 1] == 0 and candidates > positive
    assert ("tie_at_k" in batch.hazards, "zero_at_k" in batch.hazards) == (tie, zero)
