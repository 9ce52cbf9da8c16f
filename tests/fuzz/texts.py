"""Fuzzed texts, written to terminals of several encodings, to Markdown, HTML and job summaries."""

import io
import json
import random
import re
import shutil
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.common import run_logs as factory
from tests.fuzz.mutations import changed_bytes
from tests.fuzz.readers import Reader, dumped, every_kind

from tal_reports.analysis.history import entry_of
from tal_reports.analysis.summary import summarise
from tal_reports.html.page import page_of
from tal_reports.html.render import html_of
from tal_reports.log.reader import LogError, read_log
from tal_reports.markdown import _text as markdown_text
from tal_reports.markdown import job_summary
from tal_reports.terminal import terminal_table
from tal_text import say, visible

ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")
PIECES = (
    "\x1b[2J", "\x1b]8;;http://x\x07y\x1b]8;;\x07", "\u202e", "\U000e0041", "\u200b\ufeff", "::error::x", "##[error]x",
    "\n  ::add-mask::x", "\r", "\u2028", "\u3164", "\ud800", "\ufe0f", "\x9b31m", "@everyone", "[x](http://x)", "\n",
    "![x](http://x)", "www.example.com", "GH-1", "#1", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "\"'`", "{{ 7*7 }}", "{% x %}", "javascript:alert(1)", "]]>", "--><b>", "|", "\\", "&#60;", "\x00", "plain", " ",
    "née", "漢字", "x" * 300,
)  # fmt: skip
"""Pieces of hostile text."""
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories that no shown text has, line breaks and tabs aside."""


def check_terminal(shown: str) -> None:
    """Raise AssertionError if the text `shown` could control a terminal or a CI runner."""
    shown.encode()
    for character in set(shown) - {"\n", "\t"}:
        assert unicodedata.category(character) not in UNSEEN, f"{character!r} is shown"
    assert not re.search(r"(?m)^\s*::", shown), "a command of a runner is shown"
    assert "##[" not in shown, "a command of a runner is shown"


def check_markdown(shown: str) -> None:
    """Raise AssertionError if the text `shown` has several lines, markup, a tag, a mention or a link."""
    check_terminal(shown)
    assert "\n" not in shown, "the text has several lines"
    assert not re.search(r"(?<!\\)(\\\\)*[`*_\[\]|~!]", shown.replace("&#", "")), "the text has markup"
    assert not re.search(r"[<>@]|://|(?i:\bwww\.)|(?i:\bgh-\d)", shown), (
        "the text has a tag, a mention or a link"
    )


class Elements(HTMLParser):
    """Parser that counts scripts of an HTML page, and rejects event handlers and addresses that load content."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count scripts, and raise AssertionError for an event handler or an address that runs something."""
        self.scripts += tag == "script"
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href", "action", "formaction", "data", "xlink:href"):
                address = (value or "").strip().lower()
                loads = address.startswith(("javascript:", "vbscript:", "data:text"))
                assert not loads, f"<{tag} {name}={value!r:.80}>"
                assert name == "href" or not address.startswith(("http:", "https:", "//")), f"<{tag} {name}>"


def scripts_of(html: str) -> int:
    """Return the number of scripts in a page.

    Raises:
        AssertionError: an element runs or loads something.
    """
    found = Elements()
    found.feed(html)
    return found.scripts


def text_reader(_: Path) -> Reader:
    """Return a reader that prints a text to terminals of four encodings, and escapes it for Markdown."""

    def read(content: bytes) -> object:
        text = content.decode("utf-8", "surrogateescape")
        shown = visible(text)
        check_terminal(shown)
        assert visible(shown) == shown
        for encoding in ENCODINGS:
            raw = io.BytesIO()
            stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
            say(text, stream=stream)
            printed = raw.getvalue().decode(encoding)
            check_terminal(printed)
            assert printed.count("\n") == text.count("\n") + 1
        check_markdown(markdown_text(text))
        return shown

    return Reader([b"plain text: a, b"], read, (), pieced)


def pieced(sample: bytes, chance: random.Random) -> bytes:
    """Return a text joined from a few hostile pieces, sometimes with changed bytes."""
    text = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 5)))
    content = text.encode("utf-8", "surrogatepass") + sample
    return changed_bytes(content, chance) if chance.random() < 0.3 else content


def hostile_lines(sample: bytes, chance: random.Random) -> bytes:
    """Return the log `sample` with hostile pieces in a third of its texts; kinds and verdicts are unchanged."""
    lines = [json.loads(line) for line in sample.splitlines()]
    return b"".join(dumped(with_pieces(line, chance)) + b"\n" for line in lines)


FIXED = (
    "kind",
    "verdict",
    "uniqueness",
    "phase",
    "time",
    "started",
    "finished",
    "state",
    "change",
    "picture",
)
"""Names of fields whose texts stay, because a line with another text is not read."""


def with_pieces(value: Any, chance: random.Random) -> Any:
    """Return a copy of a JSON value in which some texts contain hostile pieces."""
    if isinstance(value, dict):
        return {name: item if name in FIXED else with_pieces(item, chance) for name, item in value.items()}
    if isinstance(value, list):
        return [with_pieces(item, chance) for item in value]
    if isinstance(value, str) and chance.random() < 0.3:
        return chance.choice(PIECES) + value + chance.choice(PIECES)
    return value


def page_reader(folder: Path) -> Reader:
    """Return a reader that renders a log as terminal table, job summary and HTML report."""
    run = folder / "run"
    sample = factory.write(run, every_kind()).joinpath("log.jsonl").read_bytes()
    before = entry_of(log := read_log(run), summarise(log))
    scripts = scripts_of(html_of(page_of(log, summarise(log), [before])))
    shutil.rmtree(run)
    run.mkdir()

    def read(content: bytes) -> object:
        (run / "log.jsonl").write_bytes(content)
        log = read_log(run)
        summary = summarise(log)
        check_terminal(visible(terminal_table(log)))
        check_job_summary(job_summary(log))
        found = scripts_of(html_of(page_of(log, summary, [before, entry_of(log, summary)])))
        assert found <= scripts, f"{found} scripts, expected at most {scripts}"
        return found

    return Reader([sample], read, (LogError,), hostile_lines)


def check_job_summary(text: str) -> None:
    """Raise AssertionError if a job summary contains a tag, image or script from a text of the log."""
    check_terminal(text)
    without_code = re.sub(r"(?<!\\)`[^`\n]*`|(?m:^    .*$)", "", text)  # an escaped ` opens no code
    assert not re.search(r"<\s*(script|img|iframe|a|svg)\b", without_code, re.IGNORECASE), (
        "the summary has a tag"
    )
    assert not re.search(r"(?<!\\)!\[", without_code), "the summary has an image"


PATHS: dict[str, Callable[[Path], Reader]] = {"text": text_reader, "page": page_reader}
"""Functions that return a path of text, given a folder for files, by name."""
