"""Comparators of observed and expected tensors: a planted difference is found, with its index."""

import math

import pytest
import torch
from torch import Tensor

from tal_conformance.core.verdicts import Mismatch, Verdict
from tal_conformance.judgement.comparators import (
    SHOWN,
    Bounded,
    Quantity,
    all_finite,
    assert_equal,
    assert_finite,
    assert_none,
    assert_within,
    assert_within_at,
    largest,
)

EXPECTED = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
BOUND = torch.full_like(EXPECTED, 1e-3)
U = Quantity("u", "TAL-MET-1", ("image", "anchor"))


def changed(value: float, at: tuple[int, ...] = (1, 0)) -> Tensor:
    copy = EXPECTED.clone()
    copy[at] = value
    return copy


OBSERVED: dict[str, tuple[Tensor, Verdict, str]] = {
    "value": (changed(3.1), Verdict.DIVERGENT, "u is 3.1 at image 1, anchor 0, expected 3 within 0.001"),
    "just beyond": (changed(3.00100001), Verdict.DIVERGENT, "image 1, anchor 0"),
    "NaN": (changed(math.nan), Verdict.ERROR, "u is nan at image 1, anchor 0"),
    "infinity": (changed(math.inf), Verdict.ERROR, "u is inf at image 1, anchor 0"),
    "minus infinity": (changed(-math.inf), Verdict.ERROR, "u is -inf at image 1, anchor 0"),
    "fewer": (EXPECTED[:, :1], Verdict.ERROR, r"u has shape \(2, 1\), expected \(2, 2\)"),
    "more": (torch.cat((EXPECTED, EXPECTED)), Verdict.ERROR, r"u has shape \(4, 2\), expected \(2, 2\)"),
    "broadcast": (EXPECTED[:1], Verdict.ERROR, r"u has shape \(1, 2\), expected \(2, 2\)"),
    "transposed": (torch.ones(2, 2, 1), Verdict.ERROR, r"u has shape \(2, 2, 1\), expected \(2, 2\)"),
    "none": (torch.empty(0, 2), Verdict.ERROR, r"u has shape \(0, 2\), expected \(2, 2\)"),
}


@pytest.mark.parametrize("planted", OBSERVED)
def test_within_finds(planted: str):
    observed, verdict, message = OBSERVED[planted]
    with pytest.raises(Mismatch, match=message) as caught:
        assert_within(U, observed, Bounded(EXPECTED, BOUND))
    assert (caught.value.verdict, caught.value.clause) == (verdict, "TAL-MET-1")


@pytest.mark.parametrize("bound", [math.nan, -1.0])
def test_an_invalid_tolerance_allows_no_difference(bound: float):
    with pytest.raises(Mismatch):
        assert_within(U, EXPECTED, Bounded(EXPECTED, torch.full_like(EXPECTED, bound)))


@pytest.mark.parametrize("others", [BOUND, 0 * BOUND, -0.0 * BOUND])
@pytest.mark.parametrize("bound", [math.nan, -1.0, 0.0, -0.0])
def test_a_wrong_number_does_not_hide_among_right_ones(bound: float, others: Tensor):
    """One wrong value in a tensor is found if its tolerance is NaN, negative, 0.0 or -0.0."""
    here = (changed(3.0005) != EXPECTED).nonzero(as_tuple=True)
    bounds = others.index_put(here, torch.tensor(bound, dtype=others.dtype))
    with pytest.raises(Mismatch):
        assert_within(U, changed(3.0005), Bounded(EXPECTED, bounds))


@pytest.mark.parametrize(
    ("numbers", "dtype", "right"),
    [
        ([65504.0, 65504.0], torch.float16, True),  # both are finite, but their sum is not
        ([1e308, 1e308], torch.float64, True),
        ([math.inf, -math.inf], torch.float32, False),
        ([0.0, math.nan], torch.bfloat16, False),
        ([1.0, math.inf], torch.float64, False),
        ([], torch.float32, True),
        ([True, False], torch.bool, True),
        ([1, 2], torch.int64, True),
    ],
)
def test_all_finite(numbers: list[float], dtype: torch.dtype, right: bool):
    assert all_finite(torch.tensor(numbers, dtype=dtype)) is right


def test_largest():
    assert largest(torch.tensor([1.0, 3.0, 2.0])) == 3
    assert largest(torch.tensor([])) == 0
    assert math.isnan(largest(torch.tensor([1.0, math.nan, 2.0])))


def test_nothing_agrees_with_an_expected_nan():
    with pytest.raises(Mismatch):
        assert_within(U, EXPECTED, Bounded(changed(math.nan), BOUND))


