"""Images of a scope by the thousand: one call of the implementation, one dense check, and whom to look at more closely.

B images, M ground truths, A anchors, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.checks.exhaustive.dense_oracle import (
    EPS,
    Expected,
    Uncertainty,
    ambiguous,
    assignment_holds,
    expected,
    only_assignment,
)
from tal_conformance.checks.exhaustive.scope import Images, Scope
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, LossOutcome
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.admissible import Range
from tal_conformance.judgement.bounds import ROUNDINGS, bound, boxes_unit
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.loss_rounding import gradient_bound, on_all_anchors
from tal_reference import BatchTargets
from tal_reference.anchors import flatten

PACK = 1000
"""Images of one call."""
LEAST = 1e-30
"""A choice between anchors of no larger t makes no difference to a loss: their target scores are zero."""


@dataclass(frozen=True)
class ChunkResult:
    """Result of the dense check of a chunk.

    Attributes:
        numbers: (B,) of the images in their scope.
        right: (B,) nothing is wrong with what the image shows.
        tie, near_tie: (B,) the specification leaves a choice, because values are equal, or closer than rounding.
        sums: the loss and its items are right for the pack as a whole.
        hidden: (B,) the assignment is not shown, and there are several: the image was left out.
    """

    numbers: Tensor
    right: Tensor
    tie: Tensor
    near_tie: Tensor
    sums: bool
    hidden: Tensor

    @property
    def suspects(self) -> Tensor:
        """(B,) images that the ordinary judge has to look at."""
        return ~self.right | self.hidden


def check_chunk(
    implementation: Implementation, scope: Scope, numbers: Tensor, device: str = "cpu"
) -> ChunkResult:
    """Run an implementation on the images with these numbers (B,), in one call, and check all of them at once.

    Raises:
        ImplementationFailed: it raised, or broke the protocol.
    """
    images = scope.images(numbers)
    expectation = Expectation(scope.batch(numbers).to(device), implementation.dialect)
    outcome = execute(implementation, expectation.batch, inputs=expectation.inputs)
    hidden = torch.zeros(len(numbers), dtype=torch.bool)
    uncertain = None
    if outcome.loss is not None and not outcome.exposes_inputs:
        uncertain = uncertainty(expectation)
    told = expected(images, outcome.inputs, implementation.dialect, uncertain)
    tie, near_tie = uniqueness(told)
    right, sums = torch.ones(len(numbers), dtype=torch.bool), True
    if outcome.assignment is None:
        hidden = ambiguous(told, told.metric_range, told.overlap_range, LEAST).cpu()
        if hidden.any() and not hidden.all():
            seen = check_chunk(implementation, scope, numbers[~hidden], device)
            right[~hidden], sums = seen.right, seen.sums
        elif not hidden.any():
            assert outcome.loss is not None
            right, sums = loss_holds(expectation, only_assignment(told, scope.head.classes), outcome.loss)
        return ChunkResult(numbers, right, tie, near_tie, sums, hidden)
    right = assignment_holds(told, outcome.assignment).cpu()
    if outcome.exposes_inputs:
        right &= inputs_hold(images, expectation, outcome.inputs).cpu()
    if outcome.loss is not None:
        gradients, sums = loss_holds(expectation, outcome.assignment, outcome.loss)
        right &= gradients
    return ChunkResult(numbers, right, tie, near_tie, sums, hidden)


def uniqueness(told: Expected) -> tuple[Tensor, Tensor]:
    """(B,) twice: images where equal values leave a choice, and those where values closer than rounding do."""
    tie = ambiguous(told, Range.exact(told.metric), Range.exact(told.overlap))
    either = ambiguous(told, told.metric_range, told.overlap_range)
    return tie.cpu(), (either & ~tie).cpu()


def uncertainty(expectation: Expectation) -> Uncertainty:
    """Return how far a hidden assigner's inputs may lie from the reference's: both round, each in its own way."""
    exact, reg_max = expectation.predictions, expectation.batch.head.reg_max
    boxes = (boxes_unit(exact, reg_max, EPS) * exact.anchors.strides).amax(-1)  # (B, A)
    return Uncertainty(2 * ROUNDINGS * boxes, 2 * ROUNDINGS * 3 * EPS * exact.logits.sigmoid())


def inputs_hold(images: Images, expectation: Expectation, seen: AssignerInputs) -> Tensor:
    """(B,) whether the assigner read what follows from the batch (stage "decode")."""
    batch, exact = expectation.batch, expectation.predictions
    boxes, scores = exact.boxes * exact.anchors.strides, exact.logits.sigmoid()  # (B, A, 4), (B, A, C)
    box_error, score_error = expectation.decoding_errors
    rows = seen.truth_boxes.shape[1]
    present = images.present[:, :rows].to(batch.device)  # (B, M)
    truths = images.scope.boxes[images.boxes[:, :rows]].to(batch.device).where(present[..., None], 0)
    real = present & (truths.sum(-1) > 0)  # (B, M)
    labels = images.labels[:, :rows].to(batch.device)
    of_images = (
        (seen.boxes.double() - boxes).abs() <= box_error,
        (seen.scores.double() - scores).abs() <= score_error,
        (seen.truth_boxes == truths) | ~present[..., None],
        (seen.labels[..., 0] == labels) | ~present,
        (seen.truth_mask[..., 0] > 0) == real,
    )
    places = torch.equal(seen.anchors.double(), exact.anchors.pixels) and torch.equal(
        seen.strides.double(), exact.anchors.strides
    )
    return torch.stack([each.flatten(1).all(1) for each in of_images]).all(0) & places


def loss_holds(expectation: Expectation, assignment: Assignment, loss: LossOutcome) -> tuple[Tensor, bool]:
    """Return for each image (B,) and for the batch whether the loss follows from the assignment.

    Per image its gradients are judged, for the batch items and total.
    """
    batch = expectation.batch
    targets = BatchTargets(assignment.foreground, assignment.boxes.double(), assignment.scores)
    known = expectation.loss(targets)
    exact, same_dtype, unit = known.exact, known.same_dtype, known.rounding
    right = torch.ones(batch.images, dtype=torch.bool, device=batch.device)
    for name, observed, wanted, approximate, error, jump in zip(
        batch.family.quantities,
        flatten(loss.gradients, batch.head),
        exact.of_total,
        same_dtype.of_total,
        on_all_anchors(unit.of_total, targets.foreground),
        on_all_anchors(unit.jumps_of_total, targets.foreground),
        strict=True,
    ):
        allowed = gradient_bound(batch, name, wanted, approximate, error) + jump
        right &= ((observed.double() - wanted).abs() <= allowed).flatten(1).all(1)
    return right.cpu(), _sums_hold(batch, loss, exact.items, same_dtype.items, unit.items)


def _sums_hold(batch: Batch, loss: LossOutcome, exact: Tensor, same_dtype: Tensor, unit: Tensor) -> bool:
    """LOSS-GAIN-1: items (3,) and total of a batch."""
    items = loss.items.double()
    for place, term in enumerate(batch.family.terms):
        allowed = bound(same_dtype[place], exact[place], unit[place], torch.float32, term.quantity)
        if not (items[place] - exact[place]).abs() <= allowed:
            return False
    total = items.sum() * batch.images
    rounding = 4 * EPS * items.abs().sum() * batch.images
    allowed = bound(loss.items.sum() * batch.images, total, rounding, torch.float32, "total")
    return bool((loss.total.double() - total).abs() <= allowed)
