"""The choices in which two dialects differ: meaning, clause, and the smallest batch with different results.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap. A recipe describes a generated batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import torch
from hypothesis import Phase, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import (
    LOSS_STRATEGIES,
    STRATEGIES,
    STRATEGIES_BY_TASK,
)
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import has_branches, split
from tal_conformance.core.reference_inputs import LOSSES_BY_TASK, reference_loss
from tal_conformance.core.task import DETECT
from tal_conformance.dialects.distinguishing import distinguishing
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import rejection_for
from tal_reference import CHOICES, Dialect, EndToEndLoss, Hyperparameters, end_to_end_loss
from tal_reference.choices import choices_of, meaning
from tal_reference.loss import DetectionLoss

DEFAULTS = Hyperparameters()
MAX_EXAMPLES = 400
"""Maximum number of batches that Hypothesis generates to find one that distinguishes a choice."""

SEARCH = settings(derandomize=True, database=None, deadline=None, phases=[Phase.generate, Phase.shrink])
"""Settings of a search that finds the same batch every time, without Hypothesis' explain phase."""


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
        base: the dialect that `changed` is compared with: the first, or, if the choice has no effect unless another
            choice has the second dialect's value, the first with that value.
    """

    name: str
    clause: str
    before: str
    after: str
    recipe: Recipe | None
    changed: Dialect
    base: Dialect


NEEDED: dict[str, str] = {"widened_truths": "small_box_floor"}
"""A choice without effect unless another choice has the second dialect's value too."""


def choices_between(before: Dialect, after: Dialect, task: str = DETECT.name) -> list[Choice]:
    """Return every choice of a task in which the second dialect differs from the first, in the order of `Dialect`."""
    return list(_choices(before, after, task))


def _choices(before: Dialect, after: Dialect, task: str) -> Iterator[Choice]:
    followed = choices_of(task)
    for field in fields(Dialect):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if field.name not in followed or old == new:
            continue
        base = before
        if needed := NEEDED.get(field.name):
            base = replace(before, **{needed: getattr(after, needed)})
        changed = replace(base, **{field.name: new})
        telling = distinguishing(field.name, task) is not None
        recipe = smallest(base, changed, field.name, task) if telling else None
        yield Choice(
            field.name,
            CLAUSES[field.name],
            meaning(field.name, old),
            meaning(field.name, new),
            recipe,
            changed,
            base,
        )


@cache
def smallest(before: Dialect, changed: Dialect, name: str, task: str = DETECT.name) -> Recipe:
    """Return the smallest batch on which the reference computes different results in two dialects.

    Args:
        before: the first dialect.
        changed: the same dialect with another value of one choice.
        name: name of the choice.
        task: name of the task.

    Raises:
        LookupError: no generated batch distinguishes the two dialects.
    """
    search, strategy = settings(SEARCH, max_examples=MAX_EXAMPLES), distinguishing(name, task)
    assert strategy is not None
    try:
        return find(strategy, lambda recipe: differ(before, changed, recipe), settings=search)
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
    losses = [reference_of(batch, dialect) for dialect in (first, second)]
    return any(
        not torch.equal(in_first.nan_to_num(), in_second.nan_to_num())
        for in_first, in_second in zip(*map(_training_signal, losses), strict=True)
    )


def reference_of(
    batch: Batch, dialect: Dialect, feature_maps: Sequence[Tensor] | None = None
) -> DetectionLoss | EndToEndLoss:
    """Return the reference's loss of a batch of any task; with branches, the loss of both together.

    Args:
        batch: the batch.
        dialect: the dialect to follow.
        feature_maps: feature maps to use instead of the batch's own.

    Raises:
        ValueError: the reference raises on the batch.
    """
    if not has_branches(batch):
        return reference_loss(batch, dialect, feature_maps)
    maps = split(batch, batch.feature_maps if feature_maps is None else feature_maps)
    many, one = (maps[name] for name in batch.family.branches)
    numbers = batch.annotations, batch.head, batch.hyperparameters
    own = LOSSES_BY_TASK[batch.family.branch_task]
    return end_to_end_loss(many, one, *numbers, dialect, branch_loss=own)


def losses_of(loss: DetectionLoss | EndToEndLoss) -> tuple[DetectionLoss, ...]:
    """Return the loss of every branch; of a loss without branches, the loss itself."""
    return (loss.one2many, loss.one2one) if isinstance(loss, EndToEndLoss) else (loss,)


def _training_signal(loss: DetectionLoss | EndToEndLoss) -> list[Tensor]:
    """Return all tensors of a loss that affect training: items, terms, and each image's assignment.

    An assignment is the weights w (A,) and the indices (A,) of the assigned ground truths, 0 where w is 0.
    """
    images = [
        (image.weights, image.truth_index.where(image.weights > 0, 0))
        for own in losses_of(loss)
        for image in own.targets
    ]
    return [loss.items, loss.terms, *(tensor for image in images for tensor in image)]


def conforms_to(subject: Subject, recipe: Recipe) -> bool:
    """Return True if an implementation on a device conforms to its dialect on the recipe's batch."""
    return failure_on(subject, recipe) is None


def strategies_for(implementation: Implementation) -> list[SearchStrategy[Recipe]]:
    """Return every named strategy on which an implementation can be tested.

    A loss has alpha and beta built in (TAL-MET-1). Batches with other exponents are therefore generated only for
    implementations that have an assigner.
    """
    names = STRATEGIES if "assign" in implementation.capabilities else LOSS_STRATEGIES
    of_task = STRATEGIES_BY_TASK[implementation.task]
    return [of_task[name] for name in names if name in of_task]


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