def test_within_returns_margin_and_exactness():
    agreement = assert_within(U, changed(3.0005), Bounded(EXPECTED, BOUND, EXPECTED))
    assert agreement.margin == pytest.approx(0.5)
    assert not agreement.exact
    assert assert_within(U, EXPECTED, Bounded(EXPECTED, 0 * BOUND, EXPECTED)).exact
    assert assert_within(U, EXPECTED, Bounded(EXPECTED, 0 * BOUND)).margin == 0
    assert not assert_within(U, EXPECTED, Bounded(EXPECTED, BOUND)).exact, (
        "without `same_dtype`, no agreement may count as exact"
    )
    assert assert_within(U, torch.empty(0), Bounded(torch.empty(0), torch.empty(0))).margin == 0


def test_minus_zero_is_zero():
    zeros = torch.zeros(2)
    assert assert_within(U, -zeros, Bounded(zeros, zeros, zeros)).margin == 0
    assert_equal(U, -zeros, zeros)


def test_the_worst_places_come_first_and_are_limited():
    observed = EXPECTED.repeat(5, 1)
    observed[7, 1] += 1
    observed[:, 0] += 0.5
    with pytest.raises(Mismatch, match=r"11 of 20 differ") as caught:
        assert_within(U, observed, Bounded(EXPECTED.repeat(5, 1), BOUND.repeat(5, 1)))
    values = caught.value.values
    assert len(values) == SHOWN
    assert (values[0].where, values[0].image, values[0].anchor) == ("image 7, anchor 1", 7, 1)
    assert (values[0].reference, values[0].implementation, values[0].bound) == ("4", "5", "0.001")


AT = torch.tensor([0, 2]), torch.tensor([1, 3])  # image 0, anchor 1; image 2, anchor 3
SPARSE = torch.zeros(3, 4, 2).index_put(AT, EXPECTED.float())  # (B, A, 2)
G = Quantity("g", "LOSS-GRAD-1", ("image", "anchor", "channel"))


def check_sparse(observed: Tensor) -> None:
    agreement = assert_within_at(G, observed, AT, Bounded(EXPECTED, BOUND, EXPECTED))
    assert (agreement.margin, agreement.exact) == (0, True)


PLANTED_SPARSE: dict[str, tuple[tuple[int, ...], float, Verdict, str]] = {
    "at a place": (
        (2, 3, 0),
        3.1,
        Verdict.DIVERGENT,
        "g is 3.0999999 at image 2, anchor 3, channel 0, expected 3",
    ),
    "NaN at a place": ((0, 1, 1), math.nan, Verdict.ERROR, "g is nan at image 0, anchor 1, channel 1"),
    "zero at a place": (
        (2, 3, 1),
        0.0,
        Verdict.DIVERGENT,
        "g is 0 at image 2, anchor 3, channel 1, expected 4",
    ),
    "elsewhere": (
        (1, 3, 1),
        1e-30,
        Verdict.DIVERGENT,
        "at image 1, anchor 3, channel 1, expected 0 within 0",
    ),
    "NaN elsewhere": ((0, 0, 0), math.nan, Verdict.ERROR, "g is nan at image 0, anchor 0, channel 0"),
    "infinity elsewhere": ((2, 0, 1), math.inf, Verdict.ERROR, "g is inf at image 2, anchor 0, channel 1"),
}


@pytest.mark.parametrize("planted", PLANTED_SPARSE)
def test_within_at_finds(planted: str):
    place, value, verdict, message = PLANTED_SPARSE[planted]
    check_sparse(SPARSE)
    observed = SPARSE.clone()
    observed[place] = value
    with pytest.raises(Mismatch, match=message) as caught:
        check_sparse(observed)
    assert (caught.value.verdict, caught.value.clause) == (verdict, "LOSS-GRAD-1")
    where = caught.value.values[0]
    assert (where.image, where.anchor) == place[:2]


def test_within_at_nan_is_an_error_whatever_else_is_wrong():
    observed = SPARSE.clone()
    observed[0, 0, 0], observed[2, 3, 1] = 0.5, math.nan
    with pytest.raises(Mismatch, match="g is nan at image 2, anchor 3, channel 1") as caught:
        check_sparse(observed)
    assert caught.value.verdict is Verdict.ERROR


