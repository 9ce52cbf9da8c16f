"""The predictions of generated batches: kinds of predictions, quantisation, and copies that plant ties.

For every anchor a desired prediction is made, four sides in grid units and C class logits; then the sides are encoded
as distance logits. Independent noise in every logit would make useless tests: over 16 bins it decodes to boxes of
about 15 by 15 cells, which overlap hardly any ground truth of a small grid. Random numbers are uniform or sums of
uniform numbers: unlike normally distributed numbers, they are the same on every machine.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tal_conformance.core.geometry import (
    boxes_around,
    ciou,
    decode,
    depth,
    encode,
    in_frame,
    inside,
    joined_angles,
    sides_to,
    widened,
)
from tal_conformance.core.names import unknown_name
from tal_reference import Head, Hyperparameters

POINT = 2**-10
"""Grid units: the squared diagonal of a box with sides of a quarter of `POINT` is about 1e-7, the eps of IOU-1."""
OFFSET = 120
"""Largest offset of distance logits: exponentials overflow in float32 beyond 88.7, and vanish below -104."""
EXTREME = 1e4
"""Largest absolute value of a class logit."""
POWERS = torch.tensor([2.0**power for power in range(12)])
"""Exact powers of two: `torch.pow` may round."""
TURN_STEP = math.pi / 8
"""Step of quantised angles."""
LOWEST, HIGHEST = -5.0, 2.0
"""Range of quantised class logits: scores from 0.007 to 0.88."""


@dataclass(frozen=True)
class Scene:
    """The anchors and ground truths that predictions are made for: B images of at most M ground truths, A anchors.

    Attributes:
        head: classes and bins.
        size: (height, width) of the input in pixels.
        centres: (A, 2) anchor centres, x and y in pixels.
        strides: (A,) strides of the anchors in pixels.
        boxes: (B, M, 4) ground truths, xyxy in pixels, padded with zeros; M is at least 1.
        labels: (B, M) classes of the ground truths.
        present: (B, M) bool, False on padding.
        generators: one random number generator for each image.
        turns: (B, M) angles in radians by which the ground truths are turned about their centres; None: upright boxes.
    """

    head: Head
    size: tuple[int, int]
    centres: Tensor
    strides: Tensor
    boxes: Tensor
    labels: Tensor
    present: Tensor
    generators: tuple[torch.Generator, ...]
    turns: Tensor | None = None

    @property
    def anchors(self) -> int:
        """The number of anchors A of one image."""
        return len(self.centres)

    def uniform(self, *shape: int) -> Tensor:
        """Return a tensor (B, *shape) of uniform random numbers from [0, 1).

        Each image has its own generator, which ground truths do not use: if a ground truth or another image is
        removed, the image's random numbers do not change. That lets a failing batch shrink.
        """
        return torch.stack([torch.rand(shape, generator=g, dtype=torch.float32) for g in self.generators])

    def wobble(self, *shape: int) -> Tensor:
        """Return a tensor (B, *shape) of random numbers from (-1, 1), most of them near 0."""
        return self.uniform(*shape) - self.uniform(*shape)

    @property
    def reach(self) -> Tensor:
        """Largest distance (A, 4) from each anchor to the sides of its box, in grid units.

        It is half the input's width or height, but no more than the bins can express.
        """
        height, width = self.size
        half = self.strides.new_tensor((width, height, width, height)) / 2 / self.strides[:, None]  # (A, 4)
        return half if self.head.reg_max == 1 else half.clamp(max=self.head.reg_max - 1)


class DesiredPrediction(NamedTuple):
    """The prediction that every anchor should make.

    Attributes:
        sides: (B, A, 4) distances left, top, right, bottom in grid units.
        logits: (B, A, C) class logits.
        sharp: True if the distance logits must decode to exactly `sides`; False if noise is added to the logits.
        offsets: (B, A, 4) numbers to add to all distance logits of a side, which changes no distance; None: no offsets.
            With one bin (R = 1) the logit is the distance, and nothing is added.
        angles: (B, A) angles of the boxes in radians, along whose axes the sides are measured; None: upright boxes.
    """

    sides: Tensor
    logits: Tensor
    sharp: bool = False
    offsets: Tensor | None = None
    angles: Tensor | None = None


class Copy(NamedTuple):
    """A tie to plant in a batch: one candidate of a ground truth gets the prediction of another candidate.

    The candidates are ranked by the alignment metric t, the largest first.

    Attributes:
        image: index of the image.
        truth: index of the ground truth in the image.
        source: rank, from 0, of the anchor whose prediction is copied.
        target: rank, from 0, of the anchor whose prediction is overwritten.
    """

    image: int
    truth: int
    source: int
    target: int


PREDICTION_KINDS: dict[str, Callable[[Scene], DesiredPrediction]] = {}
"""Every kind of predictions by name, described by the docstring of its function."""


def predictions(
    scene: Scene,
    kind: str,
    levels: int | None,
    copies: tuple[Copy, ...],
    hyperparameters: Hyperparameters,
    kinds: Mapping[str, Callable[[Scene], DesiredPrediction]] = PREDICTION_KINDS,
) -> tuple[Tensor, ...]:
    """Return distance logits (B, A, 4, R) and class logits (B, A, C) of the given kind of predictions.

    Rotated boxes also have angles (B, A, 1).

    Args:
        scene: anchors and ground truths.
        kind: a key of `kinds`.
        levels: number of different class logits, for quantised predictions; None: not quantised.
        copies: ties to plant.
        hyperparameters: alpha and beta, for the ranks of copies.
        kinds: the kinds of predictions of the batch's task.

    Raises:
        ValueError: the kind is unknown, `levels` is below 1, or a copy names a ground truth that does not exist, or
            a turned one.
    """
    if copies and scene.turns is not None:
        raise ValueError(f"{copies[0]}: ties cannot be planted for rotated boxes")
    if kind not in kinds:
        raise ValueError(unknown_name("kind of predictions", str(kind), kinds, "kinds of predictions"))
    desired = kinds[kind](scene)
    if levels is not None:
        desired = quantised(desired, levels)
    noise = None if desired.sharp else 0.5 * scene.uniform(scene.anchors, 4, scene.head.reg_max)
    distances = encode(desired.sides, scene.head.reg_max, noise)  # (B, A, 4, R)
    if desired.offsets is not None and scene.head.reg_max > 1:
        distances = distances + desired.offsets[..., None]
    for copy in copies:
        plant_tie(copy, scene, distances, desired.logits, hyperparameters)
    if desired.angles is None:
        return distances, desired.logits
    return distances, desired.logits, desired.angles[..., None]


def prediction_kind(function: Callable[[Scene], DesiredPrediction]) -> Callable[[Scene], DesiredPrediction]:
    """Register a function as a kind of predictions, under the function's name."""
    PREDICTION_KINDS[function.__name__] = function
    return function


