"""The choices in which two dialects differ: meaning, clause, and the smallest batch with different results.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap. A recipe describes a generated batch.
"""

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
from tal_conformance.batches.truths import Truth
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import rejection_for
from tal_reference import (
    CHOICES,
    Dialect,
    Hyperparameters,
    detection_loss,
)
from tal_reference.choices import meaning
from tal_reference.loss import DetectionLoss

LEVELS = ((8, 16), (8, 16, 32))
"""Strides that every dialect supports."""
DEFAULTS = Hyperparameters()
MAX_EXAMPLES = 400
"""Maximum number of batches that Hypothesis generates to find one that distinguishes a choice."""

SEARCH = settings(derandomize=True, database=None, deadline=None, phases=[Phase.generate, Phase.shrink])
"""Settings of a search that finds the same batch every time, without Hypothesis' explain phase."""


def small_recipes(**options: Any) -> SearchStrategy[Recipe]:
    """Return a strategy of batches of one image with few ground truths: Hypothesis finds small examples sooner.

    Args:
        options: arguments of `recipes`, in addition to or in place of the arguments set here.
    """
    sizes: dict[str, Any] = {"strides": LEVELS, "classes": (1, 2), "max_images": 1, "max_truths": 3}
    return recipes(**sizes | options)


RELEASE_CHOICES: dict[str, SearchStrategy[Recipe]] = {
    "small_box_floor": small_recipes(small_boxes=True),
    "one_level": small_recipes(strides=((8,),)),
    "overlaps_compared": small_recipes(contested=True),
    "topk2": small_recipes(hyperparameters=st.just(Hyperparameters(topk2=1))).filter(
        lambda recipe: any(recipe.images)  # a batch without ground truths has no anchors to drop
    ),
    "score_sum_floor": small_recipes(),
    "weights_meet": small_recipes(),
    "single_bin": small_recipes(bins=(1,)),
}
"""A strategy whose recipes can distinguish the values of each choice in which releases differ.

`rows_sorted` is missing: the result for annotation rows out of order is undefined.
"""

_ORDINARY = small_recipes(predictions=("near", "random"))
_CONTESTED = small_recipes(contested=True, max_truths=5, predictions=("near", "random"))
_IMAGES = small_recipes(max_images=3)
_OTHER_NUMBERS = small_recipes(
    hyperparameters=st.sampled_from(
        [
            Hyperparameters(topk=5),
            Hyperparameters(box_gain=1.0, cls_gain=2.0, dfl_gain=0.25),
            Hyperparameters(topk=13),
        ]
    )
)
_OTHER_EXPONENTS = small_recipes(
    hyperparameters=st.sampled_from([Hyperparameters(alpha=1.0), Hyperparameters(beta=4.0)])
)
_SOME_KEPT = small_recipes(
    hyperparameters=st.sampled_from([Hyperparameters(topk2=1), Hyperparameters(topk2=3)]),
    predictions=("near", "random"),
)
_REACH = small_recipes(kinds=("huge", "ordinary"), bins=(2, 4, 16), predictions=("near", "random"))
_FEW_OVERLAPS = recipes(
    kinds=("huge",), predictions=("random", "saturated", "near"), strides=((8, 16), (16, 32)), classes=(1, 2),
    max_images=1, max_truths=3,
)  # fmt: skip
_FEW_ANCHORS = st.builds(
    Recipe,
    images=st.just(((Truth("ordinary"),),)),
    strides=st.sampled_from(LEVELS),
    cells=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    seed=st.integers(0, 255),
)

DISTINGUISHING: dict[str, SearchStrategy[Recipe]] = RELEASE_CHOICES | {
    "rows": _ORDINARY,
    "sides_exchanged": small_recipes(cells=((4, 8), (8, 4), (8, 12))),
    "image_index_ignored": _IMAGES,
    "every_row_counts": small_recipes(outside=True, max_truths=5, predictions=("near", "random")),
    "edge_counts": small_recipes(kinds=("edge_on_centre", "ordinary")),
    "reach_limits": _REACH,
    "overlap": _ORDINARY,
    "signed_overlap": _CONTESTED,
    "metric_masked": _CONTESTED,
    "exponents": _OTHER_EXPONENTS,
    "built_in_k": _OTHER_NUMBERS,
    "k_offset": _ORDINARY,
    "k_cut": _FEW_ANCHORS,
    "dropped_picks": _FEW_OVERLAPS,
    "at_least_one": small_recipes(kinds=("tiny", "thin", "ordinary"), contested=True),
    "contested": _CONTESTED,
    "topk2_ignored": RELEASE_CHOICES["topk2"],
    "topk2_offset": _SOME_KEPT,
    "widened_target": RELEASE_CHOICES["small_box_floor"],
    "norm_before_conflict": _CONTESTED,
    "norm_clamped": _ORDINARY,
    "norm_eps": _ORDINARY,
    "norm_scaled": _ORDINARY,
    "score_sum": _IMAGES,
    "class_loss": _ORDINARY,
    "box_overlap": _ORDINARY,
    "distance_loss": _ORDINARY,
    "dfl_clamp": small_recipes(
        kinds=("huge", "tiny", "thin"), bins=(2, 4, 16), predictions=("near", "random")
    ),
    "dfl_shares_exchanged": _ORDINARY,
    "gains": _OTHER_NUMBERS,
    "total_times_images": _IMAGES,
}
"""A strategy whose recipes can distinguish the values of each choice, including choices that no release makes."""

