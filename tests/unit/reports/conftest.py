"""Fixtures: the folder of a run, and a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a folder for a run; its parent exists."""
    return tmp_path / "runs" / "20251124-021033-5f3a9c"


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """The system's Chromium."""
    required = os.environ.get("TAL_REQUIRE_BROWSER") == "1"
    playwright = None
    try:
        from playwright import sync_api as playwright
    except ImportError:
        assert not required, "playwright is not installed, and TAL_REQUIRE_BROWSER=1"
        pytest.skip("playwright is not installed (pip install -e '.[dev]')")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        assert not required, "no Chromium is installed, and TAL_REQUIRE_BROWSER=1"
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield chromium
        chromium.close()
