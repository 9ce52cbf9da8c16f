"""Bisection over releases: it finds neighbouring releases with different behaviour, in few steps."""

import pytest

from tal_conformance.dialects.bisection import first_changed_release
from tal_conformance.implementations.errors import UnknownImplementation

RELEASES = [(8, 4, number) for number in range(100)]


def test_the_change_is_found_in_few_steps():
    judged: list[tuple[int, int, int]] = []

    def is_as_before(release: tuple[int, int, int]) -> bool:
        judged.append(release)
        return release < (8, 4, 37)

    assert first_changed_release(RELEASES, is_as_before) == ((8, 4, 36), (8, 4, 37))
    assert len(judged) <= 9


def test_no_change():
    assert first_changed_release(RELEASES, lambda release: True) is None


def test_a_first_release_that_does_not_follow_its_own_dialect():
    with pytest.raises(UnknownImplementation, match=r"8\.4\.0 does not follow the dialect of its era"):
        first_changed_release(RELEASES, lambda release: False)
