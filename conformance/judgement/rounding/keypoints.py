"""Rounding of the loss of poses and of its gradients (POSE-*).

The bounds of the terms box, cls and dfl are those of detection. Enclosures bound the term pose and its gradient, whose
exponential amplifies errors without limit where a ground truth is small.

B images, A anchors, C classes, R bins, K keypoints with D numbers, P positives of the whole batch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, precision, smallest
from tal_conformance.judgement.rounding.detection import shared_rounding_units
from tal_conformance.judgement.rounding.enclosure import Enclosure
from tal_conformance.judgement.rounding.exact_loss import ZERO, ReferenceLoss, loss_precision
from tal_conformance.judgement.rounding.loss_rounding import LossRounding
from tal_reference import BatchTargets, Dialect
from tal_reference.composed import total_factor
from tal_reference.keypoints import (
    AREA_EPS,
    COUNT_EPS,
    KeypointPredictions,
    PositiveKeypoints,
    at_positives,
    decode_keypoints,
    decode_without_factor,
    sigmas_of,
    similarity,
)
from tal_reference.loss import Positives

STEPS = 4
"""Roundings after the last operation that an enclosure contains: the sum, the quotient, the gain and the batch size."""


def keypoint_rounding_units(
    batch: Batch,
    targets: BatchTargets,
    exact: ReferenceLoss,
    dialect: Dialect,
    edges: Tensor | float = 0.0,
) -> LossRounding:
    """Return the effect of rounding on a batch's loss for given targets.

    Args:
        batch: any batch of poses, without autocast.
        targets: labels, boxes, scores and keypoints that the batch's anchors learn.
        exact: the loss in float64.
        dialect: the dialect to follow.
        edges: (B, A) errors of the target boxes' edges in pixels; zero by default.
    """
    given, numbers = exact.predictions, batch.hyperparameters
    assert isinstance(given, KeypointPredictions)
    detection = shared_rounding_units(batch, targets, exact, dialect, edges)
    eps = torch.finfo(loss_precision(batch)).eps
    positives = targets.positives
    moved = edges[positives.image, positives.anchor] if isinstance(edges, Tensor) else 0.0  # (P,) pixels
    assigning = bool(batch.head.parts_assign)
    pose = PoseErrors.of(given, positives, sigmas_of(batch.head, given.logits), moved, eps, assigning)
    seen = VisibilityErrors.of(pose.found, eps)
    share = max(len(positives.image), 1)  # P
    own = torch.stack((pose.loss.sum() * numbers.pose_gain, seen.loss.sum() * numbers.kobj_gain)) / share
    own = own / ROUNDINGS + eps * exact.items[1:3].abs()  # (2,) `bound` allows ROUNDINGS of these units
    items = torch.cat((detection.items[:1], own, detection.items[1:]))  # (5,)

    factor = total_factor(batch.images, dialect) / share
    tiny = STEPS * smallest(precision(batch.dtype))
    of_pose = _in_channels(pose.gradient * (factor * numbers.pose_gain), given.shape)  # (P, K D)
    exact_pose = _in_channels(pose.exact_gradient * (factor * numbers.pose_gain), given.shape)
    # underflow only where there is a gradient
    last = STEPS * eps * exact_pose.abs() + tiny * (exact_pose != 0)
    of_seen = torch.zeros_like(of_pose)
    if given.shape[1] == 3:
        of_seen[:, 2::3] = seen.gradient * (factor * numbers.kobj_gain) + tiny
    box, cls, dfl = ((*of_term, ZERO) for of_term in detection.of_terms)
    rounding = box, (ZERO, ZERO, last), (ZERO, ZERO, of_seen), cls, dfl
    box, cls, dfl = ((*of_term, ZERO) for of_term in detection.jumps)
    jumps = box, (ZERO, ZERO, of_pose), (ZERO, ZERO, ZERO), cls, dfl
    items_at_most = pose.most.sum() * numbers.pose_gain, seen.most.sum() * numbers.kobj_gain
    most = torch.stack(items_at_most) / share  # (2,)
    most = torch.maximum(most, exact.items[1:3].abs()).clamp(min=tiny)
    assert detection.ranges is not None
    ranges = torch.cat((detection.ranges[:1], most, detection.ranges[1:]))  # (5,)
    return LossRounding(items, rounding, jumps, None, ranges)


def _in_channels(points: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return values (P, K, 2) of x and y as channels (P, K D), zero for visibilities."""
    whole = points.new_zeros(*points.shape[:2], shape[1])  # (P, K, D)
    whole[..., :2] = points
    return whole.flatten(1)


