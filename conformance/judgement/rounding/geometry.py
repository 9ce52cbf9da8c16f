"""Geometry of upright and of rotated boxes: all that the judgement of an assignment needs to know about boxes (COR-4).

Each kind of boxes has its own candidates and overlap; metric, top-k, conflict, targets and normalisation are shared.

B images, M ground truths of an image, A anchors, P pairs of a ground truth and an anchor.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs
from tal_conformance.core.task import DETECT, OBB, POSE, POSE26, SEGMENT, SEGMENT26
from tal_conformance.judgement.rounding.bounds import (
    ROUNDINGS,
    bound,
    boxes_unit,
    converts_exactly,
    distance_unit,
    overlap_unit,
    smallest,
    truth_unit,
)
from tal_conformance.judgement.rounding.probiou import Probiou, TurnedBox
from tal_reference import (
    Dialect,
    GroundTruths,
    Hyperparameters,
    Predictions,
    RotatedPredictions,
    assignment,
    probiou,
    rotated,
)
from tal_reference.assignment import INSIDE, distance_inside, widened
from tal_reference.decoding import expected_distances
from tal_reference.varied_assignment import counting, farthest_side, off_centre
from tal_reference.varied_boxes import MEASURES


@dataclass(frozen=True)
class InputErrors:
    """Possible differences between the inputs that an implementation read and the reference's inputs.

    Attributes:
        boxes: (A,) largest difference of a predicted box's edges, in pixels; rotated: of its centre and sides.
        scores: (A, C) largest difference of a class score.
        truths: (M, 4) largest difference of an edge of a ground truth, in pixels; rotated: (M, 5), of centre, sides and
            angle.
        around: the inputs to which the differences refer; None: the inputs that were passed to the implementation.
    """

    boxes: Tensor
    scores: Tensor
    truths: Tensor
    around: AssignerInputs | None = None


@dataclass(frozen=True)
class Pairs:
    """P pairs of a ground truth and an anchor, and what an assigner read of them.

    Attributes:
        image, truth, anchor: (P,) indices of the images, of the ground truths in them, and of the anchors.
        truth_boxes, boxes: (P, box) ground truths and predicted boxes.
        scores: (P,) class scores.
        certain: (P,) bool, False for pairs of which rounding decides whether the anchor is a candidate.
        moved: (P,) largest difference of the edges of both boxes in pixels; 0.0 if they are the implementation's own.
        score_errors: (P,) largest difference of the scores; 0.0 if they are the implementation's own.
        attained: True if a difference as large as `moved` may really occur, see `Geometry.overlap_error`.
    """

    image: Tensor
    truth: Tensor
    anchor: Tensor
    truth_boxes: Tensor
    boxes: Tensor
    scores: Tensor
    certain: Tensor
    moved: Tensor | float = 0.0
    score_errors: Tensor | float = 0.0
    attained: bool = False

    @property
    def exact_boxes(self) -> tuple[Tensor, Tensor]:
        """Ground truths and predicted boxes in float64, (P, box) each."""
        return self.truth_boxes.double(), self.boxes.double()


class Geometry(Protocol):
    """Operations on the boxes of one task."""

    def of_image(self, image: int) -> "Geometry":
        """Return the geometry of one image, which keypoints or masks may be part of."""

    def pair_overlaps(
        self, pairs: Pairs, dtype: torch.dtype, dialect: Dialect, hyperparameters: Hyperparameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the overlap u of pairs, (P,) each: of the reference in the pairs' dtype, in float64, and its bound.

        Args:
            pairs: the pairs of all images.
            dtype: dtype of the overlap.
            dialect: the dialect to follow.
            hyperparameters: k, alpha and beta, which decide where masks are compared (S26-2).
        """

    def boxes_unit(self, predictions: Predictions, reg_max: int, eps: float) -> Tensor:
        """Return the error (B, A, box) in pixels of all decoded boxes, caused by one rounding in each operation."""

    def truth_unit(self, boxes: Tensor, eps: float) -> Tensor:
        """Return the error of ground truths (.., box) converted from annotation rows, by one rounding per operation."""

    def converts_exactly(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return True for each normalised box (N, box) whose conversion to pixels is exact."""

    def candidates_within(
        self,
        small: GroundTruths,
        large: GroundTruths,
        centres: Tensor,
        floor: tuple[int, int],
        eps: float,
        errors: InputErrors | None,
        dialect: Dialect,
        reach: Tensor | None = None,
        radius: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the pairs (M, A) that are certainly candidates, and the pairs that may be candidates.

        Args:
            small: boxes (M, box) of the ground truths as the implementation read them.
            large: the same boxes in float64.
            centres: (A, 2) anchor centres in pixels, float64.
            floor: sides below the first number are widened to the second, both in pixels.
            eps: machine epsilon of the implementation's dtype.
            errors: possible differences of the inputs; None if they are the implementation's own.
            dialect: decides whether an anchor on an edge is a candidate, and which ground truths are real.
            reach: (A, 1) largest distance in pixels from a side; None: unlimited.
            radius: (A, 1) distance in pixels from a ground truth's centre that a candidate is below; None: unlimited.
        """

    def candidates_of(self, truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
        """Return the candidates (M, A) as the reference computes them."""

    def overlap(self, truths: Tensor, boxes: Tensor, dialect: Dialect) -> Tensor:
        """Return the overlap (P,) of pairs of boxes, before it is clamped."""

    def overlap_error(
        self,
        naive: Tensor,
        overlap: Tensor,
        boxes: tuple[Tensor, Tensor],
        moved: Tensor | float,
        attained: bool,
        dtype: torch.dtype,
        dialect: Dialect,
    ) -> Tensor:
        """Return the bound (P,) of the overlap u.

        Args:
            naive: (P,) u of the reference in the implementation's dtype.
            overlap: (P,) u in float64.
            boxes: (P, box) ground truth and prediction of every pair, float64.
            moved: (P,) largest difference of the edges of both boxes in pixels.
            attained: True if a difference as large as `moved` may really occur: `moved` comes from an enclosure, not
                from a sum of roundings that partly cancel.
            dtype: dtype of the overlap.
            dialect: the dialect to follow.
        """

    def overlaps_of(self, truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
        """Return the overlap u (M, A) of candidates as the reference computes it; zero elsewhere."""

    def on_edge(
        self, boxes: Tensor, centres: Tensor, floor: tuple[int, int], eps: float, error: Tensor | None
    ) -> Tensor:
        """Return (M, A) bool: True if rounding decides whether the centre lies inside the ground truth's box.

        Args:
            boxes: (M, box) ground truths, float64.
            centres: (A, 2) anchor centres in pixels, float64.
            floor: sides below the first number are widened to the second, both in pixels.
            eps: machine epsilon of the ground truths' dtype.
            error: (M, box) possible difference of the ground truths; None if they are exact.
        """

    def beside(self, boxes: Tensor, centres: Tensor, least: int) -> Tensor:
        """Return (M, A) bool: True if only a box with sides widened to `least` pixels can contain the centre."""

    def widened(self, boxes: Tensor, floor: tuple[int, int]) -> Tensor:
        """Return boxes (M, box) with widened sides (TAL-CAND-2)."""


class BoxesAlone:
    """Overlaps of boxes, on which nothing else depends."""

    def of_image(self: Geometry, image: int) -> Geometry:
        """Return the geometry itself: it is that of every image."""
        return self

    def pair_overlaps(
        self: Geometry, pairs: Pairs, dtype: torch.dtype, dialect: Dialect, hyperparameters: Hyperparameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the overlaps of boxes (TAL-MET-1); see `Geometry.pair_overlaps`."""
        exact = pairs.exact_boxes
        naive, overlap = (
            self.overlap(*boxes, dialect) for boxes in ((pairs.truth_boxes, pairs.boxes), exact)
        )  # (P,) twice
        if not dialect.signed_overlap:
            naive, overlap = naive.clamp(min=0), overlap.clamp(min=0)
        error = self.overlap_error(naive, overlap, exact, pairs.moved, pairs.attained, dtype, dialect)
        return naive, overlap, error


class UprightBoxes(BoxesAlone):
    """Boxes xyxy in pixels, with IoU, CIoU or the overlap that a dialect chooses."""

    def boxes_unit(self, predictions: Predictions, reg_max: int, eps: float) -> Tensor:
        """Return the rounding error (B, A, 4) in pixels of all decoded boxes (DEC-2)."""
        return boxes_unit(predictions, reg_max, eps) * predictions.anchors.strides

    def truth_unit(self, boxes: Tensor, eps: float) -> Tensor:
        """Return the rounding error in pixels of boxes (.., 4) converted from annotation rows (ANN-1)."""
        return truth_unit(boxes, eps)

    def converts_exactly(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return True for each box (N, 4) whose conversion to pixels is exact in every order (ANN-1)."""
        return converts_exactly(boxes, size)

    def candidates_within(
        self,
        small: GroundTruths,
        large: GroundTruths,
        centres: Tensor,
        floor: tuple[int, int],
        eps: float,
        errors: InputErrors | None,
        dialect: Dialect,
        reach: Tensor | None = None,
        radius: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return certain and possible candidates (TAL-CAND-1, TAL-CAND-2); see `Geometry.candidates_within`."""
        edge = edge_rounding(small, floor, large, eps)  # (M, 1)
        if errors is not None:
            edge = edge + 2 * errors.truths.amax(1, keepdim=True)
        inside = distance_inside(large.boxes, centres, floor)  # (M, A)
        real = counting(large, dialect)[:, None]
        if dialect.edge_counts:
            certain, possible = (inside >= edge) & real, (inside >= -edge) & real
        else:
            certain, possible = (inside > INSIDE + edge) & real, (inside > INSIDE - edge) & real
        if reach is not None:
            farthest = farthest_side(large.boxes, centres)  # (M, A)
            # of the difference, the division and the product
            rounded = edge + ROUNDINGS * eps * (centres.amax(1) + farthest)  # (M, A)
            certain, possible = (
                certain & (farthest <= reach.T - rounded),
                possible & (farthest <= reach.T + rounded),
            )
        if radius is not None:
            distance = off_centre(large.boxes, centres)  # (M, A)
            # a box's centre errs as its edges do; sum, difference, and division or product are rounded too
            rounded = edge + ROUNDINGS * eps * (centres.amax(1) + distance)  # (M, A)
            certain, possible = (
                certain & (distance < radius.T - rounded),
                possible & (distance < radius.T + rounded),
            )
        return certain, possible

    def candidates_of(self, truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
        """Return the candidates (M, A) as the reference computes them (TAL-CAND-1)."""
        return assignment.candidates_of(truths, centres, floor)

    def overlap(self, truths: Tensor, boxes: Tensor, dialect: Dialect) -> Tensor:
        """Return the dialect's overlap (P,) of pairs of boxes (IOU-1)."""
        return MEASURES[dialect.overlap](truths, boxes)

    def overlap_error(
        self,
        naive: Tensor,
        overlap: Tensor,
        boxes: tuple[Tensor, Tensor],
        moved: Tensor | float,
        attained: bool,
        dtype: torch.dtype,
        dialect: Dialect,
    ) -> Tensor:
        """Return the bound (P,) of u from its rounding unit (IOU-1); see `Geometry.overlap_error`."""
        unit = overlap_unit(dialect.overlap, *boxes, 0.0 if attained else moved, torch.finfo(dtype).eps)
        error = bound(naive, overlap, unit, dtype, "overlap u")
        return error + overlap_unit(dialect.overlap, *boxes, moved, 0.0) if attained else error

    def overlaps_of(self, truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
        """Return CIoU, at least zero, of candidates (M, A) (TAL-MET-1)."""
        return assignment.overlaps_of(truths, boxes, candidates)

    def on_edge(
        self, boxes: Tensor, centres: Tensor, floor: tuple[int, int], eps: float, error: Tensor | None
    ) -> Tensor:
        """Return (M, A) bool: True if rounding decides whether the centre lies inside the box (TAL-CAND-1)."""
        inside = distance_inside(boxes, centres, floor)  # (M, A)
        edge = INSIDE + ROUNDINGS * eps * boxes.abs().amax(1, keepdim=True)  # (M, 1)
        if error is not None:
            edge = edge + 2 * error.amax(1, keepdim=True)
        return inside.abs() <= edge

    def beside(self, boxes: Tensor, centres: Tensor, least: int) -> Tensor:
        """Return (M, A) bool: True if only a box with widened sides can contain the centre (TAL-CAND-2)."""
        small = boxes[:, 2:] - boxes[:, :2] < least  # (M, 2) some dialect widens it
        outside = (centres[:, None] <= boxes[:, :2]) | (centres[:, None] >= boxes[:, 2:])  # (A, M, 2)
        return (small & outside).any(2).T

    def widened(self, boxes: Tensor, floor: tuple[int, int]) -> Tensor:
        """Return boxes (M, 4) with widened sides (TAL-CAND-2)."""
        return widened(boxes, floor)


def edge_rounding(truths: GroundTruths, floor: tuple[int, int], exact: GroundTruths, eps: float) -> Tensor:
    """Return the rounding error (M, 1) in pixels of box edges after widening about the box's centre (TAL-CAND-2).

    If centre, sides and widened edges are equal in the implementation's dtype and in float64, every way to compute them
    is exact, and the error is zero.
    """
    rounded, wanted = (
        torch.cat(_centres_and_edges(boxes, floor), 1) for boxes in (truths.boxes, exact.boxes)
    )  # (M, 8)
    sharp = (rounded.double() == wanted).all(1)  # (M,)
    error = ROUNDINGS * eps * exact.boxes.abs().amax(1)  # (M,)
    return error.where(~sharp, 0)[:, None]  # (M, 1)


def _centres_and_edges(boxes: Tensor, floor: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return the doubled centres, the sides, and the edges after widening, of boxes (M, 4)."""
    left_top, right_bottom = boxes.chunk(2, dim=1)  # (M, 2), (M, 2)
    return left_top + right_bottom, right_bottom - left_top, widened(boxes, floor)


class RotatedBoxes(BoxesAlone):
    """Boxes (cx, cy, w, h, angle) in pixels and radians, with probIoU (OBB-*)."""

    def boxes_unit(self, predictions: Predictions, reg_max: int, eps: float) -> Tensor:
        """Return the rounding error (B, A, 5) in pixels of all decoded boxes; angles are exact (OBB-DEC-2)."""
        assert isinstance(predictions, RotatedPredictions)
        error = distance_unit(predictions.distances, reg_max, eps)  # (B, A, 4)
        sides = expected_distances(predictions.distances, reg_max)  # (B, A, 4)
        (left_top, right_bottom), (first, second) = sides.chunk(2, -1), error.chunk(2, -1)
        half = (right_bottom - left_top).abs() / 2  # (B, A, 2)
        half_error = (first + second) / 2 + 4 * eps * half  # difference, cosine, product and sum
        cos, sin = predictions.angles.cos().abs(), predictions.angles.sin().abs()  # (B, A, 1) twice
        x, y = half_error.chunk(2, -1)
        turned = torch.cat((x * cos + y * sin, x * sin + y * cos), dim=-1)  # (B, A, 2)
        centre = turned + eps * (predictions.boxes[..., :2].abs() + predictions.anchors.centres)
        extent = first + second + eps * (left_top + right_bottom).abs()  # (B, A, 2)
        unit = torch.cat((centre, extent), dim=-1) * predictions.anchors.strides
        return torch.cat((unit, torch.zeros_like(cos)), dim=-1)

    def truth_unit(self, boxes: Tensor, eps: float) -> Tensor:
        """Return the rounding error of boxes (.., 5) converted from annotation rows; angles are exact (OBB-ANN-1)."""
        return eps * boxes.abs() * boxes.new_tensor((1, 1, 1, 1, 0))

    def converts_exactly(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return True for each box (N, 5) whose conversion to pixels is exact (OBB-ANN-1)."""
        height, width = size
        scale = boxes.new_tensor((width, height, width, height, 1))
        return ((boxes * scale).double() == boxes.double() * scale.double()).all(1)

    def candidates_within(
        self,
        small: GroundTruths,
        large: GroundTruths,
        centres: Tensor,
        floor: tuple[int, int],
        eps: float,
        errors: InputErrors | None,
        dialect: Dialect,
        reach: Tensor | None = None,
        radius: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return certain and possible candidates, edges included (OBB-CAND-1); see `Geometry.candidates_within`."""
        boxes = rotated.widened(large.boxes, floor)  # (M, 5)
        inside, edge = turned_depth(boxes, centres), turned_edge(boxes, centres, eps)  # (M, A, 2) twice
        edge = edge.where(~_sharp(small, boxes, centres, floor)[:, None, None], 0)
        if errors is not None:
            edge = edge + 2 * errors.truths.amax(1)[:, None, None]  # of the centre, and of half a side
        real = large.real[:, None]
        return (inside >= edge).all(2) & real, (inside >= -edge).all(2) & real

    def candidates_of(self, truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
        """Return the candidates (M, A) as the reference computes them (OBB-CAND-1)."""
        return rotated.candidates_of(truths, centres, floor)

    def overlap(self, truths: Tensor, boxes: Tensor, dialect: Dialect) -> Tensor:
        """Return probIoU (P,) of pairs of boxes (OBB-MET-1)."""
        return probiou(truths, boxes)

    def overlap_error(
        self,
        naive: Tensor,
        overlap: Tensor,
        boxes: tuple[Tensor, Tensor],
        moved: Tensor | float,
        attained: bool,
        dtype: torch.dtype,
        dialect: Dialect,
    ) -> Tensor:
        """Return the bound (P,) of u from its enclosure (OBB-IOU-1); see `Geometry.overlap_error`."""
        eps = torch.finfo(dtype).eps
        error = moved[:, None] if isinstance(moved, Tensor) else moved
        first, second = (TurnedBox.around(box, error, eps) for box in boxes)
        value = Probiou(first, second).value.clamp(low=0.0)
        return value.distance_from(overlap) + smallest(dtype)

    def overlaps_of(self, truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
        """Return probIoU, at least zero, of candidates (M, A) (OBB-MET-1)."""
        return rotated.overlaps_of(truths, boxes, candidates)

    def on_edge(
        self, boxes: Tensor, centres: Tensor, floor: tuple[int, int], eps: float, error: Tensor | None
    ) -> Tensor:
        """Return (M, A) bool: True if rounding decides whether the centre lies inside the box (T7)."""
        wide = rotated.widened(boxes, floor)  # (M, 5)
        inside, edge = turned_depth(wide, centres), turned_edge(wide, centres, eps)  # (M, A, 2) twice
        if error is not None:
            edge = edge + 2 * error.amax(1)[:, None, None]
        return (inside.abs() <= edge).any(2) & (inside >= -edge).all(2)

    def beside(self, boxes: Tensor, centres: Tensor, least: int) -> Tensor:
        """Return (M, A) bool: True if only a box with widened sides can contain the centre (TAL-CAND-2)."""
        small = boxes[:, None, 2:4] < least  # (M, 1, 2)
        return (small & (turned_depth(boxes, centres) < 0)).any(2)

    def widened(self, boxes: Tensor, floor: tuple[int, int]) -> Tensor:
        """Return boxes (M, 5) with widened sides (OBB-CAND-1)."""
        return rotated.widened(boxes, floor)


def turned_depth(boxes: Tensor, centres: Tensor) -> Tensor:
    """Return the distance (M, A, 2) in pixels of centres (A, 2) inside the nearer edge of boxes (M, 5) along each axis.

    For centres outside of the box, the distances are negative.
    """
    offset = rotated.to_own_frame(centres - boxes[:, None, :2], boxes[:, None, 4:])  # (M, A, 2)
    return boxes[:, None, 2:4] / 2 - offset.abs()


def turned_edge(boxes: Tensor, centres: Tensor, eps: float) -> Tensor:
    """Return the rounding error (M, A, 2) of `turned_depth` in pixels, for a test by axes or by corners (OBB-CAND-1).

    Coordinates of the centre, or of corners, round by their size. A test by corners compares products with an edge's
    vector, whose direction then errs by the coordinates' error over the side: that turns the whole offset.
    """
    extent = boxes[:, None, 2:4].sum(2)  # (M, 1)
    offset = (centres - boxes[:, None, :2]).norm(dim=2)  # (M, A)
    coordinates = boxes[:, :2].abs().sum(1, keepdim=True) + centres.sum(1) + extent  # (M, A)
    lever = 1 + (offset + extent)[..., None] / boxes[:, None, 2:4]  # (M, A, 2)
    return ROUNDINGS * eps * coordinates[..., None] * lever


def _sharp(truths: GroundTruths, wide: Tensor, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return (M,) bool: True if the box is not turned, and its frame and edges are exact in the truths' dtype (T7)."""
    own = rotated.widened(truths.boxes, floor)  # (M, 5)
    half, wanted = own[:, 2:4] / 2, wide[:, 2:4] / 2  # (M, 2) twice
    edges = torch.cat((own[:, :2] - half, own[:, :2] + half), 1).double()  # (M, 4)
    exact = torch.cat((wide[:, :2] - wanted, wide[:, :2] + wanted), 1)  # (M, 4)
    offset = (centres.to(own.dtype) - own[:, None, :2]).double()  # (M, A, 2)
    same = (offset == centres - wide[:, None, :2]).flatten(1).all(1)
    return (wide[:, 4] == 0) & (edges == exact).all(1) & same


GEOMETRIES_BY_TASK: dict[str, Geometry] = {
    DETECT.name: UprightBoxes(),
    OBB.name: RotatedBoxes(),
    POSE.name: UprightBoxes(),
    SEGMENT.name: UprightBoxes(),
    POSE26.name: UprightBoxes(),
    SEGMENT26.name: UprightBoxes(),
}
"""The geometry of the boxes of every task; see `Expectation.geometry` for keypoints and masks that take part."""
UPRIGHT = GEOMETRIES_BY_TASK[DETECT.name]
