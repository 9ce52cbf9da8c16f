"""Test of `Dialect.floor`, which returns (below, to) in pixels.

Box sides shorter than `below` are widened to `to`.
"""

import pytest

from tal_reference import ARTICLE, DIALECTS, NEWEST, Dialect, SmallBoxFloor

FIRST = Dialect("first", SmallBoxFloor.BELOW_FIRST_STRIDE)


@pytest.mark.parametrize(
    ("dialect", "strides", "floor"),
    [
        (NEWEST, (8, 16, 32), (16, 16)),
        (NEWEST, (4, 10), (10, 10)),
        (NEWEST, (8,), (8, 8)),  # one level has no second stride
        (FIRST, (8, 16, 32), (8, 16)),
        (FIRST, (4, 10), (4, 10)),
        (FIRST, (8,), (8, 8)),
        (ARTICLE, (8, 16, 32), (0, 0)),
        (ARTICLE, (8,), (0, 0)),
    ],
)
def test_floor(dialect: Dialect, strides: tuple[int, ...], floor: tuple[int, int]):
    """TAL-CAND-2: (below, to) of the newest dialect, an older dialect, and a dialect without widening, by strides."""
    assert dialect.floor(strides) == floor


def test_dialects_are_found_by_their_names():
    assert {"ultralytics-8.4.190": NEWEST, "article": ARTICLE}.items() <= DIALECTS.items()
    assert all(dialect.name == name for name, dialect in DIALECTS.items())