def within_reach(scene: Scene, sides: Tensor) -> Tensor:
    """Return `sides` (B, A, 4), distances in grid units, with negative values set to zero unless R = 1.

    Only a head with one bin (R = 1) can predict negative distances (DEC-1).
    """
    return sides if scene.head.reg_max == 1 else sides.clamp(min=0)


def predictable(scene: Scene, sides: Tensor) -> Tensor:
    """Return `sides` (B, A, 4), distances in grid units, changed to what the head can predict.

    Negative distances are set to zero. If R = 1, one box in four is inverted in x, and one in four in y.
    """
    if scene.head.reg_max > 1:
        return within_reach(scene, sides)
    axes = scene.uniform(scene.anchors, 2) < 1 / 4  # (B, A, 2)
    turned = axes.repeat(1, 1, 2)  # (B, A, 4): left and right, top and bottom
    return torch.where(turned, -sides, sides)


@prediction_kind
def random(scene: Scene) -> DesiredPrediction:
    """Return boxes around the anchors, from a quarter of the input's size to all of it, and scores of 0.02 to 0.88."""
    sides, logits = any_sides(scene), 3 * scene.wobble(scene.anchors, scene.head.classes) - 1
    return DesiredPrediction(sides, logits, angles=any_angles(scene))


@prediction_kind
def near(scene: Scene) -> DesiredPrediction:
    """Return predictions as after training: an anchor in or beside ground truths predicts one of them, with errors."""
    owner, covered = aims(scene, scene.uniform(scene.anchors))
    angles = angles_near(scene, owner, covered, 0.25)
    exact = exact_sides(scene, owner, angles)
    error, offset = scene.wobble(scene.anchors, 4), scene.wobble(scene.anchors, 4)
    sides = exact * (1 + 0.5 * error) + 0.3 * offset  # (B, A, 4)
    sides = torch.where(covered[..., None], sides, any_sides(scene))
    return DesiredPrediction(predictable(scene, sides), scores_for(scene, owner, covered), angles=angles)


