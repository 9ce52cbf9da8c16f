"""Every requested implementation can be imported and follows the protocol."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tal_conformance.suite.session import SessionState


def test_can_be_had(run: "SessionState", missing: str) -> None:
    """An implementation that cannot be imported fails; the others are tested all the same."""
    pytest.fail(f"{missing}: {run.missing[missing]}", pytrace=False)
