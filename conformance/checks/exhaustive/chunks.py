"""Check images of a scope in chunks of 1,000: one call of the implementation and one vectorised check per chunk.

A scope is a set of small images that is enumerated completely. Images for which the vectorised check cannot prove that
all values are right are suspects, which the ordinary judge judges afterwards.

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
from tal_conformance.core.outcome import AssignerInputs, CheckedAssignment, LossOutcome
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.oracle.admissible import Range
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, bound, boxes_unit
from tal_conformance.judgement.rounding.loss_rounding import gradient_bound, on_all_anchors
from tal_reference import BatchTargets
from tal_reference.anchors import flatten

CHUNK_SIZE = 1000
"""Number of images in one call of the implementation."""
NEGLIGIBLE_METRIC = 1e-30
"""Largest t that is negligible: target scores of anchors with at most this t are zero, so that a choice between such
anchors does not change the loss."""


@dataclass(frozen=True)
class ChunkResult:
    """Result of the dense check of a chunk.

    Attributes:
        numbers: (B,) numbers of the images in their scope.
        right: (B,) bool: True if all values that the implementation exposes for the image are right.
        tie: (B,) bool: True if equal values allow several assignments.
        near_tie: (B,) bool: True if values that differ by less than their rounding allow several assignments.
        sums: True if the loss and its items are right for the chunk as a whole.
        undecided: (B,) bool: True if the image was not checked, because the implementation does not expose its
            assignment and the specification admits several assignments.
    """

    numbers: Tensor
    right: Tensor
    tie: Tensor
    near_tie: Tensor
    sums: bool
    undecided: Tensor

    @property
    def suspects(self) -> Tensor:
        """(B,) bool: True for images that the ordinary judge must judge."""
        return ~self.right | self.undecided


def check_chunk(
    implementation: Implementation, scope: Scope, numbers: Tensor, device: str = "cpu"
) -> ChunkResult:
    """Run an implementation on the images with the given numbers (B,) in one call, and check all of them at once.

    Raises:
        ImplementationFailed: the implementation raised, or violated the protocol.
    """
    images = scope.images(numbers)
    expectation = Expectation(scope.batch(numbers).to(device), implementation.dialect)
    outcome = execute(implementation, expectation.batch, inputs=expectation.inputs)
    undecided = torch.zeros(len(numbers), dtype=torch.bool)
    uncertain = None
    if outcome.loss is not None and not outcome.exposes_inputs:
        uncertain = uncertainty(expectation)
    prescribed = expected(images, outcome.inputs, implementation.dialect, uncertain)
    tie, near_tie = uniqueness(prescribed)
    right, sums = torch.ones(len(numbers), dtype=torch.bool), True
    if outcome.assignment is None:
        undecided = ambiguous(
            prescribed, prescribed.metric_range, prescribed.overlap_range, NEGLIGIBLE_METRIC
        ).cpu()
        if undecided.any() and not undecided.all():
            seen = check_chunk(implementation, scope, numbers[~undecided], device)
            right[~undecided], sums = seen.right, seen.sums
        elif not undecided.any():
            assert outcome.loss is not None
            right, sums = loss_holds(
                expectation, only_assignment(prescribed, scope.head.classes), outcome.loss
            )
        return ChunkResult(numbers, right, tie, near_tie, sums, undecided)
    right = assignment_holds(prescribed, outcome.assignment).cpu()
    if outcome.exposes_inputs:
        right &= inputs_hold(images, expectation, outcome.inputs).cpu()
    if outcome.loss is not None:
        gradients, sums = loss_holds(expectation, outcome.assignment, outcome.loss)
        right &= gradients
    return ChunkResult(numbers, right, tie, near_tie, sums, undecided)


def uniqueness(prescribed: Expected) -> tuple[Tensor, Tensor]:
    """Return two masks (B,) of images with several correct assignments: due to equal values, and due to rounding."""
    tie = ambiguous(prescribed, Range.exact(prescribed.metric), Range.exact(prescribed.overlap))
    either = ambiguous(prescribed, prescribed.metric_range, prescribed.overlap_range)
    return tie.cpu(), (either & ~tie).cpu()


def uncertainty(expectation: Expectation) -> Uncertainty:
    """Return the possible difference between the reference's and the implementation's assigner inputs, if not exposed.

    The implementation and the reference round the inputs, possibly in different ways, so that the difference is at most
    twice the rounding bound.
    """
    exact, reg_max = expectation.predictions, expectation.batch.head.reg_max
    boxes = (boxes_unit(exact, reg_max, EPS) * exact.anchors.strides).amax(-1)  # (B, A)
    return Uncertainty(2 * ROUNDINGS * boxes, 2 * ROUNDINGS * 3 * EPS * exact.logits.sigmoid())


def inputs_hold(images: Images, expectation: Expectation, seen: AssignerInputs) -> Tensor:
    """Return (B,) bool: True if the assigner's inputs equal the decoded batch, within rounding (stage "decode")."""
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


def loss_holds(
    expectation: Expectation, assignment: CheckedAssignment, loss: LossOutcome
) -> tuple[Tensor, bool]:
    """Judge a loss given its assignment: the gradients image by image, the items and the total for the batch.

    Returns:
        Two results: (B,) bool, True if the image's gradients are right; and True if the items and the total are right.
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
    """Return True if the loss items (3,) and the total of a batch are right, within rounding (LOSS-GAIN-1)."""
    items = loss.items.double()
    if not loss.shows_items:
        return _total_holds(batch, loss, exact, same_dtype, unit)
    for place, term in enumerate(batch.family.terms):
        allowed = bound(same_dtype[place], exact[place], unit[place], torch.float32, term.quantity)
        if not (items[place] - exact[place]).abs() <= allowed:
            return False
    total = items.sum() * batch.images
    rounding = 4 * EPS * items.abs().sum() * batch.images
    allowed = bound(loss.items.sum() * batch.images, total, rounding, torch.float32, "total")
    return bool((loss.total.double() - total).abs() <= allowed)


def _total_holds(batch: Batch, loss: LossOutcome, exact: Tensor, same_dtype: Tensor, unit: Tensor) -> bool:
    """Return True if the total of a loss without items is the sum of the expected items, times the batch size."""
    errors = [
        bound(same_dtype[place], exact[place], unit[place], torch.float32, term.quantity)
        for place, term in enumerate(batch.family.terms)
    ]
    total = exact.sum() * batch.images
    rounding = 4 * EPS * exact.abs().sum() * batch.images
    allowed = bound(same_dtype.sum() * batch.images, total, rounding, torch.float32, "total")
    return bool((loss.total.double() - total).abs() <= allowed + torch.stack(errors).sum() * batch.images)
