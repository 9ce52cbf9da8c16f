"""Parameters of tests that plant faults: all faults take minutes, so that CI plants one for each clause and stage."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from tal_conformance.mutation.planted_faults.fault import Fault

LARGE = "crossings"
"""Check whose batches have thousands of anchors, which take minutes."""


def representatives(faults: Mapping[str, Fault]) -> set[str]:
    """Return the names of the first fault for each pair of a clause and the stage at which it shows.

    Faults that show only on batches of thousands of anchors are left out.
    """
    first: dict[tuple[str, str], str] = {}
    for name, fault in faults.items():
        if fault.check != LARGE:
            first.setdefault((fault.clauses[0], fault.stage), name)
    return set(first.values())


def parameters(faults: Mapping[str, Fault], names: Iterable[str] | None = None) -> list[Any]:
    """Return a parameter for each fault; faults that are not representative are marked long.

    Args:
        faults: all faults, by name.
        names: names of the faults that the test plants; None for all.
    """
    chosen = representatives(faults)
    return [
        pytest.param(name, marks=[] if name in chosen else [pytest.mark.slow, pytest.mark.long])
        for name in (faults if names is None else names)
    ]
