"""pytest hooks and fixtures of the suite for `pytest conformance`, defined in `suite/hooks.py`."""

from collections.abc import Iterable

from tal_conformance.dialects.known_faults import KnownFault
from tal_conformance.suite import explanation
from tal_conformance.suite.hooks import *  # noqa: F403


def planted_faults() -> Iterable[KnownFault]:
    """Return the planted faults, with which a failing implementation is compared; they are imported only then."""
    from tal_conformance.mutation.planted_faults import FAULTS

    return FAULTS.values()


explanation.known_faults = planted_faults
