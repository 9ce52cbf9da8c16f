"""Implementations without what they do only so that the judge can look inside: that must not be timed.

An adapter of one's own is timed as it is, unless it has a method `bare()`, which returns what is to be
timed in its place.
"""

from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.article import ArticleAdapter, ArticleAssigner
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_reference import GroundTruths, Head, Hyperparameters, assign, detection_loss
from tal_reference.loss import stacked


def uninstrumented(adapter: Any) -> Any:
    """The adapter to be timed in place of `adapter`: it computes the same and notes nothing."""
    if callable(getattr(adapter, "bare", None)):
        return adapter.bare()
    if type(adapter) is UltralyticsAdapter:
        return BareUltralytics()
    if type(adapter) is ReferenceAdapter:
        return BareReference(adapter.dialect)
    if type(adapter) is ArticleAdapter:
        return BareArticle()
    return adapter


class BareUltralytics(UltralyticsAdapter):
    """The installed release alone: its assigner is of the release's own class, and nothing is copied.

    Its loss begins at the feature maps, as everybody's does. So it includes their concatenation, which newer
    releases do at the end of the model's head.
    """

    exposes_stages = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """The official assigner."""
        assigner = self._new_assigner(inputs.head, inputs.hyperparameters)
        returned = assigner(
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask
        )
        return Assignment(*returned)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """The official loss."""
        criterion = self._criterion(head, hyperparameters, feature_maps[0].device)
        flat = torch.cat([level.flatten(2) for level in feature_maps], dim=2)  # (B, 4R + C, A)
        distances, scores = flat.split((4 * head.reg_max, head.classes), dim=1)
        predictions = {"boxes": distances, "scores": scores, "feats": list(feature_maps)}
        rows = {"batch_idx": annotations[:, 0], "cls": annotations[:, 1], "bboxes": annotations[:, 2:]}
        total, items = criterion(predictions, rows)
        return Loss(total, torch.stack(list(items.values())))

    def _new_assigner(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        assigner = super()._new_assigner(head, hyperparameters)
        assigner.__class__ = type(assigner).__base__  # the release's own; the subclass notes what passes
        return assigner


def unpadded(inputs: AssignerInputs) -> list[GroundTruths]:
    """The ground truths of each image, without the rows of zeros behind them: the reference's loss never pads.

    A box (0, 0, 0, 0) at an image's end is taken for padding: it has no candidates. In dialects that compare overlaps
    everywhere, weights may differ from the padded ones in the last bit.
    """
    holds_box = inputs.truth_boxes.any(-1)  # (B, M)
    counts = (holds_box.flip(1).cumsum(1) > 0).sum(1)  # (B,) rows to the last that holds one
    return [
        GroundTruths(labels[:count, 0].long(), boxes[:count])
        for labels, boxes, count in zip(inputs.labels, inputs.truth_boxes, counts.tolist(), strict=True)
    ]


class BareReference(ReferenceAdapter):
    """The reference without its trace."""

    exposes_stages = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """The reference's assigner, image by image, each with its own ground truths alone."""
        numbers = inputs.head.strides, inputs.hyperparameters, self.dialect
        targets = [
            assign(scores, boxes, inputs.anchors, truths, *numbers)
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
        """The reference's loss."""
        loss = detection_loss(feature_maps, annotations, head, hyperparameters, self.dialect)
        return Loss(loss.terms, loss.items)


class BareArticle(ArticleAdapter):
    """The article's algorithm, whose stages are computed but not put together."""

    exposes_stages = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Section 3 of the article, image by image."""
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
