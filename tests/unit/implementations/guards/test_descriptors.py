"""An implementation that opens files without end is an error, and leaves file descriptors for the suite."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tal_conformance.implementations.guards.descriptors import RESERVED, open_descriptors, reserve_descriptors
from tal_conformance.implementations.guards.side_effects import SideEffectError, forbid_side_effects


@pytest.fixture(autouse=True)
def few() -> Iterator[int]:
    """Lower the limit of file descriptors for a test, and return the lowered limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(open_descriptors()) + 3 * RESERVED
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def open_all() -> list[int]:
    opened = []
    with suppress(OSError):
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    return opened


def test_descriptors_are_left_for_the_suite(few: int):
    with reserve_descriptors():
        opened = open_all()
        assert max(opened) == few - RESERVED - 1
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == few


def test_what_uses_up_all_is_an_error_and_closed(few: int):
    before = open_descriptors()
    with (
        pytest.raises(SideEffectError, match=r"left \d+ files open, so that no other file could be opened"),
        forbid_side_effects(),
    ):
        open_all()
    assert open_descriptors() == before


def test_an_exception_of_the_block_stays(few: int):
    before = open_descriptors()
    with pytest.raises(OSError, match="too many"), forbid_side_effects():
        raise OSError(f"too many: {len(open_all())}")
    assert open_descriptors() == before


def test_a_few_open_files_are_allowed():
    with forbid_side_effects():
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    for descriptor in opened:
        os.close(descriptor)
