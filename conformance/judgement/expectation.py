"""Everything that a dialect prescribes for one batch, computed on first use and shared by all checks of the batch.

B images, A anchors, C classes, R bins, M ground truths of an image, P positives of the whole batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, CheckedAssignment
from tal_conformance.core.reference_inputs import (
    assign_with_parts,
    assigner_inputs,
    keypoints_of,
    masks_of,
    predictions_of,
    truths_of,
)
from tal_conformance.judgement.comparators import all_finite
from tal_conformance.judgement.oracle.oracle import ImageOracle, oracles
from tal_conformance.judgement.rejection import RejectionRule, rejection_for
from tal_conformance.judgement.rounding.bounds import (
    UNITS,
    bound,
    precision,
    smallest,
)
from tal_conformance.judgement.rounding.exact_loss import ASSIGN_BY_TASK, ReferenceLoss, compute_loss
from tal_conformance.judgement.rounding.geometry import GEOMETRIES_BY_TASK, Geometry, InputErrors
from tal_conformance.judgement.rounding.loss_rounding import LossRounding
from tal_conformance.judgement.rounding.masked_boxes import MaskedBoxes
from tal_conformance.judgement.rounding.mixed_precision import Interval, class_scores, is_coarse, pixel_boxes
from tal_conformance.judgement.rounding.posed_boxes import PosedBoxes
from tal_conformance.judgement.rounding.uncertainty import (
    ROUNDING_UNITS_BY_TASK,
    AssignmentUncertainty,
    uncertainty_units,
)
from tal_conformance.judgement.undefined import undefined_anchors
from tal_reference import BatchTargets, Dialect, GroundTruths, Predictions, Targets
from tal_reference.annotations import to_corners
from tal_reference.variations import Rows


@dataclass(frozen=True, eq=False)
class Expectation:
    """Everything that a dialect prescribes for one batch, computed when first needed and then shared.

    An expectation is made for each judged batch and dropped with the judgement: it is not stored on `Batch`, which
    Hypothesis keeps.

    Attributes:
        batch: the batch, on the device under test.
        dialect: the release or project whose behaviour is prescribed.
    """

    batch: Batch
    dialect: Dialect

    @cached_property
    def settled(self) -> "Expectation":
        """The expectation of the same batch, with the hyperparameters that the dialect really uses.

        A dialect may ignore or replace hyperparameters. The reference does so itself; the judge reads them from the
        batch, and so needs this expectation.
        """
        if not self.dialect.is_varied:
            return self
        numbers = self.dialect.effective(self.batch.hyperparameters, self.batch.anchors)
        settled = Expectation(replace(self.batch, hyperparameters=numbers), self.dialect.settled)
        settled.__dict__.update(
            {
                name: self.__dict__[name]
                for name in ("predictions", "rounded_predictions")
                if name in self.__dict__
            }
        )
        settled.__dict__["settled"] = settled
        return settled

    def with_inputs(self, inputs: AssignerInputs) -> "Expectation":
        """Return the expectation of the same batch with the inputs of the assigner that an implementation received.

        A machine with other instructions may have decoded them with other roundings.
        """
        expected = Expectation(self.batch, self.dialect)
        expected.__dict__["inputs"] = inputs
        return expected

    @cached_property
    def rejection(self) -> RejectionRule | None:
        """The rule by which an implementation must raise on the batch; None if it must return a result."""
        return rejection_for(self.batch, self.dialect)

    @cached_property
    def geometry(self) -> Geometry:
        """The geometry of the task's boxes, with keypoints or masks that take part in the assignment."""
        if self.batch.head.parts_assign:
            posed = self.batch.family.has_keypoints
            return (PosedBoxes if posed else MaskedBoxes).of(self.batch, self.predictions)
        return GEOMETRIES_BY_TASK[self.batch.task]

    @property
    def dtype(self) -> torch.dtype:
        """The coarser of float32 and the batch's dtype: bounds allow for rounding in this dtype."""
        return precision(self.batch.dtype)

    @property
    def eps(self) -> float:
        """Machine epsilon of `dtype`."""
        return float(torch.finfo(self.dtype).eps)

    @property
    def assigner_dtype(self) -> torch.dtype:
        """The dtype of the assigner's boxes and weights: the ground truths' dtype, or float32 instead of float64."""
        return precision(torch.promote_types(self.batch.annotations.dtype, self.batch.dtype))

    @cached_property
    def truths(self) -> list[GroundTruths]:
        """The ground truths of each image, in float64."""
        return truths_of(self.batch, torch.float64, self.dialect)

    @cached_property
    def rounded_truths(self) -> list[GroundTruths]:
        """The ground truths of each image, in the annotations' or the batch's dtype, whichever is finer."""
        finest = torch.promote_types(self.batch.annotations.dtype, self.batch.dtype)
        return truths_of(self.batch, finest, self.dialect)

    @property
    def counts(self) -> list[int]:
        """Number of ground truths of each image, without padding."""
        return [len(image) for image in self.truths]

    @cached_property
    def predictions(self) -> Predictions:
        """The decoded predictions, in float64."""
        with torch.no_grad():
            return predictions_of(self.batch, torch.float64)

    @cached_property
    def rounded_predictions(self) -> Predictions:
        """The decoded predictions, in the batch's dtype."""
        with torch.no_grad():
            return predictions_of(self.batch)

    @cached_property
    def inputs(self) -> AssignerInputs:
        """The inputs that `execute` passes to an assigner, as the reference decodes them in the batch's dtype."""
        rounded = self.rounded_truths
        coarser = bool(rounded) and rounded[0].boxes.dtype == self.batch.annotations.dtype
        own = rounded if coarser else truths_of(self.batch, None, self.dialect)
        return assigner_inputs(self.batch, self.rounded_predictions, own)

    @cached_property
    def decoding_errors(self) -> tuple[Tensor, Tensor]:
        """Largest admissible errors of decoded boxes (B, A, 4) in pixels and of class scores (B, A, C)."""
        exact, scores = self.predictions, self.predictions.logits.sigmoid()  # (B, A, C)
        if is_coarse(self.dtype):
            of_boxes, of_scores = self.enclosures
            return of_boxes.distance_from(exact.pixels), of_scores.distance_from(scores)
        unit = self.geometry.boxes_unit(exact, self.batch.head.reg_max, self.eps)  # (B, A, 4)
        boxes = bound(self.inputs.boxes, exact.pixels, unit, self.dtype, "predicted box")
        return boxes, bound(self.inputs.scores, scores, 3 * self.eps * scores, self.dtype, "class score")

    @cached_property
    def enclosures(self) -> tuple[Interval, Interval]:
        """Intervals of decoded boxes (B, A, 4) in pixels and class scores (B, A, C) that 16-bit code may compute."""
        exact, anchors = self.predictions, self.predictions.anchors
        numbers = anchors.centres, anchors.strides, self.batch.head.reg_max, self.dtype
        boxes = [pixel_boxes(image, *numbers) for image in exact.distances]  # (A, 4): few at a time
        low, high = (torch.stack(ends) for ends in zip(*((box.low, box.high) for box in boxes), strict=True))
        return Interval(low, high), class_scores(exact.logits, self.dtype)

    @cached_property
    def input_errors(self) -> list[InputErrors]:
        """Largest difference between `inputs` and the inputs of a loss that does not expose them, for each image.

        The reference's inputs and the loss's inputs may err in opposite directions, both by as much as the inputs of an
        implementation that exposes them. Inputs of 16 bits lie within `enclosures`; their difference is measured from
        the middle of the enclosures.
        """
        truth_errors = self.truth_errors
        if is_coarse(self.dtype):
            of_boxes, of_scores = self.enclosures
            around = replace(self.inputs, boxes=of_boxes.middle, scores=of_scores.middle)
            edges = of_boxes.radius.amax(-1)  # (B, A)
            return [
                InputErrors(edges[image], of_scores.radius[image], error, around)
                for image, error in enumerate(truth_errors)
            ]
        exact = self.predictions
        unit = self.geometry.boxes_unit(exact, self.batch.head.reg_max, self.eps).amax(-1)  # (B, A)
        boxes = 2 * UNITS["predicted box"] * unit  # (B, A)
        scores = 2 * UNITS["class score"] * 3 * self.eps * exact.logits.sigmoid() + smallest(self.dtype)
        return [InputErrors(boxes[image], scores[image], error) for image, error in enumerate(truth_errors)]

    @property
    def truth_errors(self) -> list[Tensor]:
        """Largest error in pixels of the ground truths' edges in an assigner that hides its inputs: (M, 4) by image.

        The error is zero where the conversion of the annotation rows to pixels is exact. Rows are converted in their
        own dtype, not in that of the feature maps.
        """
        sharp, image_of_row = self.sharp_rows, self.batch.annotations[:, 0]  # (N,), (N,)
        eps = torch.finfo(self.assigner_dtype).eps
        errors = []
        for image, truths in enumerate(self.truths):
            rows = sharp if self.dialect.image_index_ignored else sharp[image_of_row == image]  # (M,)
            if len(rows) != len(truths):  # rows were dropped (OBB-ANN-2)
                rows = torch.zeros_like(truths.labels, dtype=torch.bool)
            error = 2 * UNITS["ground truth box"] * self.geometry.truth_unit(truths.boxes, eps)  # (M, 4)
            errors.append(error.where(~rows[:, None], 0))
        return errors

    @property
    def sharp_rows(self) -> Tensor:
        """(N,) True for each annotation row whose conversion to pixels is exact in every implementation (ANN-1)."""
        rows, (height, width) = (
            self.batch.annotations[:, 2 : self.batch.family.annotation_columns],
            self.batch.size,
        )
        if self.dialect.sides_exchanged:
            height, width = width, height
        match self.dialect.rows:
            case Rows.NORMALISED:
                return self.geometry.converts_exactly(rows, (height, width))
            case Rows.PIXELS:
                return (to_corners(rows, (1, 1)).double() == to_corners(rows.double(), (1, 1))).all(1)
            case Rows.CORNERS:
                scale = rows.new_tensor((width, height, width, height))
                return ((rows * scale).double() == rows.double() * scale.double()).all(1)
            case Rows.CONVERTED_TWICE:
                once = to_corners(rows, (1, 1))
                exact = (once.double() == to_corners(rows.double(), (1, 1))).all(1)
                return exact & self.geometry.converts_exactly(once, (height, width))

    @cached_property
    def assignment(self) -> list[Targets]:
        """The reference's own assignment of each image, in the batch's dtype."""
        return self._assigned(self.rounded_predictions, self.rounded_truths)

    def _assigned(self, predictions: Predictions, truths: list[GroundTruths]) -> list[Targets]:
        if self.batch.head.parts_assign:
            return assign_with_parts(self.batch, predictions, truths, self.dialect)
        numbers = self.batch.head, self.batch.hyperparameters, self.dialect
        return ASSIGN_BY_TASK[self.batch.task](predictions, truths, *numbers)

    def targets_of(self, assignment: CheckedAssignment) -> BatchTargets:
        """Return the targets of an assignment, boxes in float64, with keypoints or masks of the ground truths' rows."""
        boxes = assignment.boxes.double()
        targets = BatchTargets(assignment.foreground, boxes, assignment.scores)
        return self.with_parts(targets, assignment.truth_index)

    def with_parts(self, targets: BatchTargets, truth_index: Tensor) -> BatchTargets:
        """Return targets with the keypoints or masks of the ground truths that own the anchors.

        Args:
            targets: targets of boxes.
            truth_index: (B, A) index of each positive's ground truth in its image.
        """
        keypoints = None
        if self.batch.family.has_keypoints:
            padded = pad_sequence(keypoints_of(self.batch), batch_first=True)  # (B, M, K, 3)
            if not padded.shape[1]:
                padded = padded.new_zeros(padded.shape[0], 1, *padded.shape[2:])
            image = torch.arange(len(padded), device=padded.device)[:, None]  # (B, 1)
            index = truth_index.long().clamp(0, padded.shape[1] - 1)  # (B, A)
            keypoints = padded[image, index]  # (B, A, K, 3)
        owners = masks = None
        if self.batch.family.has_masks:
            # one empty mask stands for those of an image without ground truths, whose anchors may be wrongly positive
            masks = [
                image if len(image) else image.new_zeros(1, *image.shape[1:])
                for image in masks_of(self.batch)
            ]
            last = torch.tensor([len(image) - 1 for image in masks], device=truth_index.device)  # (B,)
            owners = torch.minimum(truth_index.long().clamp(min=0), last[:, None])  # (B, A)
        return replace(targets, keypoints=keypoints, owners=owners, masks=masks)

    @property
    def assignment_is_defined(self) -> bool:
        """True if the overlaps and target scores of the reference's own inputs are defined (IOU-1)."""
        return not bool(self.undefined_images(self.inputs).any())

    def undefined_images(self, inputs: AssignerInputs) -> Tensor:
        """Return (B,) bool: True if the assignment of an image is undefined (IOU-1), for the inputs of an assigner.

        The assignment is undefined where a head of one bin predicts a box with exchanged edges, so that the union of
        its negative area and the ground truth's is 0, and the IoU 0 / 0. The assignment then depends on how NaN is
        sorted.
        """
        return self._images_without_weights | undefined_anchors(inputs, self.dialect).any(1)

    @cached_property
    def _images_without_weights(self) -> Tensor:
        """(B,) True if a target score of the reference is not finite, in float64 or in the batch's dtype."""
        batch = self.batch
        undefined = torch.zeros(batch.images, dtype=torch.bool, device=batch.device)
        if self.dialect.signed_overlap and batch.hyperparameters.beta % 2:
            return ~undefined  # a power of a negative overlap is negative, or NaN
        if batch.head.reg_max > 1 or not len(batch.annotations):
            return undefined
        for targets in (self.assignment, self._assigned(self.predictions, self.truths)):
            undefined |= undefined.new_tensor([not all_finite(image.weights) for image in targets])
        return undefined

    def image(self, index: int, inputs: AssignerInputs, errors: InputErrors | None = None) -> ImageOracle:
        """Return the admissible values and choices of one image with ground truths.

        Args:
            index: index of the image.
            inputs: inputs that the implementation's assigner read.
            errors: possible differences between `inputs` and the implementation's inputs; None if both are equal.
        """
        return self.images((index,), inputs, None if errors is None else {index: errors})[index]

    def images(
        self, indices: Iterable[int], inputs: AssignerInputs, errors: Mapping[int, InputErrors] | None = None
    ) -> dict[int, ImageOracle]:
        """Return the admissible values and choices of images with ground truths, as `image` does, by their indices."""
        settled = self.settled
        truths = {index: len(self.truths[index]) for index in indices}
        return oracles(settled.effective(inputs), truths, settled.dialect, errors, self.geometry)

    @cached_property
    def target_truths(self) -> list[GroundTruths]:
        """The ground truths of each image as target boxes, in the dtype of `rounded_truths` (TAL-TGT-1)."""
        if not self.dialect.widened_target:
            return self.rounded_truths
        floor = self.dialect.floor(self.batch.head.strides)
        return [
            GroundTruths(image.labels, self.geometry.widened(image.boxes, floor))
            for image in self.rounded_truths
        ]

    def effective(self, inputs: AssignerInputs) -> AssignerInputs:
        """Return an assigner's inputs with the hyperparameters that the dialect really uses."""
        return replace(inputs, hyperparameters=self.settled.batch.hyperparameters)

    def loss(self, targets: BatchTargets, each_term: bool = False) -> "LossExpectation":
        """Return the expected loss for given targets; if `each_term`, with separate gradients of box, cls and dfl."""
        return LossExpectation(self.settled, targets, each_term)


