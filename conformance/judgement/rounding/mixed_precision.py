"""Enclosures of the decoded boxes, class scores and loss terms that 16-bit code computes.

Under autocast, and with half-precision feature maps without it, every operation of the official loss has a dtype, and
an operation rounds once, when its result is stored: kernels accumulate in float32, on the CPU as on CUDA. The
operations that read the feature maps are (H: the dtype of the feature maps, f: float32):

| Operation | CPU | CUDA |
|---|---|---|
| softmax of the distance logits (DEC-1) | H | f, then rounded to H by the product |
| product with the bins | H | H |
| anchor centre - or + distance, times stride (DEC-2) | H, H | H, H |
| sigmoid of the class logits (TAL-MET-1) | H | H |
| power of the score, s^alpha | H | f |
| overlap u, u^beta, t, top-k, conflict, weights | f | f |
| sides, area, quotient and arc tangent of a predicted box in the box loss | H | H |
| the other operations of CIoU there | f | f |
| target scores of the cross-entropy, rounded | H | H |
| cross-entropy and its sum | f (without autocast H) | f (without autocast H) |
| log-softmax of the distance logits (LOSS-DFL-1) | H | f (without autocast H) |
| weights, products, sums, quotients by N, gains | f | f |

An implementation may compute any of these steps more finely than H: then it skips a rounding. The steps before the
first one in float32 form few sequences, so each is followed from end to end, in float64, with intervals that hold the
float32 error of the kernels: a value next to a rounding boundary of H may be rounded to either side. The result of an
implementation lies within one of these intervals. P positives, R bins, u half of the machine epsilon of H.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.rounding.bounds import ciou_unit
from tal_reference import Dialect
from tal_reference.anchors import Anchors
from tal_reference.boxes import ciou
from tal_reference.decoding import decode
from tal_reference.loss import LAST_BIN_MARGIN, distances_to

FLOAT32_EPS = torch.finfo(torch.float32).eps


def is_coarse(dtype: torch.dtype) -> bool:
    """Return True for dtypes of 16 bits."""
    return torch.finfo(dtype).bits == 16


@dataclass(frozen=True)
class Interval:
    """Numbers between two ends, in float64.

    Attributes:
        low, high: the ends, same shape.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, values: Tensor, error: Tensor | float) -> "Interval":
        """Return the intervals [value - error, value + error] of given values, elementwise."""
        return cls(values - error, values + error)

    def stored(self, dtype: torch.dtype) -> "Interval":
        """Return the interval with both ends rounded to a dtype: the possible results of rounding its numbers."""
        return Interval(self.low.to(dtype).double(), self.high.to(dtype).double())

    def is_stored(self, dtype: torch.dtype) -> Tensor:
        """Return True where both ends are exactly representable in a dtype."""
        stored = self.stored(dtype)
        return (stored.low == self.low) & (stored.high == self.high)

    def joined(self, other: "Interval") -> "Interval":
        """Return the smallest interval that contains this interval and `other`."""
        return Interval(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))

    def stored_or_not(self, dtype: torch.dtype) -> tuple["Interval", "Interval"]:
        """Return two intervals, unrounded and rounded to a dtype, for an operation that may or may not round."""
        return self, self.stored(dtype)

    def distance_from(self, values: Tensor) -> Tensor:
        """Return, for each value, the largest distance between the value and a number of the interval."""
        return torch.maximum(self.high - values, values - self.low)

    @property
    def middle(self) -> Tensor:
        """Centre of the interval."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Half of the interval's length."""
        return (self.high - self.low) / 2


def hull(intervals: Sequence[Interval]) -> Interval:
    """Return the smallest interval that contains all `intervals`."""
    joined = intervals[0]
    for interval in intervals[1:]:
        joined = joined.joined(interval)
    return joined


