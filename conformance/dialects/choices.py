"""The choices in which two dialects differ: in words, by clause, and on the smallest batch that distinguishes them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from tal_conformance.batches.named_strategies import LOSS_STRATEGIES, STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies import recipes
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import rejection_for
from tal_reference import (
    Dialect,
    Hyperparameters,
    OverlapsCompared,
    SingleBin,
    SmallBoxFloor,
    WeightBroadcast,
    detection_loss,
)
from tal_reference.loss import DetectionLoss

LEVELS = ((8, 16), (8, 16, 32))
"""Strides that every dialect supports."""
DEFAULTS = Hyperparameters()
MAX_EXAMPLES = 400
"""Batches that Hypothesis generates to find one that distinguishes a choice."""

SEARCH = settings(derandomize=True, database=None, deadline=None, phases=[Phase.generate, Phase.shrink])
"""Settings of a search that finds the same batch every time, without Hypothesis' explain phase."""

WORDS: dict[str, dict[Any, str]] = {
    "small_box_floor": {
        SmallBoxFloor.NONE: "small ground truths keep their size",
        SmallBoxFloor.BELOW_FIRST_STRIDE: "a side shorter than the first stride counts as one of the second stride "
        "where anchors are sought inside it",
        SmallBoxFloor.BELOW_SECOND_STRIDE: "a side shorter than the second stride counts as one of the second stride "
        "where anchors are sought inside it",
    },
    "one_level": {True: "a head with one level is accepted", False: "a head with one level raises"},
    "overlaps_compared": {
        OverlapsCompared.CANDIDATES: "a contested anchor goes to the best overlap among the ground truths that "
        "contain it",
        OverlapsCompared.EVERYWHERE: "a contested anchor goes to the best overlap among all ground truths, also those "
        "that do not contain it",
    },
    "topk2": {True: "topk2 can reduce the anchors of a ground truth", False: "topk2 is not supported"},
    "score_sum_floor": {
        1.0: "the loss is divided by the sum of target scores, but at least by 1",
        0.0: "the loss is divided by the sum of target scores, also where that is below 1 or zero",
    },
    "weights_meet": {
        WeightBroadcast.PER_POSITIVE: "the box loss of a positive is weighted with its own target score",
        WeightBroadcast.ALL_PAIRS: "the box loss of a positive is weighted with the target scores of all positives",
    },
    "single_bin": {
        SingleBin.L1: "with reg_max 1 the distances have an L1 loss",
        SingleBin.NOTHING: "with reg_max 1 the distances have no loss of their own",
    },
    "rows_sorted": {
        True: "annotation rows must be sorted by image",
        False: "annotation rows may be in any order",
    },
}
"""Meaning of every value of each choice."""


def small_recipes(**options: Any) -> SearchStrategy[Recipe]:
    """Return a strategy of one image with few ground truths, so that Hypothesis finds small examples soon.

    Args:
        options: of `recipes`, in addition or instead.
    """
    sizes: dict[str, Any] = {"strides": LEVELS, "classes": (1, 2), "max_images": 1, "max_truths": 3}
    return recipes(**sizes | options)


DISTINGUISHING: dict[str, tuple[str, SearchStrategy[Recipe]]] = {
    "small_box_floor": ("TAL-CAND-2", small_recipes(small_boxes=True)),
    "one_level": ("TAL-CAND-2", small_recipes(strides=((8,),))),
    "overlaps_compared": ("TAL-CONF-1", small_recipes(contested=True)),
    "topk2": (
        "TAL-CONF-2",  # a batch without ground truths has no anchors to drop
        small_recipes(hyperparameters=st.just(Hyperparameters(topk2=1))).filter(
            lambda recipe: any(recipe.images)
        ),
    ),
    "score_sum_floor": ("LOSS-SUM-1", small_recipes()),
    "weights_meet": ("LOSS-BOX-1", small_recipes()),
    "single_bin": ("LOSS-DFL-1", small_recipes(bins=(1,))),
}
"""Clause of each choice, and a strategy whose recipes can distinguish its values.

`rows_sorted` is missing: the result for annotation rows out of order is undefined.
"""
CLAUSES = {name: clause for name, (clause, _) in DISTINGUISHING.items()} | {"rows_sorted": "ANN-1"}


