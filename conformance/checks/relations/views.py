"""How one image looks in a changed batch, and what an outcome says of it, told in the layout of the given batch.

M ground truths, A anchors, C classes, R bins. Everything that compares two runs of an implementation compares two
views of one image; what moved with the change is moved back here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import STAGE_OF_FIELD, AssignerInputs, Outcome


@dataclass(frozen=True)
class ImageMapping:
    """Where the parts of one image stand in a changed batch.

    Attributes:
        truths: (M,) int64 row of each of the image's ground truths.
        anchors: (A,) int64 place of each anchor.
        classes: (C,) int64 channel of each class.
        mirrored: 0 where x is mirrored, 1 where y is; None where nothing is.
        extent: pixels from border to border along that axis.
    """

    truths: Tensor
    anchors: Tensor
    classes: Tensor
    mirrored: int | None = None
    extent: int = 0

    def pairs(self, values: Tensor) -> Tensor:
        """(M, A) of (rows, A)."""
        return values[self.truths][:, self.anchors]

    def boxes(self, boxes: Tensor) -> Tensor:
        """xyxy boxes (.., 4) in pixels, as float64, in which mirroring rounds nothing."""
        boxes = boxes.double()
        if self.mirrored is None:
            return boxes
        low, high = self.mirrored, self.mirrored + 2
        back = boxes.clone()
        back[..., low], back[..., high] = self.extent - boxes[..., high], self.extent - boxes[..., low]
        return back

    def points(self, points: Tensor) -> Tensor:
        """x and y (.., 2) in pixels, as float64."""
        points = points.double().clone()
        if self.mirrored is not None:
            points[..., self.mirrored] = self.extent - points[..., self.mirrored]
        return points

    def sides(self, values: Tensor) -> Tensor:
        """(.., 4, R) left, top, right, bottom."""
        order = {None: (0, 1, 2, 3), 0: (2, 1, 0, 3), 1: (0, 3, 2, 1)}[self.mirrored]
        return values[..., order, :]

    def labels(self, labels: Tensor) -> Tensor:
        """Classes, as the given batch counts them; -1 for one that it has not."""
        names = torch.full((int(self.classes.max()) + 2,), -1, dtype=torch.long, device=labels.device)
        names[self.classes] = torch.arange(len(self.classes), device=labels.device)
        return names[labels.long().clamp(-1, len(names) - 1)]

    def rows(self, index: Tensor) -> Tensor:
        """Indices of ground truths, as the given batch counts them; -1 for one that is none of this image's."""
        size = int(self.truths.max()) + 2 if len(self.truths) else 1
        names = torch.full((size,), -1, dtype=torch.long, device=index.device)
        names[self.truths] = torch.arange(len(self.truths), device=index.device)
        return names[index.long().clamp(-1, len(names) - 1)]


def unchanged(batch: Batch, image: int) -> ImageMapping:
    """The look of an image of a batch in that batch itself."""
    count = int((batch.annotations[:, 0] == image).sum())
    device = batch.device
    return ImageMapping(
        torch.arange(count, device=device),
        torch.arange(batch.anchors, device=device),
        torch.arange(batch.head.classes, device=device),
    )


@dataclass(frozen=True)
class ImageView:
    """What an outcome says of one image.

    Attributes:
        read: what the assigner read: centres (A, 2), boxes (A, 4), scores (A, C), truths (M, 4), labels (M,).
        shown: the stages of the assigner by name, (M, A) each; empty where it shows none.
        foreground: (A,) bool.
        owner: (A,) int64 index of the ground truth, -1 on background.
        labels: (A,) int64 target class; read on foreground alone.
        boxes: (A, 4) float64 target box in pixels; read on foreground alone.
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
        """(M, A) which ground truth owns which anchor, by the outputs."""
        rows = torch.arange(len(self.read["truths"]), device=self.owner.device)[:, None]  # (M, 1)
        return rows == self.owner

    def equals(self, other: "ImageView") -> bool:
        """Whether two views are the same to the bit, wherever they mean something."""
        here = self.foreground
        return (
            torch.equal(here, other.foreground)
            and torch.equal(self.owner, other.owner)
            and torch.equal(self.scores, other.scores)
            and torch.equal(self.labels[here], other.labels[here])
            and torch.equal(self.boxes[here], other.boxes[here])
            and all(torch.equal(value, other.read[name]) for name, value in self.read.items())
            and all(torch.equal(value, other.shown[name]) for name, value in self.shown.items())
        )


def view(outcome: Outcome, image: int, look: ImageMapping) -> ImageView:
    """What an outcome says of an image of its own batch, told in the layout of the given batch."""
    assignment = outcome.assignment
    assert assignment is not None, "a loss that shows no assignment has no views"
    foreground = assignment.foreground[image, look.anchors]  # (A,)
    index = assignment.truth_index[image, look.anchors]  # (A,)
    stages = assignment.stages if len(look.truths) else None
    return ImageView(
        read=inputs_view(outcome.inputs, image, look),
        shown={}
        if stages is None
        else {name: look.pairs(getattr(stages, name)[image]) for name in STAGE_OF_FIELD},
        foreground=foreground,
        owner=look.rows(index).where(foreground, -1),
        labels=look.labels(assignment.labels[image, look.anchors]).where(foreground, 0),
        boxes=look.boxes(assignment.boxes[image, look.anchors]),
        scores=assignment.scores[image, look.anchors][:, look.classes],
    )


def inputs_view(inputs: AssignerInputs, image: int, look: ImageMapping) -> dict[str, Tensor]:
    """What the assigner read of an image."""
    return {
        "centres": look.points(inputs.anchors[look.anchors]),
        "boxes": look.boxes(inputs.boxes[image, look.anchors]),
        "scores": inputs.scores[image, look.anchors][:, look.classes],
        "truths": look.boxes(inputs.truth_boxes[image, look.truths]),
        "labels": look.labels(inputs.labels[image, look.truths, 0]),
    }
