"""What the README prints, as code."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="session")
def readme_adapters() -> tuple[str, str]:
    """The README's my_adapter.py: the assigner, and what is added to it for the loss."""
    text = README.read_text(encoding="utf-8")
    assigner, loss = re.findall(r"```python\n# my_adapter\.py.*?\n(.*?)```", text, re.DOTALL)
    return assigner, loss


@pytest.fixture(scope="session")
def readme_assigner(readme_adapters: tuple[str, str]) -> str:
    return readme_adapters[0]
