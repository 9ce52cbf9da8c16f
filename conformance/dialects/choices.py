"""The choices in which two dialects differ: in words, by clause, and on the smallest batch that shows each."""

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
"""Strides that every dialect knows."""
USUAL = Hyperparameters()
TRIES = 400
"""Batches that are drawn to find one that shows a choice."""

SEARCH = settings(derandomize=True, database=None, deadline=None, phases=[Phase.generate, Phase.shrink])
"""The same batch is found every time, and nothing is explained besides."""

WORDS: dict[str, dict[Any, str]] = {
    "small_box_floor": {
        SmallBoxFloor.NONE: "small ground truths are taken as they are",
        SmallBoxFloor.BELOW_FIRST_STRIDE: "a side shorter than the first stride counts as one of the second stride "
        "where anchors are sought inside it",
        SmallBoxFloor.BELOW_SECOND_STRIDE: "a side shorter than the second stride counts as one of the second stride "
        "where anchors are sought inside it",
    },
    "one_level": {True: "a head with one level is accepted", False: "a head with one level raises"},
    "overlaps_compared": {
        OverlapsCompared.CANDIDATES: "a contested anchor goes to the best overlap among ground truths that hold it",
        OverlapsCompared.EVERYWHERE: "a contested anchor goes to the best overlap among all ground truths, also those "
        "that do not hold it",
    },
    "topk2": {True: "ground truths can be made to keep fewer anchors (topk2)", False: "there is no topk2"},
    "score_sum_floor": {
        1.0: "the loss is divided by the sum of target scores, but at least by 1",
        0.0: "the loss is divided by the sum of target scores, also where that is below 1 or zero",
    },
    "weights_meet": {
        WeightBroadcast.PER_POSITIVE: "the box loss of a positive is weighted with its own target score",
        WeightBroadcast.ALL: "the box loss of a positive is weighted with the target scores of all positives",
    },
    "single_bin": {
        SingleBin.L1: "with reg_max 1 the distances have an L1 loss",
        SingleBin.NOTHING: "with reg_max 1 the distances have no loss of their own",
    },
    "rows_sorted": {
        True: "annotation rows must come sorted by image",
        False: "annotation rows may come in any order",
    },
}
"""What each choice means, in words."""


def few(**emphasis: Any) -> SearchStrategy[Recipe]:
    """Batches of one image with few ground truths: small ones are found soon, and found small."""
    sizes: dict[str, Any] = {"strides": LEVELS, "classes": (1, 2), "max_images": 1, "max_truths": 3}
    return recipes(**sizes | emphasis)


SHOWN_BY: dict[str, tuple[str, SearchStrategy[Recipe]]] = {
    "small_box_floor": ("TAL-CAND-2", few(small_boxes=True)),
    "one_level": ("TAL-CAND-2", few(strides=((8,),))),
    "overlaps_compared": ("TAL-CONF-1", few(contested=True)),
    "topk2": (
        "TAL-CONF-2",  # a batch without ground truths asks nobody to keep fewer
        few(hyperparameters=st.just(Hyperparameters(topk2=1))).filter(lambda recipe: any(recipe.images)),
    ),
    "score_sum_floor": ("LOSS-SUM-1", few()),
    "weights_meet": ("LOSS-BOX-1", few()),
    "single_bin": ("LOSS-DFL-1", few(bins=(1,))),
}
"""Clause of each choice, and batches among which one shows it. Rows out of order are no matter of one right answer."""
CLAUSES = {name: clause for name, (clause, _) in SHOWN_BY.items()} | {"rows_sorted": "ANN-1"}


@dataclass(frozen=True)
class Choice:
    """One choice that two dialects make otherwise.

    Attributes:
        name: of the dialect's field.
        clause: of the specification.
        before, after: what it means in either, in words.
        recipe: the smallest batch on which it shows; None where there is no right answer to compare.
        changed: the first dialect with this one choice of the second.
    """

    name: str
    clause: str
    before: str
    after: str
    recipe: Recipe | None
    changed: Dialect


def choices_between(one: Dialect, other: Dialect) -> list[Choice]:
    """Every choice in which the second dialect differs from the first, in the order of the stages."""
    return list(_choices(one, other))


def _choices(one: Dialect, other: Dialect) -> Iterator[Choice]:
    for field in fields(Dialect):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if field.name == "name" or before == after:
            continue
        changed = replace(one, **{field.name: after})
        words = WORDS[field.name]
        recipe = smallest(one, changed, field.name) if field.name in SHOWN_BY else None
        yield Choice(field.name, CLAUSES[field.name], words[before], words[after], recipe, changed)


@cache
def smallest(one: Dialect, changed: Dialect, name: str) -> Recipe:
    """The smallest batch on which the reference in the one and in the other dialect differ.

    Raises:
        LookupError: none of those drawn shows it.
    """
    wanted = settings(SEARCH, max_examples=TRIES)
    try:
        return find(SHOWN_BY[name][1], lambda recipe: differ(one, changed, recipe), settings=wanted)
    except NoSuchExample as error:
        raise LookupError(f"no batch of {TRIES} shows {name} of {one.name} against {changed.name}") from error


def differ(one: Dialect, other: Dialect, drawn: Recipe | Batch) -> bool:
    """Whether what is trained differs on a batch: one refuses it, or the targets or the loss are others."""
    batch = drawn.build() if isinstance(drawn, Recipe) else drawn
    refuses = [rejection_for(batch, dialect) is not None for dialect in (one, other)]
    if any(refuses):
        return not all(refuses)
    mine, theirs = (
        detection_loss(batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters, dialect)
        for dialect in (one, other)
    )
    return any(
        not torch.equal(first.nan_to_num(), second.nan_to_num())
        for first, second in zip(_trained(mine), _trained(theirs), strict=True)
    )


def _trained(loss: DetectionLoss) -> list[Tensor]:
    """The logged items, and of each image the weights and whose they are; an anchor without weight trains nothing."""
    images = [(image.weights, image.truth_index.where(image.weights > 0, 0)) for image in loss.targets]
    return [loss.items, *(tensor for image in images for tensor in image)]


def conforms_to(subject: Subject, recipe: Recipe) -> bool:
    """Whether the subject conforms on the recipe's batch to the dialect that it is held to."""
    return failure(subject, recipe) is None


def lanes_of(implementation: Implementation) -> list[SearchStrategy[Recipe]]:
    """Every lane that it can be fed: exponents are an assigner's (TAL-MET-1)."""
    lanes = STRATEGIES if "assign" in implementation.capabilities else LOSS_STRATEGIES
    return list(lanes.values())


def failure(subject: Subject, recipe: Recipe) -> Failure | None:
    """How the subject fails on the recipe's batch; None if it conforms.

    Other exponents than the detection loss has are asked of the assigner alone (TAL-MET-1).
    """
    asked = recipe.hyperparameters
    usual = (asked.alpha, asked.beta) == (USUAL.alpha, USUAL.beta)
    alone = not usual and "assign" in subject.implementation.capabilities
    try:
        judge_against_reference(subject, recipe.build(), alone=alone)
    except Failure as found:
        return found
    return None
