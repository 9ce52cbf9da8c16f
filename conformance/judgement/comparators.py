"""Comparators: they raise `Mismatch`, or return how well the numbers agree. None can be ignored by mistake."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace

import torch
from torch import Tensor

from tal_conformance.core.verdicts import Agreement, Mismatch, Value, Verdict

SHOWN = 6
"""Places that a mismatch lists."""

observer: ContextVar[Callable[[str, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], None] | None] = (
    ContextVar("observer", default=None)
)
"""Sees quantity, observed, expected, bound, naive and `extra_tolerance` of every `within`; `measure` sets it."""


def assert_within(
    quantity: str,
    clause: str,
    observed: Tensor,
    expected: Tensor,
    bound: Tensor,
    same_dtype: Tensor | None = None,
    names: Sequence[str] = (),
    image: int | None = None,
    extra_tolerance: Tensor | None = None,
) -> Agreement:
    """Every observed number lies within its bound of the expected one.

    Args:
        quantity: what is compared, for the message.
        clause: the clause that asks for it.
        observed: what the implementation computed.
        expected: the same in float64.
        bound: how far each may differ, float64, same shape.
        same_dtype: what the reference computes in the implementation's dtype; equal bits count as exact. Where it is
            not finite (16 bits overflow, and 0 / 0 follows), the implementation may have the same infinity or NaN.
        names: what each dimension counts ("GT", "anchor"), for the message.
        image: the image that all of it belongs to.
        extra_tolerance: the part of the bound that is no multiple of a rounding, for those who measure roundings.

    Raises:
        Mismatch: some number lies further away, is not finite, or the shapes differ.
    """
    _same_shape(quantity, clause, observed, expected)
    observed = observed.detach()
    error = (observed.double() - expected).abs_()
    margin = largest(error / bound.where(bound > 0, 0))
    beyond = None
    if not margin < 1:  # a number or a bound may be none, an error more than its bound, or both zero
        if same_dtype is not None and not all_finite(same_dtype):
            observed, expected, bound = _without_overflows(observed, expected, bound, same_dtype)
        finite(quantity, clause, observed, names)
        error = (observed.double() - expected).abs()
        beyond = ~(error <= bound)  # a bound that is no number is no bound
        margin = largest((error / bound).nan_to_num(nan=0.0))
    watching = observer.get()
    if watching is not None:
        watching(
            quantity,
            observed,
            expected,
            bound if extra_tolerance is None else bound - extra_tolerance,
            same_dtype,
            extra_tolerance,
        )
    if beyond is not None and beyond.any():
        badness = error / bound.clamp(min=1e-300)
        values = _values(quantity, beyond, badness, observed, expected, bound, names, image)
        worst = values[0]
        raise Mismatch(
            f"{quantity} is {worst.implementation} at {worst.where}, expected {worst.reference} "
            f"within {worst.bound} ({int(beyond.sum())} of {beyond.numel()} differ)",
            clause,
            values,
        )
    exact = same_dtype is not None and torch.equal(observed, same_dtype.to(observed.dtype))
    return Agreement(margin, exact)


def _without_overflows(
    observed: Tensor, expected: Tensor, bound: Tensor, same_dtype: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Observed, expected and bound without what the dtype cannot hold: where `same_dtype` is the same infinity or NaN.

    Float64 may not hold it either: a sum may be zero that is divided by.
    """
    same = (observed == same_dtype) | (observed.isnan() & same_dtype.isnan())
    overflows = ~same_dtype.isfinite() & same
    return observed.where(~overflows, 0), expected.where(~overflows, 0), bound.where(~overflows, torch.inf)


def largest(values: Tensor) -> float:
    """The largest number, zero where there is none, NaN if one is NaN."""
    return float(values.detach().max()) if values.numel() else 0.0


def all_finite(values: Tensor) -> bool:
    """Whether every number is one. A sum of numbers is nearly always one, and never if one of them is not."""
    return math.isfinite(values.detach().sum()) or bool(values.isfinite().all())


