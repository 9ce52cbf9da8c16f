"""Arithmetic with enclosures: intervals that contain every result which rounding of a dtype may give.

Every operation rounds outward by the machine epsilon of the dtype, twice the largest error of one rounding, so that
an implementation may take two steps where the clause has one step. Bounds follow from the clause's formula alone, also
where a first-order bound fails: at roots near zero, clamps, and differences that cancel.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Enclosure:
    """Intervals in float64, with the epsilon by which operations round.

    Both ends of all intervals are one tensor, so that an operation on enclosures is few operations on tensors.

    Attributes:
        ends: (2, ...) the lower and the upper ends.
        eps: machine epsilon of the implementation's dtype.
    """

    ends: Tensor
    eps: float

    @classmethod
    def between(cls, low: Tensor, high: Tensor, eps: float) -> "Enclosure":
        """Return the enclosure with these ends, of the same shape."""
        return cls(torch.stack((low, high)), eps)

    @classmethod
    def around(cls, values: Tensor, error: Tensor | float, eps: float) -> "Enclosure":
        """Return the enclosure of values (float64) with an error."""
        return cls.between(values - error, values + error, eps)

    @property
    def low(self) -> Tensor:
        """Lower ends."""
        return self.ends[0]

    @property
    def high(self) -> Tensor:
        """Upper ends."""
        return self.ends[1]

    def __getitem__(self, at: Any) -> "Enclosure":
        """Return the enclosures at an index of tensors, such as a column."""
        index = at if isinstance(at, tuple) else (at,)
        return Enclosure(self.ends[(slice(None), *index)], self.eps)

    def _aligned(self, other: "Enclosure") -> tuple[Tensor, Tensor]:
        """Return the ends of both with equal numbers of dimensions, so that they broadcast as their ends alone do."""
        first, second = self.ends, other.ends
        more = first.ndim - second.ndim
        if not more:
            return first, second
        first, second = (
            ends.view(2, *(1,) * missing, *ends.shape[1:])
            for ends, missing in ((first, max(-more, 0)), (second, max(more, 0)))
        )
        return first, second

    def _outward(self, ends: Tensor) -> "Enclosure":
        outward = ends + ends.abs() * roundings(self.eps, ends.ndim, ends.dtype, ends.device)
        if math.isnan(outward.sum()):  # perhaps the difference of two infinities
            low, high = outward
            nothing = low.isnan() | high.isnan()
            outward = torch.stack(
                (low.masked_fill(nothing, -torch.inf), high.masked_fill(nothing, torch.inf))
            )
        return Enclosure(outward, self.eps)

    def __neg__(self) -> "Enclosure":
        return Enclosure(-self.ends.flip(0), self.eps)

    def __add__(self, other: "Enclosure | float") -> "Enclosure":
        if not isinstance(other, Enclosure):
            return self._outward(self.ends + other)
        first, second = self._aligned(other)
        return self._outward(first + second)

    def __sub__(self, other: "Enclosure | float") -> "Enclosure":
        if not isinstance(other, Enclosure):
            return self._outward(self.ends - other)
        first, second = self._aligned(other)
        return self._outward(first - second.flip(0))

    def __mul__(self, other: "Enclosure | float") -> "Enclosure":
        if isinstance(other, Enclosure):
            first, second = self._aligned(other)
            products = (first[:, None] * second).flatten(0, 1)  # (4, ...)
            return self._outward(torch.stack(torch.aminmax(_without_nan(products), dim=0)))
        ends = self.ends if other >= 0 else self.ends.flip(0)
        return self._outward(_without_nan(ends * other))

    def __truediv__(self, other: "Enclosure | float") -> "Enclosure":
        if not isinstance(other, Enclosure):
            return self * (1 / other)
        crosses = (other.low <= 0) & (other.high >= 0)
        everything = roundings(torch.inf, other.ends.ndim, other.ends.dtype, other.ends.device)  # (2, 1..)
        inverse = torch.where(crosses, everything, other.ends.reciprocal().flip(0))
        return self * Enclosure(inverse, 0.0)

    def square(self) -> "Enclosure":
        """Return the enclosures of the squares."""
        least, size = torch.aminmax(self.ends.abs(), dim=0)
        least = least.where((self.low > 0) | (self.high < 0), 0)
        return self._outward(torch.stack((least, size)).square())

    def sqrt(self) -> "Enclosure":
        """Return the enclosures of the square roots; numbers below zero count as zero."""
        return self._outward(self.ends.clamp(min=0).sqrt())

    def log(self) -> "Enclosure":
        """Return the enclosures of the logarithms; numbers below zero count as zero."""
        return self._outward(self.ends.clamp(min=0).log())

    def exp(self) -> "Enclosure":
        """Return the enclosures of the exponentials; that of a number <= 0 is at most 1, however it is rounded."""
        result = self._outward(self.ends.exp()).ends
        return Enclosure(torch.where(self.high <= 0, result.clamp(max=1), result), self.eps)

    def clamp(self, low: float | None = None, high: float | None = None) -> "Enclosure":
        """Return the enclosures of the numbers clamped to [low, high]; clamping does not round."""
        return Enclosure(self.ends.clamp(low, high), self.eps)

    def with_zero(self, where: Tensor) -> "Enclosure":
        """Return enclosures extended to contain zero where the mask is True."""
        extended = torch.stack((self.low.clamp(max=0), self.high.clamp(min=0)))
        return Enclosure(torch.where(where, extended, self.ends), self.eps)

    def zeroed(self, where: Tensor) -> "Enclosure":
        """Return the enclosures, exactly zero where the mask is True."""
        return Enclosure(self.ends.masked_fill(where, 0), self.eps)

    def distance_from(self, values: Tensor) -> Tensor:
        """Return, for each value, the largest distance between the value and a number of the enclosure."""
        distance = torch.maximum(self.high - values, values - self.low)
        return distance.nan_to_num(nan=torch.inf, posinf=torch.inf)

    @property
    def size(self) -> Tensor:
        """Largest absolute value of each enclosure."""
        return self.ends.abs().amax(0)


@lru_cache(maxsize=64)
def roundings(eps: float, dimensions: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return -eps and eps as a tensor (2, 1, ...) of this number of dimensions, for the ends of enclosures."""
    return torch.tensor((-eps, eps), dtype=dtype, device=device).view(2, *(1,) * (dimensions - 1))


def _without_nan(products: Tensor) -> Tensor:
    """Return products of ends, with zero for 0 times an infinite end."""
    return products.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def cosine_and_sine(angles: Tensor, error: Tensor | float, eps: float) -> tuple[Enclosure, Enclosure]:
    """Return enclosures of cosine and sine of angles (float64) with an error; their slopes are at most 1."""
    return tuple(
        Enclosure.around(value, error + eps * value.abs(), eps) for value in (angles.cos(), angles.sin())
    )  # type: ignore[return-value] # a pair