@prediction_kind
def exact_hit(scene: Scene) -> DesiredPrediction:
    """Return predictions as `near` does; three of four anchors predict a ground truth as exactly as the bins allow."""
    owner, covered = aims(scene, scene.uniform(scene.anchors))
    desired, exact = near(scene), within_reach(scene, exact_sides(scene, owner))
    hits = covered & (scene.uniform(scene.anchors) < 0.75)  # (B, A)
    logits = scores_for(scene, owner, covered)
    angles = joined_angles(hits, angles_near(scene, owner, covered, 0), desired.angles)
    return DesiredPrediction(
        torch.where(hits[..., None], exact, desired.sides), logits, sharp=True, angles=angles
    )


@prediction_kind
def close(scene: Scene) -> DesiredPrediction:
    """Return predictions as `near` does; every edge errs by less than a quarter of the ground truth's side.

    A quarter of `POINT` is added to this limit, so that boxes with a side of zero are predicted with errors too. In the
    CIoU of such small boxes the constant eps is as large as the terms to which it is added (IOU-1).
    """
    owner, covered = aims(scene, scene.uniform(scene.anchors))
    desired, angles = near(scene), angles_near(scene, owner, covered, 0.02)
    exact = exact_sides(scene, owner, angles)  # (B, A, 4)
    side = (exact[..., :2] + exact[..., 2:]).repeat(1, 1, 2)  # (B, A, 4) width, height, width, height
    sides = within_reach(scene, exact + 0.25 * (side + POINT) * scene.wobble(scene.anchors, 4))
    return DesiredPrediction(
        torch.where(covered[..., None], sides, desired.sides),
        desired.logits,
        sharp=True,
        angles=joined_angles(covered, angles, desired.angles),
    )


@prediction_kind
def between(scene: Scene) -> DesiredPrediction:
    """Return predictions in which an anchor in several ground truths predicts the mean box of two of them."""
    lots = scene.uniform(scene.anchors)
    (one, covered), (other, _) = aims(scene, lots), aims(scene, lots, following=1)
    angles = angles_near(scene, one, covered, 0)
    sides = (exact_sides(scene, one, angles) + exact_sides(scene, other, angles)) / 2  # (B, A, 4)
    sides = torch.where(covered[..., None], sides, any_sides(scene))
    return DesiredPrediction(
        within_reach(scene, sides), scores_for(scene, one, covered), sharp=True, angles=angles
    )


@prediction_kind
def saturated(scene: Scene) -> DesiredPrediction:
    """Return predictions as `near` does, saturated: one bin has probability 1; class logits are 100, -30 or -100."""
    desired = near(scene)
    logits = 130.0 * (desired.logits > 0) - 70.0 * (desired.logits < -4.5) - 30
    return DesiredPrediction(desired.sides.round(), logits, sharp=True, angles=desired.angles)


@prediction_kind
def constant(scene: Scene) -> DesiredPrediction:
    """Return predictions with the same logits at every anchor of every image."""
    reach = (
        scene.reach.double().mean(0).float()
    )  # (4,) in float64, as the order of the sum depends on the machine
    sides = (0.25 + 0.75 * scene.uniform(4)[0]) * reach  # (4,)
    logits = 3 * scene.wobble(scene.head.classes)[0] - 1  # (C,)
    shape = len(scene.generators), scene.anchors, -1
    angles = any_angles(scene)
    if angles is not None:
        angles = angles[:1, :1].expand(shape[:2])
    return DesiredPrediction(sides.expand(shape), logits.expand(shape).clone(), sharp=True, angles=angles)


@prediction_kind
def offset(scene: Scene) -> DesiredPrediction:
    """Return predictions as `near` does, with a random number of -120 to 120 added to all distance logits of a side."""
    desired = near(scene)
    offsets = (OFFSET * (2 * scene.uniform(scene.anchors, 4) - 1)).round()  # (B, A, 4)
    return desired._replace(offsets=offsets)


@prediction_kind
def extreme(scene: Scene) -> DesiredPrediction:
    """Return predictions as `offset` does; class logits of a third of the anchors are multiplied by a power of two.

    Their absolute values are at most 10,000.
    """
    desired = offset(scene)
    power = (36 * scene.uniform(scene.anchors, 1) - 24).long().clamp(min=0)  # (B, A, 1) 0 to 11
    logits = (desired.logits * POWERS[power]).clamp(-EXTREME, EXTREME)  # (B, A, C)
    return desired._replace(logits=logits)


def quantised(desired: DesiredPrediction, levels: int) -> DesiredPrediction:
    """Return the prediction `desired` with distances in halves of a grid unit and with few different class logits.

    Many predicted boxes and scores are then equal.

    Args:
        desired: the prediction to quantise.
        levels: number of different class logits.

    Raises:
        ValueError: `levels` is below 1.
    """
    if levels < 1:
        raise ValueError(f"quantisation needs at least one level, not {levels}")
    step = (HIGHEST - LOWEST) / levels
    rank = ((desired.logits - LOWEST) / step).floor().clamp(0, levels - 1)  # (B, A, C)
    angles = None if desired.angles is None else (desired.angles / TURN_STEP).round() * TURN_STEP
    sides = (2 * desired.sides).round() / 2
    return DesiredPrediction(sides, LOWEST + step * (rank + 0.5), sharp=True, angles=angles)


