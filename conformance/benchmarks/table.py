"""The benchmarks of a run as a table in plain text."""

from collections.abc import Sequence
from typing import Any

HEADER = "times the official release's time (95 % interval)"


def table(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of times relative to the official release: one row per benchmark and device.

    Columns are implementations.

    Args:
        lines: the run log's lines of kind "benchmark".

    Returns:
        Lines of text; an empty list if nothing was timed.
    """
    if not lines:
        return []
    names = list(dict.fromkeys(line["implementation"] for line in lines))
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        rows.setdefault(f"{line['name']} {line['device']}", {})[line["implementation"]] = _cell(line)
    cells = [
        [HEADER, *names],
        *([title, *(row.get(name, "") for name in names)] for title, row in rows.items()),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cell(line: dict[str, Any]) -> str:
    ratio, low, high, memory = (
        line[key] for key in ("ratio_to_official", "ratio_low", "ratio_high", "peak_bytes")
    )
    time = _seconds(line["seconds"])
    if ratio is not None and ratio == low == high == 1:
        text = time
    elif ratio is None:
        text = f"{time}, no ratio"
    else:
        text = f"{ratio:.2f}" if low is None else f"{ratio:.2f} ({low:.2f}–{high:.2f})"
    if line.get("least_seconds"):
        text += f", {line['seconds'] / line['least_seconds']:.3g}x limit"
    return text if memory is None else f"{text}, {memory / 2**20:.0f} MiB"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
