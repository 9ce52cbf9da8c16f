"""Start a browser for tests that look at reports."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync")  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the system's Chromium. If there is none, skip the test, or fail if TAL_REQUIRE_BROWSER=1."""
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
        browser = running.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield browser
        browser.close()
