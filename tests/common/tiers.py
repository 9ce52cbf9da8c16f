"""Tiers of tests: CI runs some parameters of an expensive test, and the nightly job runs all of them."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def mostly_nightly(
    values: Iterable[Any], daily: Collection[Any], name_of: Callable[[Any], Any] = lambda value: value
) -> list[Any]:
    """Return a parameter for each value; values that CI does not run are marked slow and long.

    Args:
        values: values of the test's parameter.
        daily: names of the values that CI runs; each of them has to occur.
        name_of: function that returns the name of a value.

    Raises:
        ValueError: a name in `daily` belongs to none of the values.
    """
    given = list(values)
    unknown = set(daily) - {name_of(value) for value in given}
    if unknown:
        raise ValueError(f"no value is named {sorted(map(str, unknown))}")
    marks = [pytest.mark.slow, pytest.mark.long]
    return [pytest.param(value, marks=[] if name_of(value) in daily else marks) for value in given]