def distance_sequences(distances: Tensor, reg_max: int, dtype: torch.dtype) -> list[Interval]:
    """Return the intervals of the sides' distances (.., 4) in grid units, one for each sequence of roundings (DEC-1).

    The probabilities, their products with the bins, and the distance may each be rounded or not. If the exponentials
    are multiplied by the bins before the division by their sum, they and their product are rounded.

    Args:
        distances: (.., 4R) distance logits, float64.
        reg_max: number R of bins.
        dtype: dtype of the feature maps.
    """
    if reg_max == 1:
        return [Interval(distances, distances)]
    sides = distances.unflatten(-1, (4, reg_max))  # (.., 4, R)
    below = sides.amax(-1, keepdim=True) - sides  # (.., 4, R)
    bins = torch.arange(reg_max, dtype=sides.dtype, device=sides.device)  # (R,)
    power = (-below).exp()  # (.., 4, R)
    whole = power.sum(-1, keepdim=True)  # (.., 4, 1)
    # in float32: difference to the largest logit, exponential, sum of R numbers, quotient
    noise = FLOAT32_EPS * (below + reg_max + 4)
    fine = Interval.around(power / whole, noise * power / whole)
    stored = fine.stored(dtype)
    products = Interval(stored.low * bins, stored.high * bins).stored(dtype)
    powers = Interval.around(power, noise * power).stored(dtype)
    numerator = _accumulated(powers.low @ bins, powers.high @ bins, reg_max).stored(dtype)
    sums = [
        _accumulated(powers.low.sum(-1), powers.high.sum(-1), reg_max),
        _accumulated(whole[..., 0], whole[..., 0], reg_max),
    ]
    quotients = [Interval(numerator.low / each.high, numerator.high / each.low) for each in sums]
    found = [
        _accumulated(fine.low @ bins, fine.high @ bins, reg_max),
        _accumulated(stored.low @ bins, stored.high @ bins, reg_max),
        _accumulated(products.low.sum(-1), products.high.sum(-1), reg_max),
        *(_accumulated(each.low, each.high, reg_max) for each in quotients),
    ]
    return [interval for each in found for interval in each.stored_or_not(dtype)]


def _accumulated(low: Tensor, high: Tensor, number: int) -> Interval:
    """Return the interval [low, high], widened by the float32 rounding of a sum of `number` numbers of equal sign."""
    error = number * FLOAT32_EPS
    return Interval(low * (1 - error), high * (1 + error))


def box_sequences(distances: Tensor, centres: Tensor, reg_max: int, dtype: torch.dtype) -> list[Interval]:
    """Return the intervals of decoded boxes (.., 4) in grid units, one for each sequence of roundings (DEC-2).

    Args:
        distances: (.., 4R) logits, float64.
        centres: (.., 2) anchor centres in grid units, float64.
        reg_max: R.
        dtype: dtype of the feature maps.
    """
    middle = torch.cat((centres, centres), dim=-1)  # (.., 4)
    middles = hull(Interval(middle, middle).stored_or_not(dtype))  # a coarse dtype rounds far anchors
    boxes: list[Interval] = []
    for distance in distance_sequences(distances, reg_max, dtype):
        low = torch.cat((-distance.high[..., :2], distance.low[..., 2:]), dim=-1) + middles.low
        high = torch.cat((-distance.low[..., :2], distance.high[..., 2:]), dim=-1) + middles.high
        error = FLOAT32_EPS * (middle + torch.maximum(low.abs(), high.abs()))
        # a sum of two numbers of 16 bits is exact before it is rounded, and often a tie
        error = error.where((distance.low != distance.high) | ~distance.is_stored(dtype), 0)
        boxes += Interval(low - error, high + error).stored_or_not(dtype)
    return boxes


def pixel_boxes(
    distances: Tensor, centres: Tensor, strides: Tensor, reg_max: int, dtype: torch.dtype
) -> Interval:
    """Return the interval that contains decoded boxes (.., 4) in pixels for every sequence of roundings (DEC-2).

    Args:
        distances: (.., 4R) logits, float64.
        centres: (.., 2) anchor centres in grid units, float64.
        strides: (.., 1) strides, float64.
        reg_max: R.
        dtype: dtype of the feature maps.
    """
    cells = hull(box_sequences(distances, centres, reg_max, dtype))
    factors = strides, strides.to(dtype).double()
    scaled = hull([Interval(cells.low * factor, cells.high * factor) for factor in factors])
    exact = scaled.is_stored(dtype)
    error = (FLOAT32_EPS * torch.maximum(scaled.low.abs(), scaled.high.abs())).where(~exact, 0)
    return hull(Interval(scaled.low - error, scaled.high + error).stored_or_not(dtype))


