"""Parameters of tests that plant faults: all faults take minutes, so that CI plants one for each clause and stage."""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.common.tiers import mostly_nightly

from tal_conformance.mutation.planted_faults.fault import Fault

LARGE = "crossings"
"""Check whose batches have thousands of anchors, which take minutes."""


def representatives(faults: Mapping[str, Fault], by_stage: bool = False) -> set[str]:
    """Return the names of the first fault for each pair of a clause and the stage at which it shows.

    Faults that show only on batches of thousands of anchors are left out.

    Args:
        faults: faults by name.
        by_stage: return only the first fault for each stage.
    """
    first: dict[tuple[str, str], str] = {}
    for name, fault in faults.items():
        if fault.check != LARGE:
            first.setdefault(("" if by_stage else fault.clauses[0], fault.stage), name)
    return set(first.values())


def parameters(
    faults: Mapping[str, Fault], names: Iterable[str] | None = None, by_stage: bool = False
) -> list[Any]:
    """Return a parameter for each fault; faults that are not representative are marked long.

    Args:
        faults: all faults, by name.
        names: names of the faults that the test plants; None for all.
        by_stage: choose one representative fault for each stage, not for each clause and stage.
    """
    planted = list(faults if names is None else names)
    return mostly_nightly(planted, representatives({name: faults[name] for name in planted}, by_stage))
