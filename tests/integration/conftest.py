"""Tests of this folder start processes of their own: all of them are slow. And code that the documentation prints."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def printed_files(page: Path) -> dict[str, str]:
    """Return the Python files that a page prints, by the name in the first line of each block of code."""
    blocks = re.findall(
        r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    return dict(blocks)


@pytest.fixture(scope="session")
def readme_assigner() -> str:
    """The README's my_adapter.py."""
    return printed_files(ROOT / "README.md")["my_adapter.py"]


@pytest.fixture(scope="session")
def documented_adapters() -> dict[str, str]:
    """Every adapter of the page about adapters, by file name."""
    return printed_files(ROOT / "docs" / "adapters.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
