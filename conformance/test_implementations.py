"""Every implementation that was asked for can be had and follows the protocol."""

import pytest


def test_can_be_had(run, missing: str):  # noqa: ANN001
    """An implementation that cannot be had counts as an error; the others are tested all the same."""
    pytest.fail(f"{missing}: {run.missing[missing]}", pytrace=False)