def class_scores(logits: Tensor, dtype: torch.dtype) -> Interval:
    """Return the interval of class scores that code of `dtype` may compute from `logits` (TAL-MET-1)."""
    score = logits.sigmoid()
    return hull(Interval.around(score, 4 * FLOAT32_EPS * score).stored_or_not(dtype))


def power_error(
    score: Tensor, overlap: Tensor, alpha: float, beta: float, dtype: torch.dtype
) -> Tensor | float:
    """Return the error of t by rounding s^alpha to the scores' dtype; 0 unless that has 16 bits (TAL-MET-1).

    Autocast computes the power in float32 on CUDA, in the scores' dtype on the CPU. s^0 and s^1 are exact.
    """
    if not is_coarse(dtype) or alpha in (0, 1):
        return 0.0
    limits = torch.finfo(dtype)
    step = limits.eps / 2 * score**alpha + limits.tiny * limits.eps  # a subnormal number may be flushed
    return step * overlap**beta


def log_probability_sequences(distances: Tensor, reg_max: int, dtype: torch.dtype) -> Iterator[Interval]:
    """Yield the intervals of log-probabilities (P, 4, R), one for each sequence of roundings (LOSS-DFL-1).

    The sequences are: all in float32; only the result rounded; and, as in torch's CPU kernel, the sum of exponentials,
    its logarithm and the result rounded.
    """
    sides = distances.unflatten(-1, (4, reg_max))  # (P, 4, R)
    below = sides.amax(-1, keepdim=True) - sides  # (P, 4, R)
    exact = sides.log_softmax(-1)
    # in float32: difference to the largest logit, logarithm of a sum of R exponentials, difference of the two
    noise = FLOAT32_EPS * (below + exact.abs() + reg_max)
    yield from Interval.around(exact, noise).stored_or_not(dtype)
    whole = (-below).exp().sum(-1, keepdim=True)  # (P, 4, 1)
    stored = Interval.around(whole, (reg_max + 4) * FLOAT32_EPS * whole).stored(dtype)
    logarithm = Interval(stored.low.log() - FLOAT32_EPS, stored.high.log() + FLOAT32_EPS).stored(
        dtype
    )  # (P, 4, 1)
    yield Interval(-below - logarithm.high - noise, -below - logarithm.low + noise).stored(dtype)


