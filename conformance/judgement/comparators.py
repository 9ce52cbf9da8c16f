"""Comparators of tensors. Each raises `Mismatch` or returns an `Agreement`, so that no result is ignored by mistake."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tal_conformance.core.verdicts import Agreement, Mismatch, Value, Verdict

MAX_TOLERANCE_SHARE = 0.5
"""Largest share of a number's range that its tolerance may be: with half of it, no value lies beyond the tolerance of a
number in the middle."""
SHOWN = 6
"""Number of values that a mismatch lists."""

observer: ContextVar[Callable[[str, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], None] | None] = (
    ContextVar("observer", default=None)
)
"""Called with quantity, observed, expected, tolerance, same_dtype and extra_tolerance of every `assert_within`; set by
the command `measure`."""


class Quantity(NamedTuple):
    """The description of a compared tensor in messages.

    Attributes:
        name: name of the quantity, such as "overlap u".
        clause: the clause that prescribes the quantity.
        dimensions: a name for each dimension of the tensor, such as "GT", "anchor".
        image: index of the image that the tensor belongs to; None if the tensor has a dimension for images.
    """

    name: str
    clause: str
    dimensions: Sequence[str] = ()
    image: int | None = None


class Bounded(NamedTuple):
    """Expected values and their tolerances.

    Attributes:
        expected: expected values, float64.
        tolerance: largest allowed difference of each value, float64, same shape.
        same_dtype: result of the reference in the implementation's dtype; identical bits count as exact. Where this
            result is not finite (16 bits overflow, and 0 / 0 follows), the implementation may have the same infinity or
            NaN.
        extra_tolerance: the part of the tolerance that is not a multiple of a rounding; only measurements read it.
        value_range: length of the range in which the numbers can lie, same shape: a tolerance of more than
            `MAX_TOLERANCE_SHARE` of the range accepts nearly every number. None: tolerances are not compared with a
            range.
    """

    expected: Tensor
    tolerance: Tensor
    same_dtype: Tensor | None = None
    extra_tolerance: Tensor | None = None
    value_range: Tensor | None = None

    def at(self, places: Tensor | int) -> "Bounded":
        """Return the expected values at an index, or at some indices, of the first dimension."""

        def selected(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[places]

        expected, tolerance, *optional = self
        return Bounded(expected[places], tolerance[places], *map(selected, optional))


def assert_within(quantity: Quantity, observed: Tensor, bounded: Bounded) -> Agreement:
    """Assert that every observed number lies within its tolerance of the expected number.

    Raises:
        Mismatch: a number lies further away or is not finite, or the shapes differ.
    """
    expected, tolerance, same_dtype, extra_tolerance, value_range = bounded
    remark = "" if value_range is None else too_wide(quantity, tolerance, value_range)
    _assert_same_shape(quantity, observed, expected)
    observed = observed.detach()
    error = (observed.double() - expected).abs_()
    margin = largest(error / tolerance.where(tolerance > 0, 0))
    beyond = None
    if not margin < 1:  # NaN among numbers or tolerances, an error above its tolerance, or both of them zero
        if same_dtype is not None and not all_finite(same_dtype):
            observed, expected, tolerance = _without_overflows(observed, expected, tolerance, same_dtype)
        assert_finite(quantity, observed)
        error = (observed.double() - expected).abs()
        # also where the tolerance is NaN, or infinite as expected
        beyond = ~(error <= tolerance) | error.isinf()
        margin = largest((error / tolerance).nan_to_num(nan=0.0))
    observe = observer.get()
    if observe is not None:
        rounding = tolerance if extra_tolerance is None else tolerance - extra_tolerance
        observe(quantity.name, observed, expected, rounding, same_dtype, extra_tolerance)
    if beyond is not None and beyond.any():
        badness = error / tolerance.clamp(min=1e-300)
        values = _values(quantity, beyond, badness, observed, expected, tolerance)
        worst = values[0]
        raise Mismatch(
            f"{quantity.name} is {worst.implementation} at {worst.where}, expected {worst.reference} "
            f"within {worst.bound} ({int(beyond.sum())} of {beyond.numel()} differ)",
            quantity.clause,
            values,
        )
    exact = same_dtype is not None and torch.equal(observed, same_dtype.to(observed.dtype))
    return Agreement(margin, exact, remark)


def too_wide(quantity: Quantity, tolerance: Tensor, value_range: Tensor) -> str:
    """Return a sentence if some tolerance exceeds `MAX_TOLERANCE_SHARE` of its number's range; else "".

    With such a tolerance, nearly every number would agree.
    """
    wide = tolerance > MAX_TOLERANCE_SHARE * value_range
    if not wide.any():
        return ""
    bound, length = float(tolerance[wide].max()), float(value_range.expand_as(tolerance)[wide].max())
    return (
        f"{quantity.name} is not judged: its bound, {bound:.2g}, is more than {MAX_TOLERANCE_SHARE:.0%} of the range "
        f"in which it can lie, {length:.2g}"
    )


def _without_overflows(
    observed: Tensor, expected: Tensor, tolerance: Tensor, same_dtype: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `observed`, `expected` and `tolerance`, with numbers that overflow the dtype replaced by agreeing numbers.

    A number counts as overflowing if `observed` has the same infinity or NaN as `same_dtype`. The expected float64
    number may also be infinite or NaN, because a divisor may be zero.
    """
    same = (observed == same_dtype) | (observed.isnan() & same_dtype.isnan())
    overflows = ~same_dtype.isfinite() & same
    return (
        observed.where(~overflows, 0),
        expected.where(~overflows, 0),
        tolerance.where(~overflows, torch.inf),
    )


