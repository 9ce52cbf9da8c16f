"""Adapters for timing: without the recording of intermediate values, which only the judge needs.

An adapter that is not listed here is timed unchanged, unless it has a method `uninstrumented()` that returns the
adapter to time.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.task import E2E, OBB, task_of
from tal_conformance.implementations.adapters.article import ArticleAdapter, ArticleAssigner
from tal_conformance.implementations.adapters.reference import LOSSES, ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_reference import GroundTruths, Head, Hyperparameters, assign, detection_loss
from tal_reference.end_to_end import end_to_end_loss
from tal_reference.loss import stacked
from tal_reference.rotated import assign_rotated


def uninstrumented(adapter: Any) -> Any:
    """Return the adapter to time instead of `adapter`. It has the same results, but records nothing."""
    if callable(getattr(adapter, "uninstrumented", None)):
        return adapter.uninstrumented()
    if callable(getattr(adapter, "bare", None)):
        warnings.warn(
            f"{type(adapter).__name__} has the deprecated method `bare`: rename the method to `uninstrumented`",
            DeprecationWarning,
            2,
        )
        return adapter.bare()
    if type(adapter) is UltralyticsAdapter:
        return UltralyticsAdapter(exposes_stages=False)
    if type(adapter) is ReferenceAdapter:
        return UninstrumentedReference(adapter.dialect)
    if type(adapter) is ArticleAdapter:
        return UninstrumentedArticle()
    return adapter


def unpadded(inputs: AssignerInputs) -> list[GroundTruths]:
    """Return the ground truths of each image without padding rows, which the reference's loss does not use either.

    A box (0, 0, 0, 0) at the end of an image counts as padding: it has no candidates. If a dialect compares
    overlaps of non-candidates too, the last bit of a weight may depend on the padding.
    """
    holds_box = inputs.truth_boxes.any(-1)  # (B, M)
    counts = (holds_box.flip(1).cumsum(1) > 0).sum(1)  # (B,) number of rows up to the last ground truth
    return [
        GroundTruths(labels[:count, 0].long(), boxes[:count])
        for labels, boxes, count in zip(inputs.labels, inputs.truth_boxes, counts.tolist(), strict=True)
    ]


class UninstrumentedReference(ReferenceAdapter):
    """Adapter of the reference that does not record the reference's stages."""

    exposes_stages = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Return the reference's assignment of the batch, made image by image without padding."""
        numbers = inputs.head.strides, inputs.hyperparameters, self.dialect
        assigner = assign_rotated if inputs.boxes.shape[-1] == len(OBB.box_columns) else assign
        targets = [
            assigner(scores, boxes, inputs.anchors, truths, *numbers)
            for scores, boxes, truths in zip(inputs.scores, inputs.boxes, unpadded(inputs), strict=True)
        ]
        batch = stacked(targets, inputs.head.classes)
        labels = torch.stack([image.labels for image in targets])  # (B, A)
        index = torch.stack([image.truth_index for image in targets])  # (B, A)
        return Assignment(labels, batch.boxes, batch.scores, batch.foreground, index)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the reference's loss."""
        task, numbers = (
            task_of(head, annotations.shape[1], len(feature_maps)),
            (head, hyperparameters, self.dialect),
        )
        if task is E2E:
            levels = len(head.strides)
            both = end_to_end_loss(feature_maps[:levels], feature_maps[levels:], annotations, *numbers)
            return Loss(both.terms, both.items)
        loss = LOSSES.get(task.name, detection_loss)(feature_maps, annotations, *numbers)
        return Loss(loss.terms, loss.items)


class UninstrumentedArticle(ArticleAdapter):
    """Adapter of the TOOD article's algorithm that returns only the assignment, without the assigner's stages."""

    exposes_stages = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Run the article's assigner (section 3) image by image, and return the assignment of the batch."""
        assigner = ArticleAssigner(inputs.hyperparameters)
        images = [
            assigner.assign_image(scores, boxes, inputs.anchors, labels, truths, mask)[0]
            for scores, boxes, labels, truths, mask in zip(
                inputs.scores, inputs.boxes, inputs.labels, inputs.truth_boxes, inputs.truth_mask, strict=True
            )
        ]
        labels, boxes, scores, foreground, index = (
            torch.stack(output) for output in zip(*images, strict=True)
        )
        return Assignment(labels, boxes, scores, foreground, index)