@dataclass(frozen=True)
class PoseErrors:
    """Errors of each positive's keypoint loss and of its gradient, before the division by P and the gain (POSE-4).

    Attributes:
        found: predicted and true keypoints in float64.
        loss: (P,) largest error of the loss.
        gradient: (P, K, 2) largest error of the gradient on the raw x and y.
        exact_gradient: (P, K, 2) this gradient in float64.
    """

    found: PositiveKeypoints
    loss: Tensor
    gradient: Tensor
    exact_gradient: Tensor

    @property
    def most(self) -> Tensor:
        """(P,) largest keypoint loss: 1 of a ground truth with a visible keypoint, else 0."""
        return self.found.visible.any(1).double()

    @classmethod
    def of(
        cls,
        given: KeypointPredictions,
        positives: Positives,
        sigmas: Tensor,
        moved: Tensor | float,
        eps: float,
        assigning: bool = False,
    ) -> "PoseErrors":
        """Return the errors for predictions in float64.

        Args:
            given: predictions in float64.
            positives: the P positives with boxes and keypoints in pixels.
            sigmas: (K,) standard deviations.
            moved: (P,) errors of the target boxes' edges in pixels; 0 if the boxes are the implementation's own.
            eps: machine epsilon of the implementation's dtype.
            assigning: True for Pose26 heads, whose points are decoded without a factor (P26-1).
        """
        factor, decode = (1.0, decode_without_factor) if assigning else (2.0, decode_keypoints)
        positives = replace(positives, boxes=positives.boxes.double())
        with torch.no_grad():
            found = at_positives(given, positives, decode)
        strides = given.anchors.strides[positives.anchor]  # (P, 1)
        centres = given.anchors.centres[positives.anchor][:, None]  # (P, 1, 2)
        raw = given.keypoints[positives.image, positives.anchor].unflatten(1, given.shape)[
            ..., :2
        ]  # (P, K, 2)
        origin = Enclosure.around(centres, 0.0, eps)  # (P, 1, 2)
        predicted = Enclosure.around(raw, 0.0, eps) * factor + (origin if assigning else origin - 0.5)
        # normalised coordinate times size, over stride
        wanted = Enclosure.around(found.wanted, 2 * eps * found.wanted.abs(), eps)
        apart = predicted - wanted  # (P, K, 2)
        area = _area(positives.boxes / strides, moved / strides[:, 0], eps) + AREA_EPS  # (P,)
        of_sigma = 8 * sigmas.double().square()  # (K,)
        scale = area[:, None] * Enclosure.around(of_sigma, 3 * eps * of_sigma, eps)  # (P, K)
        squares = apart.square()
        distance = squares[..., 0] + squares[..., 1]  # (P, K)
        close = (-(distance / scale)).exp()  # (P, K)
        count = found.visible.double().sum(1) + COUNT_EPS  # (P,)
        missed = (1 - similarity(found.predicted, found.wanted, found.area, sigmas)) * found.visible  # (P, K)
        error = ((-close) + 1.0).distance_from(1 - _exact(found, sigmas)) * found.visible  # (P, K)
        loss = error.sum(1) / count + STEPS * eps * missed.sum(1) / count  # (P,)
        slope = (
            close[..., None] * apart / scale[..., None] * (2 * factor)
        )  # (P, K, 2): twice the distance, and the factor of the raw number
        share = (found.visible / count[:, None])[..., None]  # (P, K, 1)
        exact_scale = of_sigma * (found.area[:, None] + AREA_EPS)  # (P, K)
        exact_slope = (
            2 * factor * (_exact(found, sigmas) / exact_scale)[..., None] * (found.predicted - found.wanted)
        )  # (P, K, 2)
        error = slope.distance_from(exact_slope).where(found.visible[..., None], 0.0)  # (P, K, 2)
        return cls(found, loss, error * share, exact_slope * share)


def _exact(found: PositiveKeypoints, sigmas: Tensor) -> Tensor:
    """Return the similarities (P, K) in float64."""
    return similarity(found.predicted, found.wanted, found.area, sigmas)


def _area(boxes: Tensor, moved: Tensor | float, eps: float) -> Enclosure:
    """Return the enclosures (P,) of the areas of boxes (P, 4) in grid units, whose edges are divided by strides.

    Equal edges give a side of exactly zero in every order of operations.
    """
    left_top, right_bottom = boxes.chunk(2, dim=1)  # (P, 2) twice
    error = eps * (left_top.abs() + right_bottom.abs())  # (P, 2)
    error = error.where(left_top != right_bottom, 0.0)
    error = error + (2 * moved[:, None] if isinstance(moved, Tensor) else 2 * moved)
    sides = Enclosure.around(right_bottom - left_top, error, eps)
    return sides[:, 0] * sides[:, 1]


@dataclass(frozen=True)
class VisibilityErrors:
    """Errors of each positive's visibility loss and of its gradient, before the division by P and the gain (POSE-5).

    Attributes:
        loss: (P,) largest error of the mean over the keypoints.
        gradient: (P, K) one rounding in each operation of the gradient on the logits.
        most: (P,) mean cross-entropy if every sign of the logits were wrong.
    """

    loss: Tensor
    gradient: Tensor
    most: Tensor

    @classmethod
    def of(cls, found: PositiveKeypoints, eps: float) -> "VisibilityErrors":
        """Return the errors for keypoints in float64; zero without logits."""
        if found.logits is None:
            nothing = torch.zeros_like(found.area)
            return cls(nothing, torch.zeros_like(found.visible, dtype=torch.float64), nothing)
        wanted, count = found.visible.double(), found.visible.shape[1]
        # max(x, 0) - x z + log(1 + e^-|x|): each part is rounded, and each of the two sums
        parts = found.logits.abs() * (1 + wanted) + functional.softplus(-found.logits.abs())  # (P, K)
        gradient = (found.logits.sigmoid() + wanted) / count  # (P, K)
        most = functional.softplus(found.logits.abs()).mean(1)  # (P,)
        return cls(STEPS * eps * parts.mean(1), STEPS * eps * gradient, most)