def largest(values: Tensor) -> float:
    """Return the largest number: zero for an empty tensor, NaN if any is NaN."""
    return float(values.detach().max()) if values.numel() else 0.0


def all_finite(values: Tensor) -> bool:
    """Return True if every number is finite. A finite sum proves it, so that single numbers are rarely checked."""
    return math.isfinite(values.detach().sum()) or bool(values.isfinite().all())


def assert_within_at(
    quantity: Quantity, observed: Tensor, at: tuple[Tensor, ...], bounded: Bounded
) -> Agreement:
    """Assert that the numbers at P places lie within their tolerances, and that all others are exactly zero.

    Args:
        quantity: name, clause and dimensions of `observed`, for the message.
        observed: result of the implementation, (.., *rest).
        at: indices (P,) of the places in the first dimensions of `observed`.
        bounded: expected numbers at these places, (P, *rest).

    Raises:
        Mismatch: a number lies further away, is not finite, or is not zero elsewhere; or the shapes differ.
    """
    selected = observed[at]  # (P, *rest)
    _assert_same_shape(quantity, selected, bounded.expected)
    if not observed.index_put(at, observed.new_zeros(())).any():  # NaN counts as set
        with suppress(Mismatch):  # raised below, with the places as indices of `observed`
            return assert_within(Quantity(quantity.name, quantity.clause), selected, bounded)

    def scattered(values: Tensor) -> Tensor:
        return values.new_zeros(observed.shape).index_put(at, values)

    expected, tolerance, same_dtype, extra, _ = bounded
    same_dtype = None if same_dtype is None else scattered(same_dtype)
    extra = scattered(extra) if extra is not None and extra.ndim else extra
    return assert_within(
        quantity, observed, Bounded(scattered(expected), scattered(tolerance), same_dtype, extra)
    )


def assert_equal(
    quantity: Quantity, observed: Tensor, expected: Tensor, where: Tensor | None = None
) -> Agreement:
    """Assert that every observed element equals the expected one; with a mask `where`, only the elements it selects.

    Raises:
        Mismatch: an element differs, or the shapes differ.
    """
    _assert_same_shape(quantity, observed, expected)
    differs = observed != expected
    if where is not None:
        differs = differs & where.view(*where.shape, *[1] * (differs.ndim - where.ndim))
    if differs.any():
        values = _values(quantity, differs, differs.double(), observed, expected, None)
        worst = values[0]
        raise Mismatch(
            f"{quantity.name} is {worst.implementation} at {worst.where}, expected {worst.reference} "
            f"({int(differs.sum())} of {differs.numel()} differ)",
            quantity.clause,
            values,
        )
    return Agreement()


