"""TODO tal_conformance.commands.diff."""

import sys
from pathlib import Path

from tal_conformance.dialects.comparison import compare, format_comparison
from tal_conformance.implementations.registry import find
from tal_reports import visible


def diff(first: str, second: str, html: Path | None = None) -> int:
    """Print what changed from one implementation to another, and leave it as a page with pictures.

    Args:
        first: who is compared, as behind `--implementation`.
        second: with whom.
        html: the page; by default in a folder below that of the reports.

    Returns:
        0 if nothing changed, 1 if something did, 2 if nothing did but the page could not be written.

    Raises:
        UnknownImplementation, ProtocolViolation: one of them cannot be had.
    """
    from tal_conformance.dialects.page import page_path, write_page

    one, other = find(first), find(second)
    path = html or page_path(Path.cwd(), one.name, other.name)
    compared = compare(one, other)
    print(visible("\n".join(format_comparison(compared))))
    try:
        write_page(compared, path)
    except OSError as error:
        told = f"the page could not be written: {error}; name another file with --html"
        print(visible(f"python -m conformance diff: {told}"), file=sys.stderr)
        return int(not compared.same) or 2
    print(visible(f"\n  the page with pictures: {path}"))
    return int(not compared.same)
