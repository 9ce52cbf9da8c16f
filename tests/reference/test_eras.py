"""Tests of eras: every release from the first to the newest has a dialect, which changes at the documented releases."""

from itertools import pairwise

import pytest

from tal_reference import DIALECTS, NEWEST
from tal_reference.eras import ERAS, dialect_of, era_of


def test_eras_follow_each_other_and_each_changes_something():
    firsts = [era.first for era in ERAS]
    assert firsts == sorted(set(firsts))
    assert all(one.dialect != other.dialect for one, other in pairwise(ERAS))
    assert all(era.clause and era.change for era in ERAS[1:])
    assert {era.dialect.name for era in ERAS} <= set(DIALECTS)


@pytest.mark.parametrize(
    ("release", "dialect"),
    [
        ((8, 0, 0), "ultralytics-8.0.6"),
        ((8, 0, 6), "ultralytics-8.0.6"),
        ((8, 0, 35), "ultralytics-8.0.51"),
        ((8, 0, 51), "ultralytics-8.0.51"),
        ((8, 0, 52), "ultralytics-8.3.253"),
        ((8, 0, 99), "ultralytics-8.3.253"),
        ((8, 0, 100), "ultralytics-8.0.100"),
        ((8, 0, 101), "ultralytics-8.3.253"),
        ((8, 3, 253), "ultralytics-8.3.253"),
        ((8, 4, 0), "ultralytics-8.4.7"),
        ((8, 4, 7), "ultralytics-8.4.7"),
        ((8, 4, 8), "ultralytics-8.4.24"),
        ((8, 4, 25), "ultralytics-8.4.127"),
        ((8, 4, 127), "ultralytics-8.4.127"),
        ((8, 4, 128), "ultralytics-8.4.190"),
        ((9, 0, 0), "ultralytics-8.4.190"),
    ],
)
def test_edges(release: tuple[int, int, int], dialect: str):
    assert dialect_of(release).name == dialect


def test_releases_before_the_first_era_are_rejected():
    with pytest.raises(LookupError, match=r"7\.9\.9 is older than the first release with this loss, 8\.0\.0"):
        era_of((7, 9, 9))


def test_the_newest_era_speaks_the_newest_dialect():
    assert ERAS[-1].dialect is NEWEST
    assert ERAS[-1].begins == "8.4.128"