@dataclass(frozen=True)
class MixedTerms:
    """The inputs of the positives' losses under autocast, in float64: P positives, R bins.

    Attributes:
        distances: (P, 4R) distance logits.
        centres: (P, 2) anchor centres in grid units.
        target: (P, 4) target boxes in grid units.
        weights: (P,) target scores w.
        reg_max: number R of bins.
        dtype: dtype of the feature maps.
    """

    distances: Tensor
    centres: Tensor
    target: Tensor
    weights: Tensor
    reg_max: int
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        batch: Batch,
        dialect: Dialect,
        distances: Tensor,
        centres: Tensor,
        target: Tensor,
        weights: Tensor,
    ) -> "MixedTerms | None":
        """Return the inputs of the positives' losses; None if the dtypes of the loss's operations are not known.

        They are known only under autocast, with feature maps of 16 bits, and for dialects that are releases.
        """
        if not (batch.autocast and is_coarse(batch.dtype)) or dialect.is_varied:
            return None
        return cls(distances, centres, target, weights, batch.head.reg_max, batch.dtype)

    def term_errors(self, learning: Tensor, scores: Tensor) -> Tensor:
        """Return the largest differences (3,) of box, cls and dfl from their float64 values, before N and gain.

        Args:
            learning: (P,) class logits of the positives at their labels.
            scores: (P,) target scores of these logits.
        """
        of_side = self.dfl_error() if self.reg_max > 1 else self.weights.new_zeros(())
        return torch.stack((self.box_error(), learnt_error(learning, scores, self.dtype), of_side))

    @property
    def step(self) -> float:
        """Largest relative error of one rounding: half of the machine epsilon of the dtype."""
        return float(torch.finfo(self.dtype).eps) / 2

    def box_error(self) -> Tensor:
        """Return the largest difference of the weighted sum of 1 - CIoU from its float64 value (LOSS-BOX-1).

        All positives take the same sequence of roundings, so the sums are compared, not their parts.
        """
        predicted = hull(self.boxes).middle
        exact, errors = 1 - ciou(self.target, self.exact_boxes), []  # (P,)
        for boxes in self.boxes:
            moved = (self.weights * (1 - ciou(self.target, boxes.middle) - exact)).sum().abs()
            spread = ciou_unit(self.target, boxes.middle, boxes.radius.amax(1), 0.0)  # (P,)
            errors.append(moved + (self.weights * spread).sum())
        parts = ciou_unit(self.target, predicted, 0.0, 0.0, self.step)  # (P,)
        return torch.stack(errors).amax() + (self.weights * parts).sum()

    def edge_errors(self) -> Tensor:
        """Return the largest error (P,) of a predicted box's edges in grid units."""
        return hull(self.boxes).distance_from(self.exact_boxes).amax(1)

    def centre_errors(self) -> Tensor:
        """Return the errors (P, 2) of anchor centres in grid units: a coarse dtype rounds far anchors."""
        return (self.centres.to(self.dtype).double() - self.centres).abs()

    def dfl_error(self) -> Tensor:
        """Return the largest difference of the weighted sum of DFL from its float64 value, for R > 1 (LOSS-DFL-1)."""
        clamped = distances_to(self.target, self.centres).clamp(
            0, self.reg_max - 1 - LAST_BIN_MARGIN
        )  # (P, 4)
        share = clamped - clamped.floor()  # (P, 4) of the upper bin
        lower = clamped.floor().long()[..., None]  # (P, 4, 1)

        def loss(log_probability: Tensor) -> Tensor:
            """Return the weighted cross-entropy (P,) of the two bins around each target distance."""
            below, above = (
                log_probability.gather(-1, lower + step).squeeze(-1) for step in (0, 1)
            )  # (P, 4) twice
            return -((1 - share) * below + share * above).mean(1)

        exact, errors = loss(self.distances.unflatten(1, (4, self.reg_max)).log_softmax(-1)), []
        for values in log_probability_sequences(self.distances, self.reg_max, self.dtype):
            moved = (self.weights * (loss(values.middle) - exact)).sum().abs()
            errors.append(moved + (self.weights * loss(-values.radius)).sum())
        return torch.stack(errors).amax()

    @cached_property
    def boxes(self) -> list[Interval]:
        """The predicted boxes (P, 4) in grid units, one interval for each sequence of roundings."""
        return box_sequences(self.distances, self.centres, self.reg_max, self.dtype)

    @cached_property
    def exact_boxes(self) -> Tensor:
        """(P, 4) predicted boxes in grid units, float64."""
        return decode(
            self.distances, Anchors(self.centres, torch.ones_like(self.centres[:, :1])), self.reg_max
        )


def learnt_error(learning: Tensor, scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the change of the sum of z x by rounding the target scores z (P,) of logits x (P,) (LOSS-CLS-1)."""
    return (learning * (scores.to(dtype).double() - scores)).sum().abs()


def logit_gradient_error(score: Tensor, target: Tensor, scale: Tensor | float, dtype: torch.dtype) -> Tensor:
    """Return the error of the gradient (s - z) * scale on class logits under autocast (LOSS-CLS-1, LOSS-GRAD-1).

    The gradient and z are stored in the dtype of the feature maps. The loss uses the logits twice: both gradients and
    their sum are stored in that dtype; s and its product may be stored in it too.

    Args:
        score: class scores s, float64.
        target: target scores z, broadcastable to `score`.
        scale: gain and batch size over N.
        dtype: dtype of the feature maps.
    """
    limits = torch.finfo(dtype)
    return 3 * (limits.eps / 2 * (score + target) * scale + limits.tiny * limits.eps)