@dataclass(frozen=True, eq=False)
class LossExpectation:
    """The loss and the gradients that a dialect prescribes for given targets, and the effect of rounding on them.

    Attributes:
        expected: expectation of the batch.
        targets: labels, boxes and scores that the anchors learn.
        each_term: the gradients of box, cls and dfl are needed, not only those of the total loss.
    """

    expected: Expectation
    targets: BatchTargets
    each_term: bool = False

    @cached_property
    def exact(self) -> ReferenceLoss:
        """The reference's loss in float64."""
        return self._computed(torch.float64, self.expected.predictions)

    @cached_property
    def same_dtype(self) -> ReferenceLoss:
        """The reference's loss in the batch's dtype."""
        return self._computed(self.expected.batch.dtype, self.expected.rounded_predictions)

    def _computed(self, dtype: torch.dtype, predictions: Predictions) -> ReferenceLoss:
        batch, dialect = self.expected.batch, self.expected.dialect
        return compute_loss(batch, self.targets, dtype, dialect, predictions, self.each_term)

    @cached_property
    def rounding(self) -> LossRounding:
        """The effect on the loss and its gradients of one rounding in each operation."""
        batch, dialect = self.expected.batch, self.expected.dialect
        return ROUNDING_UNITS_BY_TASK[batch.task](batch, self.targets, self.exact, dialect)

    def uncertainty(self, unsure: AssignmentUncertainty) -> LossRounding:
        """Return the effect of an uncertain assignment on the loss and its gradients, in addition to `rounding`."""
        batch, dialect = self.expected.batch, self.expected.dialect
        return uncertainty_units(batch, self.targets, self.exact, self.rounding, unsure, dialect)

    @cached_property
    def positives(self) -> tuple[Tensor, ...]:
        """Indices of image (P,) and anchor (P,) of the positives."""
        return self.targets.foreground.nonzero(as_tuple=True)

    @property
    def divides_by_zero(self) -> bool:
        """True if N, by which the loss is divided, is zero, as in dialects without a floor of N (LOSS-SUM-1)."""
        return self.expected.dialect.score_sum_floor == 0 and not self.targets.scores.any()

    @cached_property
    def is_defined(self) -> bool:
        """True if CIoU and its gradient are finite at the positives (IOU-1).

        They are not finite if a head of one bin predicts a box with exchanged edges, and the union of its negative area
        and the ground truth's is 0, eps included: IoU is 0 / 0. The result of official code then depends on its
        rounding. A division by an N of zero, in dialects without a floor of N (LOSS-SUM-1), is defined: no CIoU is
        involved.
        """
        if not len(self.positives[0]):
            return True
        if self.divides_by_zero:
            return self.expected.batch.head.reg_max > 1
        exact, terms = self.exact, self.expected.batch.family.terms
        weighted = exact.items[
            [at for at, term in enumerate(terms) if term.weighted]
        ]  # of others, SEG-3 defines 0 / 0
        return all_finite(weighted) and all_finite(exact.of_total[0][self.positives])
