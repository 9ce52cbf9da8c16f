"""The sentences of the clauses, read from the specification's pages into a data file of the package.

The pages are not part of the wheel. `python -m tal_conformance.core.clauses` writes the data file anew in a clone of
the repository.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tal_conformance.core.files import REPOSITORY

FILE = Path(__file__).with_name("clauses.json")
PAGES = ("specification.md", "specification-families.md")
"""Pages of the documentation that define clauses."""
_DEFINITION = re.compile(
    r'<a id="(?P<id>[A-Z0-9]+(?:-[A-Z0-9]+)+)"></a>\*\*(?P=id)\*\*(?P<text>.*?)(?=\n\s*\n|\n- |\Z)', re.S
)


def definitions(page: str) -> dict[str, str]:
    """Return a dictionary from id to text (on one line) of every clause that a page of the specification defines."""
    return {match["id"]: " ".join(match["text"].split()) for match in _DEFINITION.finditer(page)}


def read_pages(folder: Path) -> dict[str, dict[str, str]]:
    """Return a dictionary from id to page and text of every clause that the specification in a folder defines."""
    pages = {page: (folder / page).read_text(encoding="utf-8") for page in PAGES}
    return {
        clause: {"page": page, "text": text}
        for page, content in pages.items()
        for clause, text in definitions(content).items()
    }


@cache
def clauses() -> dict[str, dict[str, str]]:
    """Return a dictionary from id to page and text of every clause, in the order of the specification."""
    found: dict[str, dict[str, str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def written(entries: dict[str, dict[str, str]]) -> str:
    """Return the JSON text of the package's data file for `entries`, the clauses that `read_pages` returned."""
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def names_like(prefix: str, known: Iterable[str]) -> list[str]:
    """Return the known clause ids of the group `prefix`, such as "TAL-CAND", or of its subgroups."""
    return [clause for clause in known if clause.startswith(prefix.upper().rstrip("-") + "-")]


if __name__ == "__main__":
    FILE.write_text(written(read_pages(REPOSITORY / "docs")), encoding="utf-8")