def assert_none(
    quantity: Quantity, broken: Tensor, observed: Tensor, expected: str, problem: str = ""
) -> Agreement:
    """Assert that no element of the mask `broken` is True.

    Args:
        quantity: name, clause and dimensions of `observed`, for the message.
        broken: bool, same shape as `observed`.
        observed: result of the implementation.
        expected: expected value, in words.
        problem: message; by default the quantity's name.

    Raises:
        Mismatch: an element is True.
    """
    if not broken.any():
        return Agreement()
    name, clause, dimensions, image = quantity
    places = broken.nonzero()
    values = [
        Value(
            place_name(place, dimensions, image), name, expected, _text(observed[tuple(place)]), "none",
            _anchor(place, dimensions), image,
        )
        for place in places[:SHOWN]
    ]  # fmt: skip
    count = f"{len(places)} place{'s' * (len(places) > 1)}"
    raise Mismatch(f"{problem or name} at {values[0].where} ({count})", clause, values)


def assert_finite(quantity: Quantity, observed: Tensor) -> Agreement:
    """Assert that every number is finite.

    Raises:
        Mismatch: a number is NaN or infinite; its verdict is ERROR.
    """
    if not all_finite(observed):
        bad = ~torch.isfinite(observed)
        expected = torch.zeros_like(observed)
        values = _values(quantity, bad, bad.double(), observed, expected, None)
        values = [replace(value, reference="a finite number", bound="none") for value in values]
        first = values[0]
        raise Mismatch(
            f"{quantity.name} is {first.implementation} at {first.where}, expected a finite number",
            quantity.clause,
            values,
            Verdict.ERROR,
        )
    return Agreement()


def _assert_same_shape(quantity: Quantity, observed: Tensor, expected: Tensor) -> None:
    if observed.shape != expected.shape:
        raise Mismatch(
            f"{quantity.name} has shape {tuple(observed.shape)}, expected {tuple(expected.shape)}",
            quantity.clause,
            verdict=Verdict.ERROR,
        )


def _values(
    quantity: Quantity,
    differs: Tensor,
    badness: Tensor,
    observed: Tensor,
    expected: Tensor,
    tolerance: Tensor | None,
) -> list[Value]:
    """Return the `SHOWN` places with the largest `badness` among those where `differs` is True, largest first."""
    name, _, dimensions, image = quantity
    order = badness[differs].argsort(descending=True, stable=True)[:SHOWN]
    return [
        Value(
            place_name(place, dimensions, image),
            name,
            _text(expected[tuple(place)]),
            _text(observed[tuple(place)]),
            "0" if tolerance is None else f"{float(tolerance[tuple(place)]):.2g}",
            _anchor(place, dimensions),
            int(place[dimensions.index("image")]) if "image" in dimensions else image,
        )
        for place in differs.nonzero()[order]
    ]


def place_name(place: Tensor, names: Sequence[str], image: int | None) -> str:
    """Return the name of a place, such as "image 0, GT 1, anchor 17"."""
    parts = [] if image is None else [f"image {image}"]
    for dimension, index in enumerate(place.tolist()):
        name = names[dimension] if dimension < len(names) else f"index {dimension}"
        parts.append(f"{name} {index}")
    return ", ".join(parts) or "the whole batch"


def _anchor(place: Tensor, names: Sequence[str]) -> int | None:
    return int(place[names.index("anchor")]) if "anchor" in names else None


def _text(value: Tensor) -> str:
    number = value.item()
    return f"{number:.9g}" if isinstance(number, float) else str(number)