def any_sides(scene: Scene) -> Tensor:
    """Return random distances (B, A, 4) in grid units, from a quarter of `scene.reach` to all of `scene.reach`.

    With smaller distances, predicted boxes would overlap the ground truths little.
    """
    return (0.25 + 0.75 * scene.uniform(scene.anchors, 4)) * scene.reach


def aims(scene: Scene, lots: Tensor, following: int = 0) -> tuple[Tensor, Tensor]:
    """Return the index (B, A) of the ground truth that each anchor predicts, and a mask (B, A) bool.

    The mask is True where any ground truth is close to the anchor. A ground truth is close if the anchor's
    centre lies in it or less than a stride beside it.

    Args:
        scene: anchors and ground truths.
        lots: (B, A) random numbers from [0, 1), which choose among the close ground truths.
        following: 0 for the ground truth that `lots` choose, 1 for the next close ground truth in cyclic order, and so
            on.
    """
    inner = depth(scene.centres, scene.boxes) if scene.turns is None else turned_depth(scene)  # (B, M, A)
    close = (inner > -scene.strides) & scene.present[..., None]  # (B, M, A)
    choices = close.sum(1)  # (B, A)
    place = ((lots * choices).floor() + following) % choices.clamp(min=1) + 1  # (B, A) counted from 1
    owner = (close & (close.cumsum(1) == place[:, None])).int().argmax(1)  # (B, A)
    return owner, choices > 0


def exact_sides(scene: Scene, owner: Tensor, angles: Tensor | None = None) -> Tensor:
    """Return the distances (B, A, 4) in grid units from anchors to the edges of ground truths `owner` (B, A).

    A distance is negative if the anchor lies outside. With turned ground truths, a box of these distances, turned by
    `angles` (B, A), has the ground truth's centre and sides; None: by the ground truth's own angle.
    """
    boxes = scene.boxes.gather(1, owner[..., None].expand(-1, -1, 4))  # (B, A, 4)
    if scene.turns is not None:
        own = scene.turns.gather(1, owner) if angles is None else angles  # (B, A)
        left_top, right_bottom = boxes.chunk(2, dim=-1)
        half = (right_bottom - left_top) / 2  # (B, A, 2)
        offset = in_frame((left_top + right_bottom) / 2 - scene.centres, own)  # (B, A, 2)
        return torch.cat((half - offset, half + offset), dim=-1) / scene.strides[:, None]
    return sides_to(boxes, scene.centres, scene.strides)


def turned_depth(scene: Scene) -> Tensor:
    """Return the distance (B, M, A) in pixels of anchors to the nearest edge of turned boxes; negative outside."""
    assert scene.turns is not None
    left_top, right_bottom = scene.boxes[:, :, None].chunk(2, dim=-1)  # (B, M, 1, 2) twice
    offset = in_frame(scene.centres - (left_top + right_bottom) / 2, scene.turns[..., None])  # (B, M, A, 2)
    return ((right_bottom - left_top) / 2 - offset.abs()).amin(-1)


def any_angles(scene: Scene) -> Tensor | None:
    """Return random angles (B, A) from [-pi/4, 3 pi/4), the range of a head; None for upright boxes."""
    return None if scene.turns is None else (scene.uniform(scene.anchors) - 0.25) * math.pi


def angles_near(scene: Scene, owner: Tensor, covered: Tensor, error: float) -> Tensor | None:
    """Return angles (B, A) of the ground truths `owner` (B, A) with errors up to `error`; None for upright boxes.

    Where `covered` (B, A) is False, the angles are random.
    """
    if scene.turns is None:
        return None
    own = scene.turns.gather(1, owner)  # (B, A)
    if error:
        own = own + error * scene.wobble(scene.anchors)
    elsewhere = any_angles(scene)
    assert elsewhere is not None
    return torch.where(covered, own, elsewhere)


def scores_for(scene: Scene, owner: Tensor, covered: Tensor) -> Tensor:
    """Return class logits (B, A, C), high for the class of the ground truth that an anchor predicts.

    Where `covered` (B, A) is True, the class of the ground truth `owner` (B, A) has a score from
    0.05 to 0.95. All other scores are below 0.12.
    """
    logits = 2 * scene.wobble(scene.anchors, scene.head.classes) - 4  # (B, A, C)
    label = scene.labels.gather(1, owner)[..., None]  # (B, A, 1)
    own = 3 * scene.wobble(scene.anchors, 1)  # (B, A, 1)
    return torch.where(covered[..., None], logits.scatter(2, label, own), logits)


