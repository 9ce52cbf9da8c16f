"""Common part of judging one image by its stages and by its outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.core.verdicts import Agreement, Judgement, Value
from tal_conformance.judgement.bounds import precision
from tal_conformance.judgement.comparators import (
    Bounded,
    Quantity,
    assert_equal,
    assert_within,
    assert_within_at,
)
from tal_conformance.judgement.oracle import ImageOracle

PAIR = ("GT", "anchor")


@dataclass(frozen=True)
class ImageJudge:
    """Judges one image with at least one ground truth.

    Attributes:
        judgement: takes the result.
        assignment, inputs: of the whole batch.
        image: index of the image.
        truths: M, its number of ground truths.
        oracle: values and choices that the specification admits for it.
        truth_error: (M, 4) possible difference of its ground truths' edges from those in `inputs`, in pixels; None
            if they are equal.
    """

    judgement: Judgement
    assignment: Assignment
    inputs: AssignerInputs
    image: int
    truths: int
    oracle: ImageOracle
    truth_error: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The coarsest dtype in the assignment."""
        return precision(self.inputs.scores.dtype, self.inputs.boxes.dtype, self.assignment.scores.dtype)

    def clause_of(self, wrong: Tensor) -> str:
        """Return the clause that wrong candidates (M, A) violate, by the size of their ground truths."""
        boxes = self.inputs.truth_boxes[self.image, : self.truths].double()[wrong.any(1)]  # (.., 4)
        if len(boxes) and (boxes.sum(1) <= 0).all():
            return "ANN-3"
        strides = self.inputs.head.strides
        small = (
            boxes[:, 2:] - boxes[:, :2] < strides[min(1, len(strides) - 1)]
        )  # (.., 2) some dialect widens it
        centres = self.inputs.anchors.double()[:, None]  # (A, 1, 2)
        beside = (centres <= boxes[:, :2]) | (
            centres >= boxes[:, 2:]
        )  # (A, .., 2) only widening can reach it there
        widened = (small & beside).any(2).T  # (.., A)
        return "TAL-CAND-2" if widened[wrong[wrong.any(1)]].all() else "TAL-CAND-1"

    def check_labels_and_boxes(self, foreground: Tensor, index: Tensor) -> Agreement:
        """Compare label and box of each positive with those of its owner (TAL-TGT-1).

        They are identical to the bit, unless the ground truths that the implementation read are uncertain.
        """
        labels = self.inputs.labels[self.image, : self.truths, 0].long()
        boxes = self.inputs.truth_boxes[self.image, : self.truths]
        label = self.quantity("label", "TAL-TGT-1", "anchor")
        assert_equal(label, self.assignment.labels[self.image].long(), labels[index], where=foreground)
        box = self.quantity("target box", "TAL-TGT-1", "anchor", "side")
        observed = self.assignment.boxes[self.image]
        if self.truth_error is None:
            return assert_equal(box, observed, boxes[index], where=foreground)
        expected = boxes[index].double().where(foreground[:, None], 0)
        bounded = Bounded(expected, self.truth_error[index], boxes[index])
        return assert_within(box, observed.where(foreground[:, None], 0), bounded)

    def check_scores(self, weights: Bounded, positives: Tensor, clause: str = "TAL-NORM-1") -> Agreement:
        """Compare the target score at the label of each positive with its weight; all others are zero (TAL-TGT-1).

        Args:
            weights: expected weight of each anchor, (A,).
            positives: (M, A) ground truth and anchor.
            clause: the clause that the weights follow.
        """
        (anchors,) = positives.any(0).nonzero(as_tuple=True)  # (P,)
        owners = positives.int().argmax(0)[anchors]  # (P,)
        labels = self.inputs.labels[self.image, : self.truths, 0].long()[owners]  # (P,)
        quantity = self.quantity("target score w", clause, "anchor", "class")
        scores = self.assignment.scores[self.image]
        return assert_within_at(quantity, scores, (anchors, labels), weights.at(anchors))

    def quantity(self, name: str, clause: str, *dimensions: str) -> Quantity:
        """Return a quantity of this image."""
        return Quantity(name, clause, dimensions, self.image)

    def counts(self, positives: Tensor) -> list[Value]:
        """Return the number of positives of each ground truth, for a message."""
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
