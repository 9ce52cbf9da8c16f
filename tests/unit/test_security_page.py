"""Every promise of docs/security.md names tests that exist, and SECURITY.md refers to these promises."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
POLICY = (TESTS.parent / "SECURITY.md").read_text(encoding="utf-8")
ROW = re.compile(r'^\| <a id="(P\d+)"></a>(P\d+) \| (.+?) \| .+? \| (.*) \|$', re.MULTILINE)
SECTIONS = ("Files", "Isolation")
"""Sections of SECURITY.md whose list items are promises."""


def promises(page: str) -> dict[str, list[str]]:
    """Return the tests that each promise of the page names, by the promise's number."""
    return {number: re.findall(r"`([^`]+)`", tests) for number, _, _, tests in ROW.findall(page)}


def missing(test: str) -> str | None:
    """Return a description of the reason why a test `path::name` does not exist, or None if it exists."""
    path, separator, name = test.partition("::")
    file = TESTS / path
    if not separator or not file.is_file():
        return f"{test}: no such file"
    functions = {
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    return None if name.startswith("test_") and name in functions else f"{test}: no such test"


def items(section: str) -> list[str]:
    """Return the list items of a section of SECURITY.md."""
    text = POLICY.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [
        " ".join(item.split()) for item in re.findall(r"^- (.*?)(?=^- |^$)", text, re.MULTILINE | re.DOTALL)
    ]


def test_every_row_is_a_promise_with_tests_that_exist():
    table = PAGE.partition("| | Promise |")[2].partition("\n\n")[0].splitlines()[2:]
    found = promises(PAGE)
    assert list(found) == [f"P{number}" for number in range(1, len(table) + 1)]
    assert all(number == label for number, label, _, _ in ROW.findall(PAGE))
    assert [number for number, tests in found.items() if not tests] == []
    assert [problem for tests in found.values() for test in tests if (problem := missing(test))] == []


@pytest.mark.parametrize("section", SECTIONS)
def test_every_promise_of_the_policy_has_a_number(section: str):
    found, known = items(section), promises(PAGE)
    assert len(found) >= 5
    for item in found:
        cited = re.findall(r"\bP\d+\b", item)
        assert cited, item
        assert set(cited) <= set(known), item


@pytest.mark.parametrize(
    "test", ["unit/test_security_page.py", "unit/none.py::test_x", "unit/test_security_page.py::promises"]
)
def test_a_test_that_does_not_exist_is_found(test: str):
    assert missing(test) is not None