def test_within_at_counts_all_places_and_accepts_overflows_of_the_dtype():
    observed, same_dtype = SPARSE.clone(), EXPECTED.clone()
    observed[0, 1, 0] = same_dtype[0, 0] = math.inf
    assert_within_at(G, observed, AT, Bounded(EXPECTED, BOUND, same_dtype))
    observed[0, 1, 1] = 9
    with pytest.raises(Mismatch, match=r"g is 9 at image 0, anchor 1, channel 1.* \(1 of 24 differ\)"):
        assert_within_at(G, observed, AT, Bounded(EXPECTED, BOUND, same_dtype, torch.tensor(0.0)))
    sides = Quantity("g", "X-1", ("GT", "anchor", "side"), image=7)
    with pytest.raises(Mismatch, match="g is 9 at image 7, GT 0, anchor 1, side 1"):
        assert_within_at(sides, observed, AT, Bounded(EXPECTED, BOUND, same_dtype, 0 * BOUND))


def test_within_at_without_places_requires_zeros():
    nowhere = torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)
    nothing = torch.empty(0, 2, dtype=torch.float64)
    assert assert_within_at(G, torch.zeros(3, 4, 2), nowhere, Bounded(nothing, nothing)).margin == 0
    with pytest.raises(Mismatch, match="4 of 24 differ"):
        assert_within_at(G, SPARSE, nowhere, Bounded(nothing, nothing))


def test_within_at_requires_a_value_for_every_place():
    with pytest.raises(Mismatch, match=r"g has shape \(2, 2\), expected \(1, 2\)"):
        assert_within_at(G, SPARSE, AT, Bounded(EXPECTED[:1], BOUND[:1]))


PLACES = torch.tensor([[1, 2], [3, 4]])
DIFFERENT: dict[str, tuple[Tensor, Verdict, str]] = {
    "value": (torch.tensor([[1, 2], [3, 5]]), Verdict.DIVERGENT, "label is 5 at GT 1, anchor 1, expected 4"),
    "fewer": (PLACES[:1], Verdict.ERROR, r"label has shape \(1, 2\), expected \(2, 2\)"),
    "more": (torch.ones(2, 2, 2), Verdict.ERROR, r"label has shape \(2, 2, 2\), expected \(2, 2\)"),
    "NaN": (torch.tensor([[1, 2], [3, math.nan]]), Verdict.DIVERGENT, "label is nan at GT 1, anchor 1"),
    "infinity": (torch.tensor([[1, 2], [3, math.inf]]), Verdict.DIVERGENT, "label is inf at GT 1, anchor 1"),
}


@pytest.mark.parametrize("planted", DIFFERENT)
def test_equal_finds(planted: str):
    observed, verdict, message = DIFFERENT[planted]
    with pytest.raises(Mismatch, match=message) as caught:
        assert_equal(Quantity("label", "TAL-TGT-1", ("GT", "anchor")), observed, PLACES)
    assert (caught.value.verdict, caught.value.clause) == (verdict, "TAL-TGT-1")


def test_equal_compares_only_selected_elements():
    observed = torch.tensor([[1, 2], [0, 4]])
    box = Quantity("box", "X-1", ("anchor", "side"), image=3)
    assert_equal(box, observed, PLACES, where=torch.tensor([True, False]))
    with pytest.raises(Mismatch, match=r"box is 0 at image 3, anchor 1, side 0, expected 3") as caught:
        assert_equal(box, observed, PLACES, where=torch.tensor([False, True]))
    assert caught.value.values[0].image == 3


def test_none_names_place_and_expected_value():
    broken = torch.tensor([[False, True]])
    observed = torch.tensor([[0.0, 7.0]])
    quantity = Quantity("u", "ANN-4", ("GT", "anchor"), image=2)
    with pytest.raises(
        Mismatch, match=r"^a padding row leaks at image 2, GT 0, anchor 1 \(1 place\)$"
    ) as caught:
        assert_none(quantity, broken, observed, "0", "a padding row leaks")
    (value,) = caught.value.values
    assert (value.reference, value.implementation, value.bound) == ("0", "7", "none")
    assert_none(quantity, ~broken & broken, observed, "0")


@pytest.mark.parametrize("planted", [math.nan, math.inf, -math.inf])
def test_finite_finds(planted: float):
    with pytest.raises(
        Mismatch, match=f"w is {planted} at image 1, anchor 0, expected a finite number"
    ) as caught:
        assert_finite(Quantity("w", "TAL-NORM-1", U.dimensions), changed(planted))
    assert caught.value.verdict is Verdict.ERROR
    assert caught.value.values[0].reference == "a finite number"
    assert_finite(U, torch.tensor([True, False]))
    assert_finite(U, torch.tensor([1, 2]))
