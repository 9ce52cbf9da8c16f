"""Views of one image: an outcome on a transformed batch, rearranged into the layout of the original batch.

Comparisons of two runs compare two views of one image, in which the transformation is undone.
M ground truths, A anchors, C classes, R bins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tal_conformance.checks.relations.overlaps import are_turned
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import STAGE_OF_FIELD, AssignerInputs, Outcome

SMALLEST_SIDE = 2
"""Length in pixels below which the side of a rotated box drops its row (OBB-ANN-2)."""


@dataclass(frozen=True)
class FormChange:
    """A change of the form of rotated boxes, which describe the same sets of points before and after it.

    Attributes:
        truths: quarter turns by which the form of ground truths changed; odd: their two sides are exchanged.
        predictions: quarter turns by which the form of predicted boxes changed: 0 or 2.
        height: height in pixels of the original input, if the whole scene was turned clockwise by a quarter turn; None
            if the scene was not turned.
        rounding: largest rounding error of a changed angle, in radians.
    """

    truths: int = 0
    predictions: int = 0
    height: int | None = None
    rounding: float = 0.0

    def back(self, boxes: Tensor, quarters: int) -> Tensor:
        """Return boxes (.., 5) of the changed batch in their original form, in float64."""
        x, y, width, height, angle = boxes.double().unbind(-1)
        turned = quarters
        if self.height is not None:
            x, y, turned = y, self.height - x, quarters + 1
        if quarters % 2:
            width, height = height, width
        return torch.stack((x, y, width, height, angle - turned * torch.pi / 2), dim=-1)


@dataclass(frozen=True)
class ImageMapping:
    """Places of one image's rows, anchors and classes in a transformed batch.

    Attributes:
        truths: (M,) int64 row of each ground truth of the image.
        anchors: (A,) int64 index of each anchor.
        classes: (C,) int64 channel of each class.
        mirrored: axis that is mirrored: 0 for x, 1 for y; None if the image is not mirrored.
        extent: size of the input along that axis, in pixels.
        turn: the change of form of rotated boxes; None if their form is unchanged.
        undo: for head fields after the class logits, the function that undoes the transformation on one image's
            gradient: (A, width), or (width, h, w) for a field of the whole image. Other fields are unchanged.
    """

    truths: Tensor
    anchors: Tensor
    classes: Tensor
    mirrored: int | None = None
    extent: int = 0
    turn: FormChange | None = None
    undo: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def pairs(self, values: Tensor) -> Tensor:
        """Return values (rows, A) of the changed batch, such as overlaps, in the layout of the given batch (M, A)."""
        return values[self.truths][:, self.anchors]

    def truth_boxes(self, boxes: Tensor) -> Tensor:
        """Map ground truths (.., 4 or 5) of the changed batch back, in pixels and float64."""
        return self.boxes(boxes) if self.turn is None else self.turn.back(boxes, self.turn.truths)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Map predicted boxes of the changed batch back, in pixels and float64, in which mirroring is exact.

        Boxes are xyxy (.., 4), or (.., 5) with centre, sides and angle.
        """
        boxes = boxes.double()
        if self.turn is not None:
            return self.turn.back(boxes, self.turn.predictions)
        if self.mirrored is None:
            return boxes
        if are_turned(boxes):
            back = boxes.clone()
            back[..., self.mirrored] = self.extent - boxes[..., self.mirrored]
            back[..., 4] = -boxes[..., 4]
            return back
        low, high = self.mirrored, self.mirrored + 2
        back = boxes.clone()
        back[..., low], back[..., high] = self.extent - boxes[..., high], self.extent - boxes[..., low]
        return back

    def points(self, points: Tensor) -> Tensor:
        """Map points (.., 2) of the changed batch back, in pixels and float64."""
        points = points.double().clone()
        if self.turn is not None and self.turn.height is not None:
            x, y = points.unbind(-1)
            return torch.stack((y, self.turn.height - x), dim=-1)
        if self.mirrored is not None:
            points[..., self.mirrored] = self.extent - points[..., self.mirrored]
        return points

    def sides(self, values: Tensor) -> Tensor:
        """Return `values` (.., 4, R) with the sides left, top, right, bottom as before the transformation."""
        if self.turn is not None:
            return values.roll(self.turn.predictions, dims=-2)
        order = {None: (0, 1, 2, 3), 0: (2, 1, 0, 3), 1: (0, 3, 2, 1)}[self.mirrored]
        return values[..., order, :]

    def other(self, name: str, values: Tensor) -> Tensor:
        """Return the gradient on a head field after the class logits as before the transformation."""
        return self.undo[name](values) if name in self.undo else values

    def labels(self, labels: Tensor) -> Tensor:
        """Map class indices of the changed batch back; a class that the given batch lacks becomes -1."""
        names = torch.full((int(self.classes.max()) + 2,), -1, dtype=torch.long, device=labels.device)
        names[self.classes] = torch.arange(len(self.classes), device=labels.device)
        return names[labels.long().clamp(-1, len(names) - 1)]

    def rows(self, index: Tensor) -> Tensor:
        """Map ground-truth indices of the changed batch back; an index of another image's ground truth becomes -1."""
        size = int(self.truths.max()) + 2 if len(self.truths) else 1
        names = torch.full((size,), -1, dtype=torch.long, device=index.device)
        names[self.truths] = torch.arange(len(self.truths), device=index.device)
        return names[index.long().clamp(-1, len(names) - 1)]


