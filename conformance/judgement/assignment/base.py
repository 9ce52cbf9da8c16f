"""Base class of the two judges of one image's assignment: stage by stage, and from the assigner's outputs alone."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, CheckedAssignment
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Agreement, Judgement, Mismatch, Value
from tal_conformance.judgement.comparators import (
    Bounded,
    Quantity,
    assert_equal,
    assert_none,
    assert_within,
    assert_within_at,
)
from tal_conformance.judgement.oracle.oracle import ImageOracle
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, precision, smallest
from tal_reference import NEWEST, Dialect

PAIR = ("GT", "anchor")


@dataclass(frozen=True)
class ImageJudge:
    """Judges the assignment of one image with at least one ground truth.

    Attributes:
        judgement: the judgement of the batch, to which the results are added.
        assignment, inputs: assignment and inputs of the whole batch, as the implementation returned and read them.
        image: index of the image.
        truths: M, the image's number of ground truths.
        oracle: values and choices that the specification admits for the image.
        truth_error: (M, 4) possible difference of the ground truths' edges from those in `inputs`, in pixels; None
            if they are equal.
        dialect: the dialect, which may replace some hyperparameters.
    """

    judgement: Judgement
    assignment: CheckedAssignment
    inputs: AssignerInputs
    image: int
    truths: int
    oracle: ImageOracle
    truth_error: Tensor | None = None
    dialect: Dialect = NEWEST

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of u, t and the weights: the boxes' dtype, or float32 for float64 boxes (TAL-MET-1, TAL-NORM-1).

        Class scores may have 16 bits. Their products with u are promoted to the dtype of the boxes.
        """
        return precision(self.inputs.boxes.dtype, self.inputs.truth_boxes.dtype)

    def clause_of(self, wrong: Tensor) -> str:
        """Return the clause that wrong candidates (M, A) violate.

        - ANN-3 if the ground truths of all wrong candidates are dropped or padding.
        - TAL-CAND-2 if some wrong anchors lie off the edges of the box that the dialect prescribes, and only a widened
          box contains them. Another dialect may widen the box even if `dialect` does not.
        - TAL-CAND-1 otherwise.
        """
        boxes = self.inputs.truth_boxes[self.image, : self.truths].double()[wrong.any(1)]  # (.., 4)
        if len(boxes) and (boxes.sum(1) <= 0).all():
            return "ANN-3"
        own = self.judgement.task.clauses[StageName.CANDIDATES]
        beyond = wrong & ~self.on_edge  # (M, A)
        if not beyond.any():
            return own
        boxes = self.inputs.truth_boxes[self.image, : self.truths].double()  # (M, 4)
        strides = self.inputs.head.strides
        least = strides[min(1, len(strides) - 1)]  # some dialect widens shorter sides
        widened = self.oracle.geometry.beside(boxes, self.inputs.anchors.double(), least)  # (M, A)
        return "TAL-CAND-2" if widened[beyond].all() else own

    @cached_property
    def on_edge(self) -> Tensor:
        """(M, A) bool: True if rounding decides whether the anchor centre lies inside the ground truth's box."""
        boxes = self.inputs.truth_boxes[self.image, : self.truths].double()  # (M, 4)
        eps = torch.finfo(precision(self.inputs.truth_boxes.dtype)).eps
        centres, floor = self.inputs.anchors.double(), self.oracle.floor
        return self.oracle.geometry.on_edge(boxes, centres, floor, eps, self.truth_error)

    def about_candidates(self, problem: str, wrong: Tensor) -> str:
        """Return the text `problem`, followed by the common cause of the wrong pairs (M, A) if one is found."""
        if (wrong <= self.on_edge).all():
            return f"{problem}, only on the edge of a box"
        if self.assignment.foreground[self.image].all():
            return f"{problem}; every anchor of the image is a positive"
        return problem

    def check_labels_and_boxes(self, foreground: Tensor, index: Tensor) -> Agreement:
        """Compare each positive's target label and box with label and box of the ground truth that owns it (TAL-TGT-1).

        Label and box must be bit-identical, unless the implementation's own ground truths are known only within a
        bound.
        """
        labels = self.inputs.labels[self.image, : self.truths, 0].long()
        boxes, truth_error = self.inputs.truth_boxes[self.image, : self.truths], self.truth_error
        if self.dialect.widened_target:  # centre and edges are rounded
            wide = self.oracle.geometry.widened(boxes, self.dialect.floor(self.inputs.head.strides))  # (M, 4)
            rounding = ROUNDINGS * torch.finfo(precision(boxes.dtype)).eps * wide.double().abs()
            rounding = rounding.where(wide != boxes, 0)
            truth_error, boxes = rounding if truth_error is None else truth_error + rounding, wide
        label = self.quantity("label", "TAL-TGT-1", "anchor")
        assert_equal(label, self.assignment.labels[self.image].long(), labels[index], where=foreground)
        box = self.quantity("target box", "TAL-TGT-1", "anchor", "side")
        observed = self.assignment.boxes[self.image]
        if truth_error is None:
            return assert_equal(box, observed, boxes[index], where=foreground)
        expected = boxes[index].double().where(foreground[:, None], 0)
        bounded = Bounded(expected, truth_error[index], boxes[index])
        return assert_within(box, observed.where(foreground[:, None], 0), bounded)

    def check_scores(self, weights: Bounded, positives: Tensor, clause: str = "TAL-NORM-1") -> Agreement:
        """Compare the target score of each positive at its label with `weights`; other scores must be zero (TAL-TGT-1).

        Target scores at other classes are recorded as a mismatch of the stage "targets"; this function then compares
        only the scores of the positives.

        Args:
            weights: expected weight of each anchor, (A,).
            positives: (M, A) bool, True where the ground truth owns the anchor.
            clause: the clause that the weights follow.
        """
        (anchors,) = positives.any(0).nonzero(as_tuple=True)  # (P,)
        scores, labels = (
            self.assignment.scores[self.image],
            self.labels_of(positives)[anchors],
        )  # (A, C), (P,)
        quantity = self.quantity("target score w", clause, "anchor", "class")
        weights = self.stored(weights)
        try:
            return assert_within_at(quantity, scores, (anchors, labels), weights.at(anchors))
        except Mismatch:
            if not self.misplaced_scores(positives).any():
                raise
        self.judgement.note(StageName.TARGETS, self.check_placement, positives)
        quantity = self.quantity("target score w", clause, "positive")
        return assert_within(quantity, self.observed_weights(positives)[anchors], weights.at(anchors))

    def stored(self, weights: Bounded) -> Bounded:
        """Return the weights (A,) with one more rounding if the target scores are stored in 16 bits.

        An assigner may return target scores in the dtype of the class scores, which under autocast has 16 bits. The
        last rounding moves a weight by half a unit in the last place, or below the normal numbers by a subnormal one.
        """
        dtype = self.assignment.scores.dtype
        limits = torch.finfo(dtype)
        if limits.bits > 16:
            return weights
        rounding = limits.eps / 2 * (weights.expected.abs() + weights.tolerance) + smallest(dtype)
        return weights._replace(tolerance=weights.tolerance + rounding)

    def check_placement(self, positives: Tensor) -> Agreement:
        """Assert that all target scores are zero except those of positives at their own class (TAL-TGT-1)."""
        quantity, scores = (
            self.quantity("target score", "TAL-TGT-1", "anchor", "class"),
            self.assignment.scores,
        )
        problem = "a target score other than zero is not at the class of a positive"
        return assert_none(quantity, self.misplaced_scores(positives), scores[self.image], "0", problem)

    def labels_of(self, positives: Tensor) -> Tensor:
        """Return (A,) the class of the ground truth that owns each anchor by `positives` (M, A); 0 on background."""
        return self.inputs.labels[self.image, : self.truths, 0].long()[positives.int().argmax(0)]

    def misplaced_scores(self, positives: Tensor) -> Tensor:
        """Return (A, C) bool: True where a target score is not zero, but the anchor is not a positive of the class."""
        scores = self.assignment.scores[self.image]  # (A, C)
        own = torch.zeros_like(scores, dtype=torch.bool).scatter(1, self.labels_of(positives)[:, None], True)
        return (scores != 0) & ~(own & positives.any(0)[:, None])

    def observed_weights(self, positives: Tensor) -> Tensor:
        """Return the target score (A,) of each positive at its own class; if this is zero, the sum of its scores."""
        scores = self.assignment.scores[self.image]  # (A, C)
        at_label = scores.gather(1, self.labels_of(positives)[:, None])[:, 0]  # (A,)
        return torch.where(at_label != 0, at_label, scores.sum(1)) * positives.any(0)

    def quantity(self, name: str, clause: str, *dimensions: str) -> Quantity:
        """Return the description of a compared quantity of this image, for messages."""
        return Quantity(name, clause, dimensions, self.image)

    def counts(self, positives: Tensor) -> list[Value]:
        """Return the number of positives of each ground truth, observed and admissible, as values for a message."""
        min_count, most = self.oracle.selection.min_count.tolist(), self.oracle.selection.max_count.tolist()
        return [
            Value(
                f"image {self.image}, GT {g}",
                "positives",
                f"{min_count[g]} to {most[g]} selected",
                str(n),
                "none",
            )
            for g, n in enumerate(positives.sum(1).tolist())
        ]
