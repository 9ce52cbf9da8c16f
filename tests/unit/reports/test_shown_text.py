"""All printed text passes through `say`, whose escaping keeps adapters from controlling terminals or CI."""

import ast
import io
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tal_reports.markdown import _code, _text
from tal_text import encodable, say, visible

ROOT = Path(__file__).parents[3]
OWN_TEXT = ("conformance/known_issues/scripts/", "conformance/implementations/workers/child.py")
"""Modules that may print without `say`: scripts of findings, and workers, whose output is logged."""
FORBIDDEN = ("sys.stdout.write", "sys.stderr.write", "terminalreporter.write", "terminalreporter.write_line")
HOSTILE = [
    "\x1b[2J", "\x1b]8;;http://x\x07y\x1b]8;;\x07", "\u202eexe.txt", "\U000e0041\U000e007f", "\u200b\u2060\ufeff",
    "::error::lost", "\n  ::set-output name=x::y", "##[error]lost", "a\r\rconforms", "\u2028", "\u3164", "\ud800",
    "x\ufe0f", "\x9b31m", "@everyone", "[x](http://x)", "![x](http://x)", "www.example.com", "GH-1", "#1", "<b>",
]  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=5)), max_size=6).map(
    "".join
)
thoroughly = settings(max_examples=1000, deadline=None, derandomize=True, database=None)


def assert_harmless(shown: str) -> None:
    shown.encode()
    for character in shown:
        assert character in "\n\t" or unicodedata.category(character) not in (
            "Cc",
            "Cf",
            "Cs",
            "Co",
            "Zl",
            "Zp",
        )
    for line in shown.split("\n"):
        assert not line.lstrip().startswith("::")
    assert "##[" not in shown


@thoroughly
@given(text=texts)
def test_visible_text_controls_nothing(text: str):
    shown = visible(text)
    assert_harmless(shown)
    assert visible(shown) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_every_known_attack_is_visible(text: str):
    assert_harmless(visible(text))
    assert_harmless(visible(f"before {text} after\n{text}"))


@pytest.mark.parametrize("text", ["plain", "née – 漢字 😀", "a: b::c", "tab\tbreak\nline", "a\u00a0b", ""])
def test_harmless_text_stays(text: str):
    assert visible(text) == text


@thoroughly
@given(text=texts, encoding=st.sampled_from(["ascii", "latin-1", "utf-8", "cp1252"]))
def test_what_is_said_can_be_encoded_and_keeps_its_lines(text: str, encoding: str):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    say(text, stream=stream)
    printed = raw.getvalue().decode(encoding)
    assert_harmless(printed)
    assert printed.count("\n") == text.count("\n") + 1


def test_own_characters_have_plain_replacements():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert encodable("3 × 4 – … µs", stream) == "3 x 4 - ... us"


@thoroughly
@given(text=texts)
def test_markdown_has_neither_markup_nor_mentions_nor_links(text: str):
    shown = _text(text)
    assert_harmless(shown)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[`*_\[\]|~!]", shown)
    assert not re.search(r"[<>@]|://|(?i:\bwww\.)|(?i:\bgh-\d)", shown)


@thoroughly
@given(text=texts)
def test_code_in_markdown_ends_at_its_end(text: str):
    shown = _code(text)
    assert_harmless(shown)
    assert "\n" not in shown
    assert shown.count("`") == 2


def places_that_print(source: str) -> list[str]:
    """Return the names of functions that a module's source calls to print without `say`."""
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if call == "print" or call in FORBIDDEN]


@pytest.mark.parametrize("source", ["print(1)", "sys.stdout.write('x')", "terminalreporter.write_line(name)"])
def test_a_planted_print_is_found(source: str):
    assert places_that_print(source)


def processes_without_encoding(source: str) -> list[str]:
    """Return the calls that start a process and decode its output as the locale does, which fails in the locale C."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call.func)
        for call in calls
        if {"text", "universal_newlines"} & {word.arg for word in call.keywords}
        and ast.unparse(call.func).startswith("subprocess.")
    ]


def test_the_output_of_processes_is_decoded_in_every_locale():
    assert processes_without_encoding("subprocess.run(['git'], text=True)") == ["subprocess.run"]
    for folder in ("conformance", "reports", "reference"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            assert processes_without_encoding(path.read_text(encoding="utf-8")) == [], path


def test_everything_is_printed_by_say():
    allowed = {
        "conformance/suite/hooks.py": ["terminalreporter.write_line"]
    }  # in `write_line`, which shows its text
    for folder in ("conformance", "reports", "reference"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(OWN_TEXT):
                assert places_that_print(path.read_text(encoding="utf-8")) == allowed.get(name, []), name
