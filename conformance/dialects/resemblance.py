"""Rank dialects by the resemblance of the reference's results to those of an implementation.

A judgement of a loss that hides its assignment takes a hundred times as long as one run of the reference. Resemblance
therefore decides which dialects a search judges first. It never decides whether a dialect explains a batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import CheckedAssignment, LossOutcome, Outcome
from tal_conformance.dialects.choices import losses_of, reference_of
from tal_conformance.dialects.observations import Observations, key_of
from tal_conformance.judgement.rejection import rejection_for
from tal_reference import DetectionLoss, Dialect, EndToEndLoss, Head, Targets

EPS = torch.finfo(torch.float32).eps
"""Sum of differences below which two results count as equal, as cross-entropies of saturated logits."""
SAME = EPS**0.5 / 10
"""Mean relative difference up to which results count as similar: half the digits of float32 are left for rounding, in
each of up to ten results."""
DIFFERENT = 1.0
"""Distance of two results that have nothing in common, such as a result and an exception."""


class Resemblance:
    """Distances between an implementation's results and the reference's results in several dialects.

    Args:
        observations: outcomes of the implementation.
    """

    def __init__(self, observations: Observations) -> None:
        self.observations = observations
        self._distances: dict[tuple[Recipe, object], tuple[float, ...]] = {}

    def distances(self, recipe: Recipe, dialect: Dialect) -> tuple[float, ...]:
        """Return the distance of each result on a recipe's batch, 0 (equal) to 1."""
        key = recipe, key_of(dialect)
        if key not in self._distances:
            self._distances[key] = self._measured(recipe, dialect)
        return self._distances[key]

    def distance(self, recipe: Recipe, dialect: Dialect) -> float:
        """Return the mean distance of all results on a recipe's batch, 0 (equal) to 1."""
        return mean_of(self.distances(recipe, dialect))

    def pattern(self, recipe: Recipe, dialect: Dialect) -> tuple[bool, ...]:
        """Return for each result on a recipe's batch True if it equals the reference's up to rounding."""
        return tuple(distance <= SAME for distance in self.distances(recipe, dialect))

    def misfit(self, recipe: Recipe, dialect: Dialect) -> float:
        """Return the share of results that differ, 0 to 1; a result that differs less counts for less.

        An equal result is stronger evidence for a dialect than many results that come closer.
        """
        distances = self.distances(recipe, dialect)
        return sum((1 + distance) / 2 for distance in distances if distance > SAME) / max(1, len(distances))

    def is_similar(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if all results on a recipe's batch equal the reference's results in a dialect, up to rounding."""
        return self.distance(recipe, dialect) <= SAME

    def total(self, dialect: Dialect, recipes: Iterable[Recipe]) -> float:
        """Return the sum of the distances on the batches of recipes."""
        return sum(self.distance(recipe, dialect) for recipe in recipes)

    def _measured(self, recipe: Recipe, dialect: Dialect) -> tuple[float, ...]:
        batch, observation = self.observations.batch(recipe), self.observations.observed(recipe, dialect)
        if observation.unsupported:
            return ()
        if rejection_for(batch, dialect) is not None:
            return () if observation.raised else (DIFFERENT,)
        outcome = observation.outcome
        if outcome is None:
            return (DIFFERENT,)
        try:
            reference = reference_results(batch, dialect, outcome.loss is not None)
        except ValueError:  # the batch is invalid in itself, such as a row that names an unknown class
            return ()
        return tuple(_distances(reference, batch.head, assignments_of(outcome), outcome.loss))


@dataclass(frozen=True)
class ReferenceResults:
    """Results of the reference on a batch.

    Attributes:
        loss: the loss of the reference.
        total: () sum of its terms.
        gradients: of the total on the feature maps, each (B, 4R + C, H, W); empty if they are not compared.
    """

    loss: DetectionLoss | EndToEndLoss
    total: Tensor
    gradients: tuple[Tensor, ...]


def reference_results(batch: Batch, dialect: Dialect, with_gradients: bool) -> ReferenceResults:
    """Run the reference on a batch in a dialect.

    Raises:
        ValueError: the reference raises on the batch.
    """
    maps = [level.detach().requires_grad_(with_gradients) for level in batch.feature_maps]
    loss = reference_of(batch, dialect, maps)
    total = loss.terms.sum()
    gradients = torch.autograd.grad(total, maps) if with_gradients else ()
    return ReferenceResults(loss, total.detach(), gradients)


def mean_of(distances: Sequence[float]) -> float:
    """Return the mean of distances; 0 without any."""
    return sum(distances) / max(1, len(distances))


def distance_from(reference: ReferenceResults, head: Head, outcome: Outcome) -> float:
    """Return the mean distance, 0 to 1, of all results of an implementation from the given results of the reference."""
    return mean_of(list(_distances(reference, head, assignments_of(outcome), outcome.loss)))


def assignments_of(outcome: Outcome) -> list[CheckedAssignment | None]:
    """Return the assignment of every branch of an outcome; without branches, its own."""
    return [part.assignment for part in (outcome.branches or {"": outcome}).values()]


def _distances(
    reference: ReferenceResults,
    head: Head,
    assignments: Sequence[CheckedAssignment | None],
    loss: LossOutcome | None,
) -> Iterator[float]:
    """Yield the distances of all visible results: target scores, positives, boxes, items, total and gradients."""
    for assignment, own_loss in zip(assignments, losses_of(reference.loss), strict=True):
        if assignment is not None:
            yield from _distances_of_assignment(assignment, own_loss.targets, head.classes)
    if loss is None:
        return
    for own, expected in zip(loss.items, reference.loss.items, strict=True) if loss.shows_items else ():
        yield relative(own, expected)
    yield relative(loss.total, reference.total)
    sides = 4 * head.reg_max
    for channels in (slice(sides), slice(sides, None)):  # channels of distances, and of classes
        yield relative(_joined(loss.gradients, channels), _joined(reference.gradients, channels))


def _joined(gradients: Sequence[Tensor], channels: slice) -> Tensor:
    """Return the numbers of some channels of all levels' gradients, each (B, 4R + C, H, W), in one dimension."""
    return torch.cat([level[:, channels].flatten() for level in gradients])


def _distances_of_assignment(
    assignment: CheckedAssignment, targets: Sequence[Targets], classes: int
) -> Iterator[float]:
    """Yield the distances of target scores, and of positives, their target boxes and their ground truths."""
    scores = torch.stack([image.scores(classes) for image in targets])  # (B, A, C)
    foreground = torch.stack([image.foreground for image in targets])  # (B, A)
    boxes = torch.stack([image.boxes for image in targets])  # (B, A, 4)
    yield relative(assignment.scores, scores)
    yield relative(assignment.foreground.float(), foreground.float())
    both = foreground & assignment.foreground.bool()  # (B, A)
    yield relative(assignment.boxes[both], boxes[both])
    index = torch.stack([image.truth_index for image in targets])  # (B, A)
    yield float((assignment.truth_index[both] != index[both]).double().mean()) if bool(both.any()) else 0.0


def relative(left: Tensor, right: Tensor) -> float:
    """Return the sum of differences of two tensors divided by the sum of magnitudes, 0 to 1; 0 if they are equal.

    NaN equals NaN, and its difference from any number is the largest possible one.
    """
    first, second = left.detach().double(), right.detach().double()
    if not bool(first.isfinite().all() and second.isfinite().all()):
        return 0.0 if torch.equal(first.nan_to_num(), second.nan_to_num()) else DIFFERENT
    difference, magnitude = float((first - second).abs().sum()), float(first.abs().sum() + second.abs().sum())
    return difference / magnitude if difference > EPS else 0.0
