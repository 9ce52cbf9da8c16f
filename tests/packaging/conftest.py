"""What the README prints, as code."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="session")
def readme_blocks() -> dict[str, str]:
    """Every Python file of the README, by the file name that its first line has as a comment."""
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="session")
def readme_assigner(readme_blocks: dict[str, str]) -> str:
    return readme_blocks["my_adapter.py"]