@dataclass(frozen=True)
class Choice:
    """One choice in which two dialects differ.

    Attributes:
        name: field of `Dialect`.
        clause: clause of the specification.
        before, after: meaning of the value in the first and in the second dialect.
        recipe: the smallest batch that distinguishes the two values; None if the result is undefined in one of them.
        changed: the first dialect with the second dialect's value of this choice.
    """

    name: str
    clause: str
    before: str
    after: str
    recipe: Recipe | None
    changed: Dialect


def choices_between(before: Dialect, after: Dialect) -> list[Choice]:
    """Return every choice in which the second dialect differs from the first, in the order of the stages."""
    return list(_choices(before, after))


def _choices(before: Dialect, after: Dialect) -> Iterator[Choice]:
    for field in fields(Dialect):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if field.name == "name" or old == new:
            continue
        changed = replace(before, **{field.name: new})
        words = WORDS[field.name]
        recipe = smallest(before, changed, field.name) if field.name in DISTINGUISHING else None
        yield Choice(field.name, CLAUSES[field.name], words[old], words[new], recipe, changed)


@cache
def smallest(before: Dialect, changed: Dialect, name: str) -> Recipe:
    """Return the smallest batch on which the reference computes different results in two dialects.

    Args:
        before: a dialect.
        changed: the same with another value of one choice.
        name: of that choice.

    Raises:
        LookupError: no generated batch distinguishes the two.
    """
    search = settings(SEARCH, max_examples=MAX_EXAMPLES)
    try:
        return find(DISTINGUISHING[name][1], lambda recipe: differ(before, changed, recipe), settings=search)
    except NoSuchExample as error:
        raise LookupError(
            f"none of {MAX_EXAMPLES} batches distinguishes {name} of {before.name} from {changed.name}"
        ) from error


def differ(first: Dialect, second: Dialect, source: Recipe | Batch) -> bool:
    """Return True if two dialects train differently on a batch: only one rejects it, or targets or losses differ."""
    batch = source.build() if isinstance(source, Recipe) else source
    rejected = [rejection_for(batch, dialect) is not None for dialect in (first, second)]
    if any(rejected):
        return not all(rejected)
    losses = [
        detection_loss(batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters, dialect)
        for dialect in (first, second)
    ]
    return any(
        not torch.equal(in_first.nan_to_num(), in_second.nan_to_num())
        for in_first, in_second in zip(*map(_training_signal, losses), strict=True)
    )


def _training_signal(loss: DetectionLoss) -> list[Tensor]:
    """Return the logged items, then for each image the weights (A,) and the owners (A,), 0 where the weight is 0."""
    images = [(image.weights, image.truth_index.where(image.weights > 0, 0)) for image in loss.targets]
    return [loss.items, *(tensor for image in images for tensor in image)]


def conforms_to(subject: Subject, recipe: Recipe) -> bool:
    """Return True if the subject conforms to its dialect on the recipe's batch."""
    return failure_on(subject, recipe) is None


def strategies_for(implementation: Implementation) -> list[SearchStrategy[Recipe]]:
    """Return every named strategy that an implementation can be tested with: a loss has fixed exponents (TAL-MET-1)."""
    strategies = STRATEGIES if "assign" in implementation.capabilities else LOSS_STRATEGIES
    return list(strategies.values())


def failure_on(subject: Subject, recipe: Recipe) -> Failure | None:
    """Return how an implementation fails against its dialect on the recipe's batch, or None if it conforms.

    Where alpha and beta differ from the detection loss's, the assigner is judged without the loss (TAL-MET-1).
    """
    hyperparameters = recipe.hyperparameters
    default_exponents = (hyperparameters.alpha, hyperparameters.beta) == (DEFAULTS.alpha, DEFAULTS.beta)
    alone = not default_exponents and "assign" in subject.implementation.capabilities
    try:
        judge_against_reference(subject, recipe.build(), alone=alone)
    except Failure as failure:
        return failure
    return None
