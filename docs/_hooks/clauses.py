"""MkDocs hook: link every clause id in the text of a page to its anchor in the specification; put SVG pictures inline.

Anchors are written in the specification as `<a id="TAL-CAND-1"></a>`. Code, headings and existing links are left alone.
A picture that is part of the page follows its light and dark colours.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.utils import get_relative_url

ANCHOR = re.compile(r'<a id="([A-Z][A-Z0-9-]*)"></a>')
PAGES = ("specification.md", "specification-families.md")
CLAUSE = re.compile(r"(?<![\w/#-])(?:[A-Z][A-Z0-9]+(?:-[A-Z0-9]+)+|T10|T[1-9])(?![\w-])")
SKIPPED = re.compile(r"(<(a|code|pre|h[1-6]|svg|script|style)\b.*?</\2>)", re.DOTALL)
TAG = re.compile(r"(<[^>]*>)")
PICTURE = re.compile(r'<img [^>]*src="(?:\.\./)*(images/[\w-]+\.svg)"[^>]*>')

_anchors: dict[str, str] = {}


def on_files(files: Any, config: Any) -> Any:
    """Collect the anchors of the specification."""
    _anchors.clear()
    for page in PAGES:
        file = files.get_file_from_path(page)
        text = file.content_string
        _anchors.update({anchor: f"{file.url}#{anchor}" for anchor in ANCHOR.findall(text)})
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Link the clause ids of a page, and put its SVG pictures inline."""

    def inline(match: re.Match[str]) -> str:
        return (Path(config.docs_dir) / match[1]).read_text(encoding="utf-8")

    def linked(match: re.Match[str]) -> str:
        target = _anchors.get(match[0])
        if target is None:
            return match[0]
        address, _, anchor = target.partition("#")
        relative = "" if address == page.url else get_relative_url(address, page.url)
        return f'<a href="{relative}#{anchor}">{match[0]}</a>'

    parts = SKIPPED.split(html)
    # re.split yields text, skipped element, its tag name, text, ...
    for index in range(0, len(parts), 3):
        pieces = TAG.split(parts[index])
        parts[index] = "".join(
            piece if piece.startswith("<") else CLAUSE.sub(linked, piece) for piece in pieces
        )
    return PICTURE.sub(inline, "".join(part for index, part in enumerate(parts) if index % 3 != 2))