def plant_tie(
    copy: Copy, scene: Scene, distances: Tensor, logits: Tensor, hyperparameters: Hyperparameters
) -> None:
    """Make two candidates of a ground truth predict the same box with the same scores, in place.

    Both predict the box of the candidate with rank `copy.source`, moved to half cells so that both anchors can encode
    the box exactly, and grown to contain both anchors' centres. The new box has another overlap u with the ground
    truth. Therefore the scores are changed so that the alignment metric t, and with it the rank, stays what it was for
    the candidate with rank `copy.source`, as far as a score can compensate u. If too few candidates have t > 0, nothing
    is planted.

    Args:
        copy: the ground truth, and the ranks of the two candidates.
        scene: anchors and ground truths.
        distances: (B, A, 4, R) distance logits.
        logits: (B, A, C) class logits.
        hyperparameters: alpha and beta, for the ranks.

    Raises:
        ValueError: the ground truth does not exist.
    """
    image, truth, *ranks = copy
    if image not in range(len(scene.boxes)) or not bool(scene.present[image, truth : truth + 1].any()):
        raise ValueError(f"{copy} names a ground truth that does not exist")
    box, label = scene.boxes[image, truth].double(), int(scene.labels[image, truth])
    predicted = decode(distances[image], scene.centres, scene.strides)  # (A, 4)
    overlap = _overlap(box, predicted, scene)  # (A,)
    metric = (
        logits[image, :, label].double().sigmoid() ** hyperparameters.alpha * overlap**hyperparameters.beta
    )
    order = metric.argsort(descending=True, stable=True)  # (A,)
    if max(ranks) >= int((metric > 0).sum()):
        return
    source, target = (int(order[rank]) for rank in ranks)
    both = torch.tensor((source, target))
    shared = _shared_box(predicted[source], scene, both)  # (4,)
    sides = sides_to(shared, scene.centres[both], scene.strides[both])  # (2, 4)
    distances[image, both] = encode(sides, scene.head.reg_max)
    logits[image, target] = logits[image, source]
    overlap = _overlap(box, boxes_around(scene.centres[both], sides * scene.strides[both, None]), scene, both)
    logits[image, both, label] = _logit_for(float(metric[source]), float(overlap[0]), hyperparameters)


def _overlap(box: Tensor, predicted: Tensor, scene: Scene, anchors: Tensor | None = None) -> Tensor:
    """Return the overlap u (A,), float64, of a ground truth (4,) and predicted boxes (A, 4) (TAL-MET-1).

    `anchors` are the indices of the anchors that predict the boxes; None: all anchors.
    """
    centres = scene.centres if anchors is None else scene.centres[anchors]
    floor = scene.head.strides[min(1, len(scene.head.strides) - 1)]
    candidates = inside(centres, widened(box[None], floor)[0])  # (A,)
    return ciou(box, predicted.double()).clamp(min=0).where(candidates, 0)


def _shared_box(box: Tensor, scene: Scene, both: Tensor) -> Tensor:
    """Return `box` (4,) with edges moved to half cells, so that two anchors lie in the box and can both predict it.

    Args:
        box: xyxy in pixels.
        scene: the anchors.
        both: (2,) indices of the two anchors; the stride of the first is the size of a cell.
    """
    half = scene.strides[both[0]] / 2
    centres = scene.centres[both]  # (2, 2)
    reach = scene.strides[both, None] * max(scene.head.reg_max - 1, 1)  # (2, 1)
    left_top, right_bottom = ((box / half).round() * half).split(2)  # (2,), (2,)
    left_top = torch.maximum(torch.minimum(left_top, centres.amin(0)), (centres - reach).amax(0))
    right_bottom = torch.minimum(torch.maximum(right_bottom, centres.amax(0)), (centres + reach).amin(0))
    return torch.cat((left_top, right_bottom))


def _logit_for(metric: float, overlap: float, hyperparameters: Hyperparameters) -> float:
    """Return the class logit with which overlap u gives alignment metric t, as nearly as possible."""
    if overlap == 0 or hyperparameters.alpha == 0:
        return 0.0
    score = (metric / overlap**hyperparameters.beta) ** (1 / hyperparameters.alpha)
    score = min(max(score, 1e-4), 0.999)
    return round(math.log(score / (1 - score)) * 1024) / 1024  # rounded: the last bit differs by machine
