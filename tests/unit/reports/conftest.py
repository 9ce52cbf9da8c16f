"""Fixtures: a folder for a run, and a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.common.chromium import chromium


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return the path of a run folder that does not exist yet, in an existing folder."""
    return tmp_path / "runs" / "20251124-021033-5f3a9c"


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Start a browser, once for all tests."""
    with chromium() as started:
        yield started
