"""Candidates and overlap of Pose26 heads, whose keypoints take part in the assignment (P26-2, P26-3).

An assigner's inputs show no keypoints: bounds allow for the rounding of their decoding too.

B images, M ground truths of an image, A anchors, K keypoints, P pairs of a ground truth and an anchor.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.reference_inputs import keypoints_of
from tal_conformance.judgement.rounding.bounds import smallest
from tal_conformance.judgement.rounding.enclosure import Enclosure
from tal_conformance.judgement.rounding.geometry import InputErrors, Pairs, UprightBoxes
from tal_reference import Dialect, GroundTruths, Hyperparameters, Predictions
from tal_reference.keypoints import (
    AREA_EPS,
    LARGEST_SIDE,
    SHARE_OF_BOX,
    SMALLEST_SIDE,
    KeypointPredictions,
    decode_without_factor,
    gated,
    sigmas_of,
    similarity,
)

EXACT_INTEGERS = 2.0**24
"""Integers up to this number are exact in float32."""


@dataclass(frozen=True)
class PosedBoxes(UprightBoxes):
    """Upright boxes with keypoints.

    Attributes:
        points: (B, A, K, 2) predicted keypoints in pixels, float64.
        wanted: for each image (M, K, 3), keypoints of the ground truths, x and y in pixels, float64.
        sigmas: (K,) standard deviations.
        centres: (A, 2) anchor centres in pixels.
        strides: (A,) stride of each anchor's level in pixels.
    """

    points: Tensor
    wanted: list[Tensor]
    sigmas: Tensor
    centres: Tensor
    strides: Tensor

    @classmethod
    def of(cls, batch: Batch, predictions: Predictions) -> "PosedBoxes":
        """Return the geometry of a batch with its predictions in float64."""
        assert isinstance(predictions, KeypointPredictions)
        anchors, shape = predictions.anchors, predictions.shape
        raw = predictions.keypoints.detach().unflatten(2, shape)[..., :2]  # (B, A, K, 2)
        points = decode_without_factor(raw, anchors.centres) * anchors.strides[:, None]  # (B, A, K, 2)
        sigmas = sigmas_of(batch.head, like=points)  # (K,)
        return cls(points, keypoints_of(batch), sigmas, anchors.pixels, anchors.strides[:, 0])

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
        """Return certain and possible candidates on the levels that fit the ground truth (P26-2); see `Geometry`."""
        certain, possible = super().candidates_within(
            small, large, centres, floor, eps, errors, dialect, reach, radius
        )
        moved = torch.zeros_like(large.boxes[:, 0]) if errors is None else errors.truths.amax(1)  # (M,)
        surely_fits, may_fit = self._fits(large.boxes, moved, eps)  # (M, A) twice
        may_keep_all = ~(certain & surely_fits).any(1, keepdim=True)  # (M, 1)
        surely_keeps_all = ~(possible & may_fit).any(1, keepdim=True)  # (M, 1)
        return certain & (surely_fits | surely_keeps_all), possible & (may_fit | may_keep_all)

    def _fits(self, boxes: Tensor, moved: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return (M, A) twice: True where a level surely fits, and where it may fit, a ground truth (ambiguity T6).

        A size whose square is the area exactly, in small integers, is exact in every order of operations.
        """
        sides = boxes[:, 2:] - boxes[:, :2]  # (M, 2)
        whole = Enclosure.around(sides, eps * sides.abs() + 2 * moved[:, None], eps)  # (M, 2)
        size = (whole[:, 0] * whole[:, 1]).clamp(low=0.0).sqrt()  # (M,)
        area = sides.prod(1).clamp(min=0)  # (M,)
        root = area.sqrt()  # (M,)
        sharp = (
            (sides == sides.round()).all(1) & (root == root.round()) & (area <= EXACT_INTEGERS) & (moved == 0)
        )
        low, high = (root.where(sharp, end)[:, None] for end in (size.low, size.high))  # (M, 1) twice
        finest, coarsest = (
            self.strides == self.strides.min(),
            self.strides == self.strides.max(),
        )  # (A,) twice
        least, most = SMALLEST_SIDE * self.strides, LARGEST_SIDE * self.strides  # (A,) twice
        surely = ((low >= least) | finest) & ((high <= most) | coarsest)
        return surely, ((high >= least) | finest) & ((low <= most) | coarsest)

    def candidates_of(self, truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
        """Return the candidates (M, A) as the reference computes them (P26-2)."""
        return gated(super().candidates_of(truths, centres, floor), truths, self.strides.to(truths.boxes))

    def pair_overlaps(
        self, pairs: Pairs, dtype: torch.dtype, dialect: Dialect, hyperparameters: Hyperparameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return OKS, or CIoU of ground truths without visible keypoints (P26-3); see `Geometry.pair_overlaps`."""
        naive, exact, error = super().pair_overlaps(pairs, dtype, dialect, hyperparameters)
        counts = torch.tensor([0, *map(len, self.wanted)], device=pairs.image.device).cumsum(0)  # (B + 1,)
        wanted = torch.cat(self.wanted)[counts[pairs.image] + pairs.truth]  # (P, K, 3)
        shown = wanted[..., 2] > 0  # (P, K)
        some = shown.any(1)  # (P,)
        if not some.any():
            return naive, exact, error
        oks = _Oks(
            self.points[pairs.image, pairs.anchor][some],
            self.centres[pairs.anchor][some],
            wanted[some, :, :2],
            shown[some],
            self.sigmas,
        )
        boxes = pairs.truth_boxes[some]
        moved = pairs.moved[some] if isinstance(pairs.moved, Tensor) else pairs.moved
        own = oks.value(boxes.double())  # (p,)
        bound = oks.enclosed(boxes.double(), moved, torch.finfo(dtype).eps).distance_from(own) + smallest(
            dtype
        )
        naive, exact, error = naive.clone(), exact.clone(), error.clone()
        naive[some], exact[some], error[some] = oks.rounded(boxes), own, bound
        return naive, exact, error


@dataclass(frozen=True)
class _Oks:
    """The object keypoint similarity of pairs (P26-3).

    Attributes:
        points: (P, K, 2) predicted keypoints in pixels.
        centres: (P, 2) centres of the anchors.
        wanted: (P, K, 2) keypoints of the ground truths.
        shown: (P, K) bool: True for keypoints that count.
        sigmas: (K,) standard deviations.
    """

    points: Tensor
    centres: Tensor
    wanted: Tensor
    shown: Tensor
    sigmas: Tensor

    def value(self, boxes: Tensor) -> Tensor:
        """Return OKS (P,) for boxes (P, 4) of the ground truths."""
        area = SHARE_OF_BOX * (boxes[:, 2:] - boxes[:, :2]).prod(1)  # (P,)
        alike = similarity(self.points, self.wanted, area, self.sigmas) * self.shown  # (P, K)
        return alike.sum(1) / self.shown.sum(1)

    def rounded(self, boxes: Tensor) -> Tensor:
        """Return OKS (P,) as the reference computes it in the dtype of the boxes."""
        points, wanted, sigmas = (values.to(boxes) for values in (self.points, self.wanted, self.sigmas))
        return replace(self, points=points, wanted=wanted, sigmas=sigmas).value(boxes)

    def enclosed(self, boxes: Tensor, moved: Tensor | float, eps: float) -> Enclosure:
        """Return the enclosures (P,) of OKS.

        Predicted points round in the sum with the centre and in the product with the stride, in either order; true
        points in the product with the input's size.

        Args:
            boxes: (P, 4) ground truths, float64.
            moved: (P,) largest difference of their edges in pixels.
            eps: machine epsilon of the implementation's dtype.
        """
        rounding = eps * (2 * self.points.abs() + self.centres[:, None].abs())  # (P, K, 2)
        points = Enclosure.around(self.points, rounding, eps)
        wanted = Enclosure.around(self.wanted, eps * self.wanted.abs(), eps)
        squares = (points - wanted).square()  # (P, K, 2)
        apart = squares[..., 0] + squares[..., 1]  # (P, K)
        sides = boxes[:, 2:] - boxes[:, :2]  # (P, 2)
        beside = 2 * moved[:, None] if isinstance(moved, Tensor) else 2 * moved
        lengths = Enclosure.around(sides, eps * sides.abs() + beside, eps).clamp(low=0.0)
        area = lengths[:, 0] * lengths[:, 1] * SHARE_OF_BOX + AREA_EPS  # (P,)
        of_sigma = 8 * self.sigmas.square()  # (K,)
        scale = area[:, None] * Enclosure.around(of_sigma, 3 * eps * of_sigma, eps)  # (P, K)
        alike = (-(apart / scale)).exp()  # (P, K)
        counted = alike.zeroed(~self.shown)
        ends = counted.ends.sum(2) / self.shown.sum(1)  # (2, P)
        rounds = eps * (self.shown.shape[1] + 1) * ends.abs()  # sum and quotient
        return Enclosure(torch.stack((ends[0] - rounds[0], ends[1] + rounds[1])), eps)
