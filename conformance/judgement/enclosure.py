"""Arithmetic with enclosures: intervals that contain every result which rounding of a dtype may give.

Every operation rounds outward by the machine epsilon of the dtype, twice the largest error of one rounding, so that
an implementation may take two steps where the clause has one step. Bounds follow from the clause's formula alone, also
where a first-order bound fails: at roots near zero, clamps, and differences that cancel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Enclosure:
    """Intervals in float64, with the epsilon by which operations round.

    Attributes:
        low, high: the ends, same shape.
        eps: machine epsilon of the implementation's dtype.
    """

    low: Tensor
    high: Tensor
    eps: float

    @classmethod
    def around(cls, values: Tensor, error: Tensor | float, eps: float) -> "Enclosure":
        """Return the enclosure of values (float64) with an error."""
        return cls(values - error, values + error, eps)

    def _outward(self, low: Tensor, high: Tensor) -> "Enclosure":
        ends = low - self.eps * low.abs(), high + self.eps * high.abs()
        nothing = ends[0].isnan() | ends[1].isnan()  # the difference of two infinities
        if bool(nothing.any()):
            ends = ends[0].masked_fill(nothing, -torch.inf), ends[1].masked_fill(nothing, torch.inf)
        return Enclosure(*ends, self.eps)

    def _lifted(self, other: "Enclosure | float") -> "Enclosure":
        if isinstance(other, Enclosure):
            return other
        value = self.low.new_tensor(other)
        return Enclosure(value, value, self.eps)

    def __neg__(self) -> "Enclosure":
        return Enclosure(-self.high, -self.low, self.eps)

    def __add__(self, other: "Enclosure | float") -> "Enclosure":
        second = self._lifted(other)
        return self._outward(self.low + second.low, self.high + second.high)

    def __sub__(self, other: "Enclosure | float") -> "Enclosure":
        return self + (-self._lifted(other))

    def __mul__(self, other: "Enclosure | float") -> "Enclosure":
        second = self._lifted(other)
        ends = torch.stack(
            torch.broadcast_tensors(
                *(a * b for a in (self.low, self.high) for b in (second.low, second.high))
            )
        ).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)  # 0 times an infinite end
        return self._outward(ends.amin(0), ends.amax(0))

    def __truediv__(self, other: "Enclosure | float") -> "Enclosure":
        second = self._lifted(other)
        crosses = (second.low <= 0) & (second.high >= 0)
        inverse = Enclosure(
            (1 / second.high).where(~crosses, -torch.inf), (1 / second.low).where(~crosses, torch.inf), 0.0
        )
        return self * inverse

    def square(self) -> "Enclosure":
        """Return the enclosures of the squares."""
        size, least = (
            torch.maximum(self.low.abs(), self.high.abs()),
            torch.minimum(self.low.abs(), self.high.abs()),
        )
        least = least.where((self.low > 0) | (self.high < 0), 0)
        return self._outward(least.square(), size.square())

    def sqrt(self) -> "Enclosure":
        """Return the enclosures of the square roots; numbers below zero count as zero."""
        return self._outward(self.low.clamp(min=0).sqrt(), self.high.clamp(min=0).sqrt())

    def log(self) -> "Enclosure":
        """Return the enclosures of the logarithms; numbers below zero count as zero."""
        return self._outward(self.low.clamp(min=0).log(), self.high.clamp(min=0).log())

    def exp(self) -> "Enclosure":
        """Return the enclosures of the exponentials; that of a number <= 0 is at most 1, however it is rounded."""
        result = self._outward(self.low.exp(), self.high.exp())
        return Enclosure(
            result.low, torch.where(self.high <= 0, result.high.clamp(max=1), result.high), self.eps
        )

    def clamp(self, low: float | None = None, high: float | None = None) -> "Enclosure":
        """Return the enclosures of the numbers clamped to [low, high]; clamping does not round."""
        return Enclosure(self.low.clamp(low, high), self.high.clamp(low, high), self.eps)

    def with_zero(self, where: Tensor) -> "Enclosure":
        """Return enclosures extended to contain zero where the mask is True."""
        return Enclosure(
            self.low.where(~where, self.low.clamp(max=0)),
            self.high.where(~where, self.high.clamp(min=0)),
            self.eps,
        )

    def zeroed(self, where: Tensor) -> "Enclosure":
        """Return the enclosures, exactly zero where the mask is True."""
        return Enclosure(self.low.masked_fill(where, 0), self.high.masked_fill(where, 0), self.eps)

    def distance_from(self, values: Tensor) -> Tensor:
        """Return, for each value, the largest distance between the value and a number of the enclosure."""
        distance = torch.maximum(self.high - values, values - self.low)
        return distance.nan_to_num(nan=torch.inf, posinf=torch.inf)

    @property
    def size(self) -> Tensor:
        """Largest absolute value of each enclosure."""
        return torch.maximum(self.low.abs(), self.high.abs())


def cosine_and_sine(angles: Tensor, error: Tensor | float, eps: float) -> tuple[Enclosure, Enclosure]:
    """Return enclosures of cosine and sine of angles (float64) with an error; their slopes are at most 1."""
    return tuple(
        Enclosure.around(value, error + eps * value.abs(), eps) for value in (angles.cos(), angles.sin())
    )  # type: ignore[return-value] # a pair
