"""Hazards of rotated boxes, found in a batch's content by geometry of its own (specification section 20).

"Row" refers to any annotation; "GT" to rows that are not dropped (OBB-ANN-2, OBB-ANN-3); u is the overlap probIoU.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.batches.hazards.registry import hazard
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import anchors, flatten
from tal_conformance.core.task import OBB

ROTATED = (OBB.name,)
BESIDE = 0.01
"""Largest difference in radians of an angle "just beside" a special one."""


class TurnedContent:
    """The properties of a batch of rotated boxes that the detectors need; float64, on the CPU.

    N is the number of annotation rows, n of GTs, B of images, A of anchors.
    """

    def __init__(self, batch: Batch) -> None:
        self.head, self.k, self.size = batch.head, batch.hyperparameters.topk, batch.size
        self.centres, strides = anchors(batch.grids, batch.head.strides)  # (A, 2), (A,)
        self.strides = strides.double()
        maps = [level.detach().cpu().float() for level in batch.feature_maps]
        self.distances, self.logits = flatten(maps, batch.head)  # (B, A, 4, R), (B, A, C)
        self.turns = torch.cat([level[:, -1].flatten(1) for level in maps], dim=1).double()  # (B, A)
        rows = batch.annotations.detach().cpu()  # (N, 7)
        height, width = batch.size
        self.rows: list[int] = rows[:, 0].long().tolist()
        self.pixels = rows[:, 4:6] * torch.tensor((width, height))  # (N, 2) sides, float32
        large = (self.pixels >= 2).all(1)  # (N,) OBB-ANN-2
        boxes = rows[:, 2:].double() * torch.tensor((width, height, width, height, 1.0), dtype=torch.float64)
        real = boxes.sum(1) > 0  # (N,) OBB-ANN-3
        self.large, self.real = large, real
        is_gt = large & real
        self.boxes, self.image, self.labels = boxes[is_gt], rows[is_gt, 0].long(), rows[is_gt, 1].long()

    def has(self, what: str) -> bool:
        """Return True if the batch contains `what`: a GT ("truth"), two GTs in one image ("pair"), or nothing ("")."""
        match what:
            case "truth":
                return len(self.boxes) > 0
            case "pair":
                return len(self.pairs[0]) > 0
            case _:
                return True

    @cached_property
    def counts(self) -> list[int]:
        """Number of annotation rows of each of the B images."""
        return [self.rows.count(image) for image in range(self.logits.shape[0])]

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Indices (P,) and (P,) of the two GTs of every pair in the same image."""
        first, second = (self.image[:, None] == self.image).triu(1).nonzero().unbind(1)
        return first, second

    @property
    def floor(self) -> int:
        """Length in pixels to which shorter sides are widened: the second stride, else the first (OBB-CAND-1)."""
        return self.head.strides[min(1, len(self.head.strides) - 1)]

    @cached_property
    def sides(self) -> Tensor:
        """(n, 2) sides of the GTs in pixels."""
        return self.boxes[:, 2:4]

    @cached_property
    def depth(self) -> Tensor:
        """(n, A) distance in pixels of each anchor to the nearest edge of each GT, widened; negative outside."""
        half = self.sides.clamp(min=self.floor)[:, None] / 2  # (n, 1, 2)
        x, y = (self.centres.double() - self.boxes[:, None, :2]).unbind(-1)  # (n, A) twice
        cos, sin = self.boxes[:, 4:].cos(), self.boxes[:, 4:].sin()  # (n, 1) twice
        offset = torch.stack((x * cos + y * sin, y * cos - x * sin), dim=-1)  # (n, A, 2)
        return (half - offset.abs()).amin(-1)

    @cached_property
    def predicted(self) -> Tensor:
        """(B, A, 5) predicted boxes in pixels and radians."""
        reg_max = self.distances.shape[-1]
        bins = torch.arange(reg_max, dtype=torch.float64)  # (R,)
        raw = self.distances.double()  # (B, A, 4, R)
        sides = raw.squeeze(-1) if reg_max == 1 else raw.softmax(-1) @ bins  # (B, A, 4)
        left_top, right_bottom = (sides * self.strides[:, None]).chunk(2, dim=-1)  # (B, A, 2) twice
        x, y = ((right_bottom - left_top) / 2).unbind(-1)
        cos, sin = self.turns.cos(), self.turns.sin()
        centre = self.centres.double() + torch.stack((x * cos - y * sin, x * sin + y * cos), dim=-1)
        return torch.cat((centre, left_top + right_bottom, self.turns[..., None]), dim=-1)

    @cached_property
    def distance(self) -> Tensor:
        """(n, A) Bhattacharyya distance B of each GT and the prediction of each anchor of its image (OBB-IOU-1)."""
        return bhattacharyya(self.boxes[:, None], self.predicted[self.image])

    @cached_property
    def candidates(self) -> Tensor:
        """(n, A) bool: True for candidates (OBB-CAND-1)."""
        return self.depth >= 0