CLAUSES = {name: choice.clause for name, choice in CHOICES.items()}
"""Clause of the specification of each choice."""


@dataclass(frozen=True)
class Choice:
    """One choice in which two dialects differ.

    Attributes:
        name: field of `Dialect`.
        clause: clause of the specification.
        before, after: meaning of the value in the first and in the second dialect.
        recipe: the smallest batch that distinguishes the two values; None if the result is undefined for one
            value.
        changed: the first dialect, but with the second dialect's value of this choice.
    """

    name: str
    clause: str
    before: str
    after: str
    recipe: Recipe | None
    changed: Dialect


def choices_between(before: Dialect, after: Dialect) -> list[Choice]:
    """Return every choice in which the second dialect differs from the first, in the order of `Dialect`."""
    return list(_choices(before, after))


def _choices(before: Dialect, after: Dialect) -> Iterator[Choice]:
    for field in fields(Dialect):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if field.name == "name" or old == new:
            continue
        changed = replace(before, **{field.name: new})
        recipe = smallest(before, changed, field.name) if field.name in DISTINGUISHING else None
        yield Choice(
            field.name,
            CLAUSES[field.name],
            meaning(field.name, old),
            meaning(field.name, new),
            recipe,
            changed,
        )


@cache
def smallest(before: Dialect, changed: Dialect, name: str) -> Recipe:
    """Return the smallest batch on which the reference computes different results in two dialects.

    Args:
        before: the first dialect.
        changed: the same dialect with another value of one choice.
        name: name of the choice.

    Raises:
        LookupError: no generated batch distinguishes the two dialects.
    """
    search = settings(SEARCH, max_examples=MAX_EXAMPLES)
    try:
        return find(DISTINGUISHING[name], lambda recipe: differ(before, changed, recipe), settings=search)
    except NoSuchExample as error:
        raise LookupError(
            f"none of {MAX_EXAMPLES} batches has different results in the dialects {before.name} and {changed.name}, "
            f"which differ in {name}"
        ) from error


def differ(first: Dialect, second: Dialect, source: Recipe | Batch) -> bool:
    """Return True if two dialects differ on a batch: only one dialect rejects it, or targets or losses differ."""
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
    """Return all tensors of a loss that affect training: items, terms, and each image's assignment.

    An assignment is the weights w (A,) and the indices (A,) of the assigned ground truths, 0 where w is 0.
    """
    images = [(image.weights, image.truth_index.where(image.weights > 0, 0)) for image in loss.targets]
    return [loss.items, loss.terms, *(tensor for image in images for tensor in image)]


def conforms_to(subject: Subject, recipe: Recipe) -> bool:
    """Return True if an implementation on a device conforms to its dialect on the recipe's batch."""
    return failure_on(subject, recipe) is None


def strategies_for(implementation: Implementation) -> list[SearchStrategy[Recipe]]:
    """Return every named strategy on which an implementation can be tested.

    A loss has alpha and beta built in (TAL-MET-1). Batches with other exponents are therefore generated only for
    implementations that have an assigner.
    """
    strategies = STRATEGIES if "assign" in implementation.capabilities else LOSS_STRATEGIES
    return list(strategies.values())


def failure_on(subject: Subject, recipe: Recipe) -> Failure | None:
    """Return the failure of an implementation against its dialect on the recipe's batch, or None if it conforms.

    If the batch has other alpha and beta than the detection loss, the assigner is judged without the loss (TAL-MET-1).
    """
    hyperparameters = recipe.hyperparameters
    default_exponents = (hyperparameters.alpha, hyperparameters.beta) == (DEFAULTS.alpha, DEFAULTS.beta)
    alone = not default_exponents and "assign" in subject.implementation.capabilities
    try:
        judge_against_reference(subject, recipe.build(), alone=alone)
    except Failure as failure:
        return failure
    except NotSupported:
        return None
    return None
