"""The changelog has a short section for the version that the package states."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = 1_500
"""Largest number of words of a section: longer ones are not read."""
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed"]


def section(version: str) -> str:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## \[{re.escape(version)}\].*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"CHANGELOG.md has no section for version {version}"
    return found[0]


def test_this_version_has_a_short_section():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    text = section(version)
    assert 20 < len(text.split()) <= WORDS
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert headings == [kind for kind in KINDS if kind in headings]
    entries = re.findall(r"^- (.*)$", text, re.MULTILINE)
    assert len(entries) == len(set(entries))
