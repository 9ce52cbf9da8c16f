"""The content of a batch, in float32 on the CPU, for the functions of this folder that find hazards in it."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import (
    INSIDE,
    anchors,
    ciou,
    decode,
    depth,
    flatten,
    pixel_boxes,
    widened,
)


class Shape(NamedTuple):
    """Edges and side lengths in pixels of one real ground truth (GT), computed in float32."""

    left: float
    top: float
    right: float
    bottom: float
    width: float
    height: float

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height in pixels."""
        return self.width, self.height


class Content:
    """The properties of a batch that the detectors of hazards need, such as candidates, overlaps and selected anchors.

    N is the number of annotation rows, n of real ground truths (GTs), B of images, A of anchors.

    All properties but the rows are computed on first use; overlaps are computed only for GTs and their candidates. Most
    batches have few GTs: loops over them in Python are faster than a dozen calls of torch.
    """

    def __init__(self, batch: Batch) -> None:
        self.head, self.size, self.k = batch.head, batch.size, batch.hyperparameters.topk
        self.hyperparameters = batch.hyperparameters
        self.alpha, self.beta = batch.hyperparameters.alpha, batch.hyperparameters.beta
        self.grids = batch.grids
        self.centres, self.strides = anchors(self.grids, self.head.strides)  # (A, 2), (A,)
        maps = [level.detach().to("cpu", torch.float32) for level in batch.feature_maps]
        self.distances, self.logits = flatten(maps, self.head)  # (B, A, 4, R), (B, A, C)
        rows = batch.annotations.detach().cpu()  # (N, 6)
        every_box = pixel_boxes(rows, self.size)  # (N, 4)
        real = every_box.sum(1) > 0  # (N,)   ANN-3
        image, labels = rows[:, :2].long().unbind(1)  # (N,), (N,)
        self.rows: list[int] = image.tolist()  # N images
        self.image, self.labels, self.boxes = image[real], labels[real], every_box[real]  # (n,), (n,), (n, 4)

    def has(self, what: str) -> bool:
        """Return True if the batch contains `what`, which a detector of a hazard needs.

        Args:
            what: "truth" for a real GT, "pair" for two GTs in one image, "candidate" for a candidate anchor,
                "contested" for an anchor that several GTs selected, "" for nothing.
        """
        match what:
            case "truth":
                return len(self.boxes) > 0
            case "pair":
                return len(self.pairs[0]) > 0
            case "candidate":
                return len(self.candidate_pairs[0]) > 0
            case "contested":
                return self.has("pair") and len(self.contested[0]) > 0
            case _:
                return True

    @cached_property
    def counts(self) -> list[int]:
        """Number of annotation rows of each of the B images, including rows that ANN-3 drops."""
        counts = [0] * self.logits.shape[0]
        for image in self.rows:
            counts[image] += 1
        return counts

    @cached_property
    def shapes(self) -> list[Shape]:
        """Edges and side lengths of each of the n real GTs."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]  # (n, 2)
        return [Shape(*numbers) for numbers in torch.cat((self.boxes, sides), dim=1).tolist()]

    @property
    def first_stride(self) -> int:
        """Stride of the first level in pixels. Releases that widen small boxes widen all sides shorter than it."""
        return self.head.strides[0]

    @property
    def floor(self) -> int:
        """Length in pixels to which TAL-CAND-2 widens shorter sides: the second level's stride, else the first's."""
        return self.head.strides[min(1, len(self.head.strides) - 1)]

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Indices (P,) and (P,) of the two GTs of every pair in the same image, in ascending order."""
        same = (self.image[:, None] == self.image).triu(1)  # (n, n)
        first, second = same.nonzero().unbind(1)
        return first, second

    @cached_property
    def pair_boxes(self) -> tuple[Tensor, Tensor]:
        """Boxes (P, 4) and (P, 4), xyxy in pixels, of the two GTs of every pair in the same image."""
        first, second = self.pairs
        return self.boxes[first], self.boxes[second]

    @cached_property
    def depth(self) -> Tensor:
        """Depth (n, A) in pixels of each anchor inside each GT's box, widened by TAL-CAND-2; negative outside."""
        return depth(self.centres, widened(self.boxes, self.floor))

    @cached_property
    def candidates(self) -> Tensor:
        """Mask (n, A) bool: True where the anchor is a candidate of the GT (TAL-CAND-1)."""
        return self.depth > INSIDE

    @cached_property
    def candidate_pairs(self) -> tuple[Tensor, Tensor]:
        """Indices (P,) of the GT and (P,) of the anchor of every pair of a GT and its candidate."""
        truth, anchor = self.candidates.nonzero().unbind(1)
        return truth, anchor

    @cached_property
    def predicted(self) -> Tensor:
        """Predicted boxes (P, 4), xyxy in pixels, of the anchors of `candidate_pairs`."""
        truth, anchor = self.candidate_pairs
        image = self.image[truth]  # (P,)
        if len(anchor) > self.rivals.numel():  # boxes are large or many: decode every anchor once
            return decode(self.distances, self.centres, self.strides)[image, anchor]
        return decode(self.distances[image, anchor], self.centres[anchor], self.strides[anchor])

    @cached_property
    def overlap(self) -> Tensor:
        """Overlap u (n, A) of every GT and anchor; zero for non-candidates (TAL-MET-1)."""
        truth, anchor = self.candidate_pairs
        overlap = torch.zeros(self.candidates.shape, dtype=torch.float32)
        overlap[truth, anchor] = ciou(self.boxes[truth], self.predicted).clamp(min=0)
        return overlap

    @cached_property
    def metric(self) -> Tensor:
        """Alignment metric t (n, A) of every GT and anchor; zero for non-candidates (TAL-MET-1)."""
        truth, anchor = self.candidate_pairs
        metric = torch.zeros(self.candidates.shape, dtype=torch.float32)
        score = self.logits[self.image[truth], anchor, self.labels[truth]].sigmoid()  # (P,)
        metric[truth, anchor] = score**self.alpha * self.overlap[truth, anchor] ** self.beta
        return metric

    @cached_property
    def ranked(self) -> tuple[Tensor, Tensor]:
        """The k + 1 largest metrics t of every GT, in descending order, and the anchors with these metrics.

        Both tensors are (n, min(k + 1, A)).
        """
        values, places = self.metric.topk(min(self.k + 1, self.metric.shape[1]), dim=1)
        return values, places

    @cached_property
    def selected(self) -> Tensor:
        """Mask (n, A) bool: True where the GT selects the anchor; one of the admissible selections (TAL-TOPK-1)."""
        best = self.ranked[1][:, : self.k]
        return torch.zeros_like(self.candidates).scatter(1, best, value=True) & self.candidates

    @cached_property
    def rivals(self) -> Tensor:
        """Number (B, A) of GTs of which the anchor is a candidate."""
        return self.by_image(self.candidates)

    @cached_property
    def contested(self) -> tuple[Tensor, Tensor]:
        """Indices (Q,) of the image and (Q,) of the anchor of every anchor that more than one GT selects."""
        image, anchor = (self.by_image(self.selected) > 1).nonzero().unbind(1)
        return image, anchor

    @cached_property
    def claims(self) -> tuple[Tensor, Tensor]:
        """Overlap u (n, Q) of all GTs with the Q contested anchors, and a mask (n, Q) bool of selected anchors.

        The overlap is -1 if the GT and the anchor are in different images; the mask is True if the GT selects the
        anchor.
        """
        image, anchor = self.contested
        same_image = self.image[:, None] == image  # (n, Q)
        return self.overlap[:, anchor].where(same_image, -1.0), self.selected[:, anchor] & same_image

    def by_image(self, mask: Tensor) -> Tensor:
        """Return for each image and anchor (B, A) the number of GTs for which the mask (n, A) is True."""
        counts = torch.zeros((self.logits.shape[0], mask.shape[1]), dtype=torch.int64)
        return counts.index_add(0, self.image, mask.long())  # (B, A)
