"""What a batch's predictions look like: the regimes, quantisation, and copies planted to make ties.

Every anchor gets a wish, four sides in grid units and C class logits, and the sides are encoded as logits.
Independent noise in every logit, the obvious way, would make a useless test: over 16 bins it decodes to
boxes of about 15 by 15 cells, which on a small grid overlap nothing well. Random numbers are uniform ones
and sums of these: unlike normally distributed ones they come out the same on every machine.
"""

import math
from collections.abc import Callable
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
    inside,
    sides_to,
    widened,
)
from tal_reference import Head, Hyperparameters

POINT = 2**-10
"""Grid units; its square is about 1e-6, and that of a box of a fourth of it about 1e-7, which is eps."""
LOWEST, HIGHEST = -5.0, 2.0
"""Range of quantised class logits: scores from 0.007 to 0.88."""


@dataclass(frozen=True)
class Scene:
    """What predictions may be aimed at. B images, at most M ground truths in one of them, A anchors.

    Attributes:
        head: classes and bins.
        size: (height, width) of the input in pixels.
        centres: (A, 2) anchor centres, x and y in pixels.
        strides: (A,) their strides.
        boxes: (B, M, 4) ground truths, xyxy in pixels, padded with zeros; M is at least 1.
        labels: (B, M) their classes.
        present: (B, M) which are no padding.
        generators: B sources of random numbers.
    """

    head: Head
    size: tuple[int, int]
    centres: Tensor
    strides: Tensor
    boxes: Tensor
    labels: Tensor
    present: Tensor
    generators: tuple[torch.Generator, ...]

    @property
    def anchors(self) -> int:
        """A."""
        return len(self.centres)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) numbers from [0, 1).

        Each image has its own generator, of which no ground truth uses anything: take a ground truth or another
        image away, and the image's random numbers stay what they were. That lets a failing batch shrink.
        """
        return torch.stack([torch.rand(shape, generator=g, dtype=torch.float32) for g in self.generators])

    def wobble(self, *shape: int) -> Tensor:
        """(B, *shape) numbers from (-1, 1), those near 0 most often."""
        return self.uniform(*shape) - self.uniform(*shape)

    @property
    def reach(self) -> Tensor:
        """(A, 4) the farthest that a side is drawn, in grid units: half the input, within the bins."""
        height, width = self.size
        half = self.strides.new_tensor((width, height, width, height)) / 2 / self.strides[:, None]  # (A, 4)
        return half if self.head.reg_max == 1 else half.clamp(max=self.head.reg_max - 1)


class DesiredPrediction(NamedTuple):
    """What every anchor shall predict.

    Attributes:
        sides: (B, A, 4) left, top, right, bottom in grid units.
        logits: (B, A, C) of the classes.
        sharp: the sides shall decode to just these; else to about these, as a trained network's do.
    """

    sides: Tensor
    logits: Tensor
    sharp: bool = False


class Copy(NamedTuple):
    """A tie to plant: among one ground truth's candidates by rank of t, `target` gets what `source` predicts.

    Attributes:
        image: index of the image.
        truth: index of the ground truth in it.
        source: rank of the anchor that is copied, from 0.
        target: rank of the anchor that is overwritten.
    """

    image: int
    truth: int
    source: int
    target: int


REGIMES: dict[str, Callable[[Scene], DesiredPrediction]] = {}
"""Every regime of predictions by name; the functions' docstrings say what they are."""


def predictions(
    scene: Scene,
    regime: str,
    levels: int | None,
    copies: tuple[Copy, ...],
    hyperparameters: Hyperparameters,
) -> tuple[Tensor, Tensor]:
    """Distance logits (B, A, 4, R) and class logits (B, A, C) of a regime, quantised, with copies planted.

    Raises:
        ValueError: there is no such regime or number of levels, or no ground truth that a copy is for.
    """
    if regime not in REGIMES:
        raise ValueError(f"there is no regime {regime!r} of predictions; there are {', '.join(REGIMES)}")
    wish = REGIMES[regime](scene)
    if levels is not None:
        wish = quantised(wish, levels)
    noise = None if wish.sharp else 0.5 * scene.uniform(scene.anchors, 4, scene.head.reg_max)
    distances = encode(wish.sides, scene.head.reg_max, noise)  # (B, A, 4, R)
    for copy in copies:
        plant_tie(copy, scene, distances, wish.logits, hyperparameters)
    return distances, wish.logits


def regime(function: Callable[[Scene], DesiredPrediction]) -> Callable[[Scene], DesiredPrediction]:
    """Make a function a regime of predictions, under its own name."""
    REGIMES[function.__name__] = function
    return function


def within_reach(scene: Scene, sides: Tensor) -> Tensor:
    """Sides (B, A, 4) that bins can hold: none below zero. A single bin is a raw number, and holds any (DEC-1)."""
    return sides if scene.head.reg_max == 1 else sides.clamp(min=0)


