"""`libreyolo`: the loss of its YOLOv9 (`YOLO9Loss`) and its assigner (`BoxMatcher`).

The other models of the package do not have the loss of YOLOv8, and therefore no adapter here: YOLO-NAS and PP-YOLOE
have a task-aligned assigner with plain IoU, and a varifocal and GIoU loss; RTMDet and PicoDet have different assigners;
the remaining models match predictions and ground truths one to one.

Ground truths are padded and have no mask: the package treats a row that overlaps no box as padding. The package's
total is the sum of the terms, not multiplied by the number of images, and so is this adapter's.

The package places anchors at whole pixels, half a stride rounded down from the corner of a cell. That is the centre of
the cell for even strides alone; the adapter does not support others. A level has as many anchors as the input's size
divided by its stride, rounded down: the adapter does not support larger feature maps either.
"""

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.sizes import has_whole_cells, map_shapes
from tal_reference import Head, Hyperparameters

LOSS = "libreyolo.models.yolo9.loss"
"""Module of the package's folder, which only the worker has on its import path."""


class LibreYOLO:
    """The version of `libreyolo` in the worker's package folder.

    Args:
        version: version of the package.
    """

    name = "libreyolo"

    def __init__(self, version: str) -> None:
        self.version = version
        self._module = importlib.import_module(LOSS)
        # only the most recent criterion: a run uses thousands of heads
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def supports(
        self, head: Head, hyperparameters: Hyperparameters, shapes: Sequence[tuple[int, ...]] = ()
    ) -> bool | str:
        """Return True, or the reason why the package does not support a head, hyperparameters or feature maps."""
        if head.reg_max == 1:  # distances are always distributions
            return f"libreyolo {self.version} does not support a head with reg_max 1 (DEC-1)"
        if any(stride % 2 for stride in head.strides):
            return f"libreyolo {self.version} does not support odd strides (ANC-1)"
        if hyperparameters.effective_topk2 is not None:
            return f"libreyolo {self.version} does not support topk2 (TAL-CONF-2)"
        if not has_whole_cells(head, shapes):
            return f"libreyolo {self.version} does not support an input that is not a multiple of every stride (ANC-1)"
        return True

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Return the assignment of the package's assigner for inputs that the suite decoded."""
        self._refuse(inputs.head, inputs.hyperparameters, map_shapes(inputs))
        matcher = self._module.BoxMatcher(
            num_classes=inputs.head.classes,
            anchor_grid=inputs.anchors,
            scaler=inputs.strides.squeeze(1),
            reg_max=inputs.head.reg_max,
            topk=inputs.hyperparameters.topk,
            iou_factor=inputs.hyperparameters.beta,
            cls_factor=inputs.hyperparameters.alpha,
        )
        truths = torch.cat((inputs.labels, inputs.truth_boxes), -1)  # (B, M, 5)
        predicted = inputs.scores.as_subclass(Scores), inputs.boxes
        return assignment_of(matcher(truths, predicted, return_indices=True), truths, inputs.head.classes)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the package's loss, with the outputs of its assigner."""
        self._refuse(head, hyperparameters, [tuple(level.shape) for level in feature_maps])
        height, width = (size * head.strides[0] for size in feature_maps[0].shape[2:])
        criterion = self._criterion(head, hyperparameters, (width, height), feature_maps[0].device)
        assignments: list[Assignment] = []
        matcher = criterion.matcher

        def record(truths: Tensor, predicted: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            results = matcher(truths, predicted, return_indices=True)
            assignments.append(assignment_of(results, truths, head.classes))
            return results[:2]

        criterion.matcher = record
        try:
            parts = criterion(list(feature_maps), padded(annotations, feature_maps[0].shape[0]))
        finally:
            criterion.matcher = matcher
        items = torch.stack([parts[name].detach() for name in ("box", "cls", "dfl")])
        return Loss(parts["total_loss"], items, assignments[0])

    def _refuse(
        self, head: Head, hyperparameters: Hyperparameters, shapes: Sequence[tuple[int, ...]] = ()
    ) -> None:
        """Raise for heads, hyperparameters and feature maps that the package does not support.

        Raises:
            NotImplementedError: as `supports`.
        """
        reason = self.supports(head, hyperparameters, shapes)
        if isinstance(reason, str):
            raise NotImplementedError(reason)

    def _new_criterion(
        self, head: Head, hyperparameters: Hyperparameters, size: tuple[int, int], device: torch.device
    ) -> Any:
        """Return the package's loss object for images of the given size."""
        return self._module.YOLO9Loss(
            num_classes=head.classes,
            reg_max=head.reg_max,
            strides=list(head.strides),
            image_size=list(size),
            device=device,
            box_weight=hyperparameters.box_gain,
            dfl_weight=hyperparameters.dfl_gain,
            cls_weight=hyperparameters.cls_gain,
            topk=hyperparameters.topk,
            iou_factor=hyperparameters.beta,
            cls_factor=hyperparameters.alpha,
        )


class Scores(Tensor):
    """Scores in place of logits: a tensor whose method `sigmoid` returns it unchanged."""

    def sigmoid(self) -> Tensor:
        """Return the scores."""
        return self.as_subclass(Tensor)


def padded(annotations: Tensor, images: int) -> Tensor:
    """Return annotations (N, 6) in the package's format: (B, M, 5) class and normalised corners, padded with zeros."""
    own = [annotations[annotations[:, 0] == image, 1:] for image in range(images)]
    rows = annotations.new_zeros(images, max(map(len, own), default=0), 5)
    for image, (kind, centre, size) in enumerate(each.split((1, 2, 2), 1) for each in own):
        rows[image, : len(kind)] = torch.cat((kind, centre - size / 2, centre + size / 2), 1)
    return rows


def assignment_of(answered: tuple[Tensor, Tensor, Tensor], truths: Tensor, classes: int) -> Assignment:
    """Convert the results `answered` of the package's assigner for truths (B, M, 5) to an assignment.

    The results are class scores and boxes (B, A, C + 4), the foreground, and the index of each anchor's ground truth.
    """
    targets, foreground, index = (part.as_subclass(Tensor) for part in answered)
    scores, boxes = targets.split((classes, 4), -1)
    labels = truths[..., 0].long().gather(1, index) if truths.shape[1] else index  # (B, A)
    return Assignment(labels, boxes, scores, foreground, index)