def with_sides(batch: Batch) -> Tensor:
    """Return (N,) bool: True for annotation rows that are ground truths; OBB-ANN-2 drops rows with a small side."""
    rows = batch.annotations
    if not batch.turned:
        return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    height, width = batch.size
    return (rows[:, 4:6] * rows.new_tensor((width, height)) >= SMALLEST_SIDE).all(1)


def unchanged(batch: Batch, image: int) -> ImageMapping:
    """Return the identity mapping of an image of a batch."""
    count = int(((batch.annotations[:, 0] == image) & with_sides(batch)).sum())
    device = batch.device
    return ImageMapping(
        torch.arange(count, device=device),
        torch.arange(batch.anchors, device=device),
        torch.arange(batch.head.classes, device=device),
    )


@dataclass(frozen=True)
class ImageView:
    """The part of an outcome that concerns one image.

    Attributes:
        read: inputs of the assigner: centres (A, 2), boxes (A, 4), scores (A, C), truths (M, 4), labels (M,). Rotated
            boxes have five columns, here and in `boxes`.
        shown: exposed stages of the assigner by name, (M, A) each; empty if the implementation exposes none.
        foreground: (A,) bool.
        owner: (A,) int64 index of the ground truth, -1 on background.
        labels: (A,) int64 target class; defined on foreground only.
        boxes: (A, 4) float64 target box, xyxy in pixels; defined on foreground only.
        scores: (A, C) target scores.
    """

    read: dict[str, Tensor]
    shown: dict[str, Tensor]
    foreground: Tensor
    owner: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor

    @property
    def positives(self) -> Tensor:
        """(M, A) bool: True where the ground truth owns the anchor, according to the outputs."""
        rows = torch.arange(len(self.read["truths"]), device=self.owner.device)[:, None]  # (M, 1)
        return rows == self.owner

    def equals(self, other: "ImageView") -> bool:
        """Return True if two views are bitwise equal, except for labels and boxes of background anchors."""
        foreground = self.foreground
        return (
            torch.equal(foreground, other.foreground)
            and torch.equal(self.owner, other.owner)
            and torch.equal(self.scores, other.scores)
            and torch.equal(self.labels[foreground], other.labels[foreground])
            and torch.equal(self.boxes[foreground], other.boxes[foreground])
            and all(torch.equal(value, other.read[name]) for name, value in self.read.items())
            and all(torch.equal(value, other.shown[name]) for name, value in self.shown.items())
        )


def view(outcome: Outcome, image: int, mapping: ImageMapping) -> ImageView:
    """Return one image's part of an outcome, in the layout of the batch before the transformation.

    Args:
        outcome: outcome of a transformed batch, with an assignment.
        image: index of the image in the transformed batch.
        mapping: places of the image's rows, anchors and classes in the transformed batch.
    """
    assignment = outcome.assignment
    assert assignment is not None, "an outcome without an assignment has no views"
    foreground = assignment.foreground[image, mapping.anchors]  # (A,)
    index = assignment.truth_index[image, mapping.anchors]  # (A,)
    stages = assignment.stages if len(mapping.truths) else None
    return ImageView(
        read=inputs_view(outcome.inputs, image, mapping),
        shown={}
        if stages is None
        else {name: mapping.pairs(getattr(stages, name)[image]) for name in STAGE_OF_FIELD},
        foreground=foreground,
        owner=mapping.rows(index).where(foreground, -1),
        labels=mapping.labels(assignment.labels[image, mapping.anchors]).where(foreground, 0),
        boxes=mapping.truth_boxes(assignment.boxes[image, mapping.anchors]),
        scores=assignment.scores[image, mapping.anchors][:, mapping.classes],
    )


def inputs_view(inputs: AssignerInputs, image: int, mapping: ImageMapping) -> dict[str, Tensor]:
    """Return the assigner's inputs of an image, in the layout of the given batch."""
    return {
        "centres": mapping.points(inputs.anchors[mapping.anchors]),
        "boxes": mapping.boxes(inputs.boxes[image, mapping.anchors]),
        "scores": inputs.scores[image, mapping.anchors][:, mapping.classes],
        "truths": mapping.truth_boxes(inputs.truth_boxes[image, mapping.truths]),
        "labels": mapping.labels(inputs.labels[image, mapping.truths, 0]),
    }