def predictable(scene: Scene, sides: Tensor) -> Tensor:
    """Sides (B, A, 4) within reach; of a single bin one in four is turned round in x, and in y: an inverted box."""
    if scene.head.reg_max > 1:
        return within_reach(scene, sides)
    axes = scene.uniform(scene.anchors, 2) < 1 / 4  # (B, A, 2)
    turned = axes.repeat(1, 1, 2)  # (B, A, 4): left and right, top and bottom
    return torch.where(turned, -sides, sides)


@regime
def random(scene: Scene) -> DesiredPrediction:
    """Any box about the anchor from a quarter of the input's sides to all, any scores from 0.02 to 0.88."""
    return DesiredPrediction(any_sides(scene), 3 * scene.wobble(scene.anchors, scene.head.classes) - 1)


@regime
def near(scene: Scene) -> DesiredPrediction:
    """As after training: an anchor in or beside ground truths predicts one of them, not exactly."""
    owner, covered = aims(scene, scene.uniform(scene.anchors))
    exact = exact_sides(scene, owner)
    error, offset = scene.wobble(scene.anchors, 4), scene.wobble(scene.anchors, 4)
    sides = exact * (1 + 0.5 * error) + 0.3 * offset  # (B, A, 4)
    sides = torch.where(covered[..., None], sides, any_sides(scene))
    return DesiredPrediction(predictable(scene, sides), scores_for(scene, owner, covered))


@regime
def exact_hit(scene: Scene) -> DesiredPrediction:
    """As near, but three in four anchors predict their ground truth's very box, as exactly as bins allow."""
    owner, covered = aims(scene, scene.uniform(scene.anchors))
    wish, exact = near(scene), within_reach(scene, exact_sides(scene, owner))
    hits = covered & (scene.uniform(scene.anchors) < 0.75)  # (B, A)
    return DesiredPrediction(
        torch.where(hits[..., None], exact, wish.sides), scores_for(scene, owner, covered), sharp=True
    )


@regime
def close(scene: Scene) -> DesiredPrediction:
    """As near, but every edge errs by up to a fourth of the ground truth's side: of small boxes, by as little.

    Where a side is zero, by up to `POINT`: there the eps of IOU-1 is as large as what it is added to.
    """
    owner, covered = aims(scene, scene.uniform(scene.anchors))
    wish, exact = near(scene), exact_sides(scene, owner)  # (B, A, 4)
    side = (exact[..., :2] + exact[..., 2:]).repeat(1, 1, 2)  # (B, A, 4) width, height, width, height
    sides = within_reach(scene, exact + 0.25 * (side + POINT) * scene.wobble(scene.anchors, 4))
    return DesiredPrediction(torch.where(covered[..., None], sides, wish.sides), wish.logits, sharp=True)


@regime
def between(scene: Scene) -> DesiredPrediction:
    """In crowds: an anchor in several ground truths predicts the box half way between two of them."""
    lots = scene.uniform(scene.anchors)
    (one, covered), (other, _) = aims(scene, lots), aims(scene, lots, following=1)
    sides = (exact_sides(scene, one) + exact_sides(scene, other)) / 2  # (B, A, 4)
    sides = torch.where(covered[..., None], sides, any_sides(scene))
    return DesiredPrediction(within_reach(scene, sides), scores_for(scene, one, covered), sharp=True)


@regime
def saturated(scene: Scene) -> DesiredPrediction:
    """As near, driven to the ends: all weight on one bin, class logits 100, -30 or -100 (1, 1e-13 and 0)."""
    sides, logits, _ = near(scene)
    return DesiredPrediction(sides.round(), 130.0 * (logits > 0) - 70.0 * (logits < -4.5) - 30, sharp=True)


@regime
def constant(scene: Scene) -> DesiredPrediction:
    """The same logits at every anchor of every image."""
    reach = (
        scene.reach.double().mean(0).float()
    )  # (4,) in float64, as the order of the sum depends on the machine
    sides = (0.25 + 0.75 * scene.uniform(4)[0]) * reach  # (4,)
    logits = 3 * scene.wobble(scene.head.classes)[0] - 1  # (C,)
    shape = len(scene.generators), scene.anchors, -1
    return DesiredPrediction(sides.expand(shape), logits.expand(shape).clone(), sharp=True)


def quantised(wish: DesiredPrediction, levels: int) -> DesiredPrediction:
    """The wish with whole and half distances, so that boxes coincide, and `levels` different class logits.

    Raises:
        ValueError: `levels` is below 1.
    """
    if levels < 1:
        raise ValueError(f"quantisation needs at least one level, not {levels}")
    step = (HIGHEST - LOWEST) / levels
    rank = ((wish.logits - LOWEST) / step).floor().clamp(0, levels - 1)  # (B, A, C)
    return DesiredPrediction((2 * wish.sides).round() / 2, LOWEST + step * (rank + 0.5), sharp=True)


