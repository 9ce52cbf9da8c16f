"""Fixtures of slow tests: a browser with reports, and code examples from the documentation."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory
from tests.common.chromium import chromium
from tests.common.pages import hostile_lines
from tests.common.run_logs import divergence, implementation, run_line
from tests.unit.reports.analysis.test_worth import DEV
from tests.unit.reports.html.test_differences import SIDES, hostile

from tal_reports import Section, render, write_differences

ROOT = Path(__file__).parents[2]
DESKTOP, PHONE = (1280, 900), (390, 844)
Open = Callable[..., Any]


def printed_files(page: Path) -> dict[str, str]:
    """Return the Python code blocks of a page by file name, which is the comment in a block's first line."""
    blocks = re.findall(
        r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    return dict(blocks)


@pytest.fixture(scope="session")
def readme_assigner() -> str:
    """Return the source of the README's my_adapter.py."""
    return printed_files(ROOT / "README.md")["my_adapter.py"]


@pytest.fixture(scope="session")
def documented_adapters() -> dict[str, str]:
    """Return the source code of every adapter in docs/adapters.md, by file name."""
    return printed_files(ROOT / "docs" / "adapters.md")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Start a browser, once for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Render reports of drawn run logs, and return their pages by name."""
    folder = tmp_path_factory.mktemp("runs")
    awkward = 'my "own" ada\\pter'
    causes = [
        ("divergence", divergence(n, awkward, stage))
        for n, stage in enumerate(("box", "dfl", "cls", "total"))
    ]
    runs = {
        "none": factory.passing(60),
        "one": factory.failing(1, 60),
        "many": factory.failing(60, 120),
        "hostile": hostile_lines(),
        "awkward": [("run", run_line([implementation(awkward)])), *causes, ("end", {"exit": 1})],
        "nothing": factory.passing(1)[:1],
        "worth": [("run", run_line() | {"worth": DEV}), *factory.passing(60)[1:]],
    }
    folders = {name: factory.write(folder / name, lines) for name, lines in runs.items()}
    (folders["one"] / "walkthrough.json").write_text(json.dumps(factory.walkthrough()))
    differences = folder / "differences.html"
    sections = [Section(name, ["Before: a."], picture=factory.picture(), sides=SIDES) for name in "AB"]
    write_differences(differences, factory.HOSTILE, [factory.HOSTILE], [*sections, hostile()])
    return {name: render(folder) for name, folder in folders.items()} | {"differences": differences}


@pytest.fixture
def open_page(browser: Any, reports: dict[str, Path]) -> Iterator[Open]:
    """Yield a function that opens a report; fail if a report loads other files or writes to the console."""
    asked: list[str] = []
    complaints: list[str] = []

    @contextmanager
    def opened(
        name: str, fragment: str = "", size: tuple[int, int] = DESKTOP, **options: Any
    ) -> Iterator[Any]:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        context.set_offline(True)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(reports[name].as_uri() + fragment)
        yield page
        context.close()

    yield opened
    own = {path.as_uri() for path in reports.values()}
    assert [
        url for url in asked if url.partition("#")[0] not in own and not url.startswith("data:image/")
    ] == []
    assert complaints == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