def assert_within_at(
    quantity: str,
    clause: str,
    observed: Tensor,
    at: tuple[Tensor, ...],
    expected: Tensor,
    bound: Tensor,
    same_dtype: Tensor | None = None,
    names: Sequence[str] = (),
    image: int | None = None,
    extra_tolerance: Tensor | None = None,
) -> Agreement:
    """Every observed number at P places lies within its bound of the expected one, and all others are exactly zero.

    Args:
        quantity: what is compared, for the message.
        clause: the clause that asks for it.
        observed: what the implementation computed, (.., *rest).
        at: indices (P,) of the places in its first dimensions.
        expected: what belongs there in float64, (P, *rest).
        bound: how far each may differ, float64, same shape.
        same_dtype: what the reference computes there in the implementation's dtype.
        names: what each dimension of `observed` counts, for the message.
        image: the image that all of it belongs to.
        extra_tolerance: the part of the bound that is no multiple of a rounding.

    Raises:
        Mismatch: some number lies further away, is not finite, or is not zero elsewhere; or the shapes differ.
    """
    here = observed[at]  # (P, *rest)
    _same_shape(quantity, clause, here, expected)
    if not observed.index_put(at, observed.new_zeros(())).any():  # NaN is none either
        with suppress(Mismatch):  # told below, where each number has its place
            return assert_within(
                quantity, clause, here, expected, bound, same_dtype, extra_tolerance=extra_tolerance
            )

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(observed.shape).index_put(at, values)

    same_dtype = None if same_dtype is None else spread(same_dtype)
    extra_tolerance = (
        spread(extra_tolerance) if extra_tolerance is not None and extra_tolerance.ndim else extra_tolerance
    )
    return assert_within(
        quantity, clause, observed, spread(expected), spread(bound), same_dtype, names, image, extra_tolerance
    )


def equal(
    quantity: str,
    clause: str,
    observed: Tensor,
    expected: Tensor,
    names: Sequence[str] = (),
    image: int | None = None,
    where: Tensor | None = None,
) -> Agreement:
    """Every observed element is the expected one; only those in the mask `where` if it is given.

    Raises:
        Mismatch: some element is not, or the shapes differ.
    """
    _same_shape(quantity, clause, observed, expected)
    differs = observed != expected
    if where is not None:
        differs = differs & where.view(*where.shape, *[1] * (differs.ndim - where.ndim))
    if differs.any():
        values = _values(quantity, differs, differs.double(), observed, expected, None, names, image)
        worst = values[0]
        raise Mismatch(
            f"{quantity} is {worst.implementation} at {worst.where}, expected {worst.reference} "
            f"({int(differs.sum())} of {differs.numel()} differ)",
            clause,
            values,
        )
    return Agreement()


def assert_none(
    quantity: str,
    clause: str,
    broken: Tensor,
    observed: Tensor,
    expected: str,
    names: Sequence[str] = (),
    image: int | None = None,
    problem: str = "",
) -> Agreement:
    """No element of the mask `broken` is set; `expected` says in words what should be there.

    Raises:
        Mismatch: some is.
    """
    if not broken.any():
        return Agreement()
    places = broken.nonzero()
    values = [
        Value(
            place_name(place, names, image), quantity, expected, _text(observed[tuple(place)]), "none",
            _anchor(place, names), image,
        )
        for place in places[:SHOWN]
    ]  # fmt: skip
    count = f"{len(places)} place{'s' * (len(places) > 1)}"
    raise Mismatch(f"{problem or quantity} at {values[0].where} ({count})", clause, values)


def finite(quantity: str, clause: str, observed: Tensor, names: Sequence[str] = ()) -> Agreement:
    """Every number is one.

    Raises:
        Mismatch: some is NaN or infinite; its verdict is ERROR.
    """
    if not all_finite(observed):
        bad = ~torch.isfinite(observed)
        expected = torch.zeros_like(observed)
        values = _values(quantity, bad, bad.double(), observed, expected, None, names, None)
        values = [replace(value, reference="a finite number", bound="none") for value in values]
        raise Mismatch(
            f"{quantity} is {values[0].implementation} at {values[0].where}", clause, values, Verdict.ERROR
        )
    return Agreement()


def _same_shape(quantity: str, clause: str, observed: Tensor, expected: Tensor) -> None:
    if observed.shape != expected.shape:
        raise Mismatch(
            f"{quantity} has shape {tuple(observed.shape)}, expected {tuple(expected.shape)}",
            clause,
            verdict=Verdict.ERROR,
        )


def _values(
    quantity: str,
    differs: Tensor,
    badness: Tensor,
    observed: Tensor,
    expected: Tensor,
    bound: Tensor | None,
    names: Sequence[str],
    image: int | None,
) -> list[Value]:
    """The worst places, worst first."""
    order = badness[differs].argsort(descending=True, stable=True)[:SHOWN]
    return [
        Value(
            place_name(place, names, image),
            quantity,
            _text(expected[tuple(place)]),
            _text(observed[tuple(place)]),
            "0" if bound is None else f"{float(bound[tuple(place)]):.2g}",
            _anchor(place, names),
            int(place[names.index("image")]) if "image" in names else image,
        )
        for place in differs.nonzero()[order]
    ]


def place_name(place: Tensor, names: Sequence[str], image: int | None) -> str:
    """A place in words: image 0, GT 1, anchor 17."""
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