def bhattacharyya(first: Tensor, second: Tensor) -> Tensor:
    """Return the Bhattacharyya distance of two boxes (.., 5), without any eps; infinite if a box has no area."""

    def entries(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, _, w, h, angle = boxes.unbind(-1)
        along, across, cos, sin = w.square() / 12, h.square() / 12, angle.cos(), angle.sin()
        return (
            along * cos**2 + across * sin**2,
            along * sin**2 + across * cos**2,
            (along - across) * cos * sin,
        )

    (a1, b1, c1), (a2, b2, c2) = entries(first), entries(second)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    dx, dy = (first - second)[..., :2].unbind(-1)
    det = a * b - c * c
    own = (
        (first[..., 2] * first[..., 3] / 12) * (second[..., 2] * second[..., 3] / 12)
    ).abs()  # roots of both
    return (b * dx**2 + a * dy**2 - 2 * c * dx * dy) / (4 * det) + (det / (4 * own)).log() / 2


def _off_quarter(angles: Tensor) -> Tensor:
    """Return the distance of angles from the nearest multiple of 45 degrees."""
    return (angles / (math.pi / 4) - (angles / (math.pi / 4)).round()).abs() * (math.pi / 4)


@hazard("truth", tasks=ROTATED)
def special_angle(content: TurnedContent) -> Tensor:
    """A GT's angle is a multiple of 45 degrees, up to rounding."""
    return (_off_quarter(content.boxes[:, 4]) < 1e-6).any()


@hazard("truth", tasks=ROTATED)
def beside_special_angle(content: TurnedContent) -> Tensor:
    """A GT's angle is just beside a multiple of 45 degrees."""
    off = _off_quarter(content.boxes[:, 4])
    return ((off > 1e-6) & (off < BESIDE)).any()


@hazard("truth", tasks=ROTATED)
def unusual_angle(content: TurnedContent) -> Tensor:
    """A GT's angle lies outside [-pi/4, 3 pi/4), the range of the data loader."""
    return ((content.boxes[:, 4] < -math.pi / 4) | (content.boxes[:, 4] >= 3 * math.pi / 4)).any()


@hazard("truth", tasks=ROTATED)
def many_turns(content: TurnedContent) -> Tensor:
    """A GT's angle is beyond a full turn."""
    return (content.boxes[:, 4].abs() > 2 * math.pi).any()


@hazard("truth", tasks=ROTATED)
def square(content: TurnedContent) -> Tensor:
    """A GT is a square: its angle is ambiguous, and has full weight (OBB-ANG-1)."""
    return (content.sides[:, 0] == content.sides[:, 1]).any()


@hazard("truth", tasks=ROTATED)
def upright(content: TurnedContent) -> Tensor:
    """A GT's first side is the shorter one, which the data loader never gives."""
    return (content.sides[:, 0] < content.sides[:, 1]).any()


@hazard("truth", tasks=ROTATED)
def elongated(content: TurnedContent) -> Tensor:
    """A GT is at least 20 times as long as it is wide."""
    return (content.sides.amax(1) >= 20 * content.sides.amin(1)).any()


@hazard("truth", tasks=ROTATED)
def below_floor(content: TurnedContent) -> Tensor:
    """A side is below the second stride: OBB-CAND-1 widens it."""
    return (content.sides < content.floor).any()


@hazard("truth", tasks=ROTATED)
def turned_edge_on_centre(content: TurnedContent) -> Tensor:
    """The centre of an anchor lies on an edge, up to rounding (OBB-CAND-1, ambiguity T7).

    The edge is that of a GT whose small sides are widened.
    """
    return (content.depth.abs() < 1e-4).any()


@hazard(tasks=ROTATED)
def row_of_two_pixels(content: TurnedContent) -> Tensor:
    """A side is from 1.98 to 2.02 px (OBB-ANN-2)."""
    return ((content.pixels - 2).abs() < 0.02).any()


@hazard(tasks=ROTATED)
def row_too_small(content: TurnedContent) -> Tensor:
    """A row is dropped because a side is below 2 px (OBB-ANN-2)."""
    return (~content.large).any()


@hazard(tasks=ROTATED)
def all_rows_too_small(content: TurnedContent) -> bool:
    """The batch has rows, and all are dropped because a side is below 2 px (OBB-ANN-2)."""
    return len(content.rows) > 0 and not bool(content.large.any())


@hazard(tasks=ROTATED)
def small_row_between(content: TurnedContent) -> bool:
    """A row that is dropped precedes a kept row of its image: indices of GTs are not those of rows (OBB-ANN-2)."""
    large = content.large.tolist()
    rows = [*zip(content.rows, large, strict=True)]
    return any(not is_large and (image, True) in rows[at:] for at, (image, is_large) in enumerate(rows))


@hazard(tasks=ROTATED)
def negative_sum_with_angle(content: TurnedContent) -> Tensor:
    """A row of sufficient size is not real: pixels and radians add up to zero or less (OBB-ANN-3)."""
    return (content.large & ~content.real).any()


@hazard(tasks=ROTATED)
def no_row(content: TurnedContent) -> bool:
    """No image has a row (TAL-EMPTY-1)."""
    return not content.rows


@hazard(tasks=ROTATED)
def unequal_rows(content: TurnedContent) -> bool:
    """Images have unequal numbers of rows, so that a padded implementation pads (ANN-4)."""
    return len(set(content.counts)) > 1


@hazard("truth", tasks=ROTATED)
def centre_outside(content: TurnedContent) -> Tensor:
    """The centre of a GT lies outside the input."""
    height, width = content.size
    x, y = content.boxes[:, :2].unbind(1)
    return ((x < 0) | (y < 0) | (x > width) | (y > height)).any()


@hazard("truth", tasks=ROTATED)
def turned_no_candidates(content: TurnedContent) -> Tensor:
    """A GT has no candidate."""
    return (~content.candidates.any(1)).any()


@hazard("truth", tasks=ROTATED)
def turned_many_candidates(content: TurnedContent) -> Tensor:
    """A GT has more candidates than k with u > 0.01 (TAL-TOPK-1)."""
    close = content.candidates & (content.distance < 4)
    return (close.sum(1) > content.k).any()


@hazard("truth", tasks=ROTATED)
def exact_hit(content: TurnedContent) -> Tensor:
    """A candidate predicts its GT exactly, up to rounding: B is clamped from below, without gradient (OBB-IOU-2).

    B is the Bhattacharyya distance of the GT and the predicted box.
    """
    return (content.candidates & (content.distance < 1e-7)).any()


@hazard("truth", tasks=ROTATED)
def nearly_equal(content: TurnedContent) -> Tensor:
    """A candidate predicts its GT nearly: rounding of B changes u visibly (1e-7 < B < 1e-4).

    B is the Bhattacharyya distance of the GT and the predicted box, u their overlap (probIoU).
    """
    return (content.candidates & (content.distance > 1e-7) & (content.distance < 1e-4)).any()


@hazard("truth", tasks=ROTATED)
def far_apart(content: TurnedContent) -> Tensor:
    """A candidate's prediction is so far from its GT that B is clamped at 100 (OBB-IOU-2).

    B is the Bhattacharyya distance of the GT and the predicted box.
    """
    return (content.candidates & (content.distance > 100)).any()


@hazard("truth", tasks=ROTATED)
def angle_off_by_quarters(content: TurnedContent) -> Tensor:
    """A candidate's angle differs from its GT's by a multiple of 90 degrees other than 0: angle loss 0 (OBB-ANG-1)."""
    off = (content.turns[content.image] - content.boxes[:, 4:]) / (math.pi / 2)  # (n, A)
    return (content.candidates & ((off - off.round()).abs() < 1e-5) & (off.round() != 0)).any()


@hazard("truth", tasks=ROTATED)
def inside_out(content: TurnedContent) -> Tensor:
    """A candidate predicts a box with a negative side, which probIoU cannot see (OBB-IOU-2)."""
    negative = (content.predicted[content.image][..., 2:4] < 0).any(-1)  # (n, A)
    return (content.candidates & negative).any()


@hazard("truth", tasks=ROTATED)
def zero_side_predicted(content: TurnedContent) -> Tensor:
    """A candidate predicts a box with a side of zero: its determinant is zero (OBB-IOU-1).

    The determinant is that of the covariance matrix of the box's Gaussian.
    """
    flat = (content.predicted[content.image][..., 2:4].abs() < 1e-6).any(-1)  # (n, A)
    return (content.candidates & flat).any()


@hazard("truth", tasks=ROTATED)
def turned_in_non_square_input(content: TurnedContent) -> bool:
    """Height and width of the input differ, and a GT is turned (OBB-ANN-1, OBB-DFL-1)."""
    height, width = content.size
    return height != width and bool((content.boxes[:, 4].sin().abs() > 0.1).any())


@hazard("pair", tasks=ROTATED)
def one_set_in_two_forms(content: TurnedContent) -> Tensor:
    """Two GTs of one image are the same set of points, in the same or another form: u is equal up to rounding (T2).

    Another form has exchanged sides and an angle that differs by 90 degrees, or an angle that differs by 180 degrees.
    The overlap u of any predicted box with the two GTs is then the same.
    """
    first, second = content.pairs
    return (bhattacharyya(content.boxes[first], content.boxes[second]) < 1e-7).any()


@hazard("pair", tasks=ROTATED)
def turned_contested(content: TurnedContent) -> Tensor:
    """Two GTs of one image share a candidate."""
    first, second = content.pairs
    return (content.candidates[first] & content.candidates[second]).any()


@hazard(tasks=ROTATED)
def one_level(content: TurnedContent) -> bool:
    """The head has a single level, whose stride is the floor of sides (OBB-CAND-1)."""
    return len(content.head.strides) == 1
