"""The order of the tests: modules that take long come last, so that most errors are found in the first seconds."""

from collections.abc import Sequence

import pytest

from tal_conformance.suite.progress import implementation_of

SLOW = (
    "test_precision",
    "test_relations",
    "test_sizes",
    "test_devices",
    "test_calling",
    "test_state",
    "test_exhaustive",
    "test_training",
    "test_benchmark",
)
"""Modules that run last. In the profile `dev` they take 34 of the 45 s for the reference, on one core. They vary the
way of calling, the dtype or the size of batches; an error in ordinary calls shows in the other modules."""


def slow_modules_last(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests in their order, but with the slow modules behind the others of the same implementation.

    All tests of an implementation remain together, because pytest would otherwise close and reopen its worker.
    """
    names = list(dict.fromkeys(map(implementation_of, items)))
    return sorted(items, key=lambda item: (names.index(implementation_of(item)), _slowness(item)))


def _slowness(item: pytest.Item) -> int:
    """Return 0 for a module that is not slow, else 1 plus its position in `SLOW`."""
    return SLOW.index(item.path.stem) + 1 if item.path.stem in SLOW else 0