def any_sides(scene: Scene) -> Tensor:
    """(B, A, 4) sides in grid units, from a quarter of their reach (shorter ones overlap little) to all."""
    return (0.25 + 0.75 * scene.uniform(scene.anchors, 4)) * scene.reach


def aims(scene: Scene, lots: Tensor, following: int = 0) -> tuple[Tensor, Tensor]:
    """(B, A), (B, A) the ground truth each anchor aims at; whether it is in it, or under a stride beside.

    Args:
        scene: anchors and ground truths.
        lots: (B, A) from [0, 1) choose among those that are so close.
        following: take the one that comes so many places after the chosen one.
    """
    close = (depth(scene.centres, scene.boxes) > -scene.strides) & scene.present[..., None]  # (B, M, A)
    choices = close.sum(1)  # (B, A)
    place = ((lots * choices).floor() + following) % choices.clamp(min=1) + 1  # (B, A) counted from 1
    owner = (close & (close.cumsum(1) == place[:, None])).int().argmax(1)  # (B, A)
    return owner, choices > 0


def exact_sides(scene: Scene, owner: Tensor) -> Tensor:
    """(B, A, 4) sides in grid units from each anchor to its ground truth's edges; negative beyond an edge."""
    boxes = scene.boxes.gather(1, owner[..., None].expand(-1, -1, 4))  # (B, A, 4)
    return sides_to(boxes, scene.centres, scene.strides)


def scores_for(scene: Scene, owner: Tensor, covered: Tensor) -> Tensor:
    """(B, A, C) class logits: a covered anchor's own class scores 0.05 to 0.95, all others below 0.12."""
    logits = 2 * scene.wobble(scene.anchors, scene.head.classes) - 4  # (B, A, C)
    label = scene.labels.gather(1, owner)[..., None]  # (B, A, 1)
    own = 3 * scene.wobble(scene.anchors, 1)  # (B, A, 1)
    return torch.where(covered[..., None], logits.scatter(2, label, own), logits)


def plant_tie(
    copy: Copy, scene: Scene, distances: Tensor, logits: Tensor, hyperparameters: Hyperparameters
) -> None:
    """Make two of a ground truth's candidates predict the same box with the same scores, in place.

    The box is the source's, moved to half cells so that two anchors can encode it exactly, and grown to
    hold both centres. That changes u, so the score is set anew to keep the source's t, and so its rank,
    where a score can. Where fewer candidates than the ranks named have t > 0, nothing is planted.

    Args:
        copy: which ranks of which ground truth.
        scene: anchors and ground truths.
        distances: (B, A, 4, R) distance logits.
        logits: (B, A, C) class logits.
        hyperparameters: alpha and beta, for the ranks.

    Raises:
        ValueError: there is no such ground truth.
    """
    image, truth, *ranks = copy
    if image not in range(len(scene.boxes)) or not bool(scene.present[image, truth : truth + 1].any()):
        raise ValueError(f"{copy} is for a ground truth that is not there")
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
    """(A,) u (TAL-MET-1) of a ground truth (4,) and the `predicted` boxes (A, 4) of `anchors`, in float64."""
    centres = scene.centres if anchors is None else scene.centres[anchors]
    floor = scene.head.strides[min(1, len(scene.head.strides) - 1)]
    candidates = inside(centres, widened(box[None], floor)[0])  # (A,)
    return ciou(box, predicted.double()).clamp(min=0).where(candidates, 0)


def _shared_box(box: Tensor, scene: Scene, both: Tensor) -> Tensor:
    """(4,) `box` (4,) moved to half cells of the first of two anchors, around both, and within their bins."""
    half = scene.strides[both[0]] / 2
    centres = scene.centres[both]  # (2, 2)
    reach = scene.strides[both, None] * max(scene.head.reg_max - 1, 1)  # (2, 1)
    left_top, right_bottom = ((box / half).round() * half).split(2)  # (2,), (2,)
    left_top = torch.maximum(torch.minimum(left_top, centres.amin(0)), (centres - reach).amax(0))
    right_bottom = torch.minimum(torch.maximum(right_bottom, centres.amax(0)), (centres + reach).amin(0))
    return torch.cat((left_top, right_bottom))


def _logit_for(metric: float, overlap: float, hyperparameters: Hyperparameters) -> float:
    """Class logit with which `overlap` gives `metric`, as nearly as a score in (0, 1) can."""
    if overlap == 0 or hyperparameters.alpha == 0:
        return 0.0
    score = (metric / overlap**hyperparameters.beta) ** (1 / hyperparameters.alpha)
    score = min(max(score, 1e-4), 0.999)
    return round(math.log(score / (1 - score)) * 1024) / 1024  # no last bit that depends on the machine
