"""`cases/index.tsv`: a table that says what each case file of a run is."""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from tal_reports.log.reader import Log
from tal_reports.log.writer import write_whole
from tal_reports.text import visible

NAME = "index.tsv"
COLUMNS = (
    "case", "kind", "implementation", "device", "verdict", "stage", "clause", "test", "summary", "batch",
)  # fmt: skip
FAILURE, DECLARED, UNLISTED = "failure", "declared difference", "not in the log"
"""Kinds of cases: a batch that failed, one that shows a declared difference of two dialects, and any other file."""


def write_case_index(log: Log, folder: Path) -> Path | None:
    """Write the table of the case files of a run; return its path, or None if the run has no case file.

    Without a case file, the table that an earlier report left is removed.

    Args:
        log: the run.
        folder: folder of the run, with the folder `cases`.

    Raises:
        OSError: the table cannot be written.
    """
    path = folder / "cases" / NAME
    stored = sorted(path.stem for path in (folder / "cases").glob("*.safetensors"))
    if not stored:
        path.unlink(missing_ok=True)
        return None
    text = StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", dialect="excel-tab", lineterminator="\n")
    table.writeheader()
    table.writerows(rows_of(log, stored))
    write_whole(path, text.getvalue())
    return path


def rows_of(log: Log, stored: list[str]) -> Iterator[dict[str, str]]:
    """Yield a row for each failure or declared difference of a stored case, and one for each case without any."""
    lines = [(FAILURE, line) for line in log.divergences] + [(DECLARED, line) for line in log.differences]
    for case in stored:
        own = [(kind, line) for kind, line in lines if line.get("case") == case]
        yield from (_row(case, kind, line) for kind, line in own)
        if not own:
            yield {"case": case, "kind": UNLISTED}


def _row(case: str, kind: str, line: dict[str, Any]) -> dict[str, str]:
    known = {name: " ".join(visible(str(line[name])).split()) for name in COLUMNS if line.get(name)}
    return known | {
        "case": case,
        "kind": kind,
        "batch": " ".join(visible(line.get("description") or "").split()),
    }
