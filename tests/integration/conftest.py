"""Mark all tests of this folder as slow, because they start processes; read code examples from the documentation."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
