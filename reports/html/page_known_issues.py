"""Known issues: entries of the ledger (excused failures), and findings (probable bugs of official code)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tal_reports.html.tables import Table
from tal_reports.log.reader import Log
from tal_reports.text import shortened


@dataclass(frozen=True)
class KnownIssues:
    """Entries of the ledger that concern the run, and findings whose scripts the run executed.

    Attributes:
        ledger: table of the entries; entries that make the run fail come first.
        findings: the findings, each with the script that shows the bug.
    """

    ledger: Table
    findings: list[dict[str, Any]]


def known_issues_of(log: Log) -> KnownIssues:
    """Return the data of the section about known issues."""
    return KnownIssues(_ledger(log.ledger), [_finding(line) for line in log.findings])


def _ledger(lines: Iterable[dict[str, Any]]) -> Table:
    rows = [
        [
            line["entry"],
            f"{line['implementation']} {line['versions']}".rstrip(),
            line["device"],
            f"{line['stage']}, {line['clause']}",
            ", ".join(line["when"]),
            f"{shortened(line['reason'], 300)} ({shortened(line['link'], 200)})",
            line["owner"],
            line["expires"],
            line["state"],
            f"{line['known']:,}",
            f"{line['met']:,}",
        ]
        for line in sorted(lines, key=lambda line: not line["fails"])
    ]
    columns = ["entry", "implementation", "device", "stage", "on batches with", "reason", "owner", "expires"]
    return Table([*columns, "state", "excused", "matched"], rows, numeric=9)


def _finding(line: dict[str, Any]) -> dict[str, Any]:
    reproduces = line["reproduces"]
    return line | {
        "title": shortened(line["title"], 200),
        "script": shortened(line["script"], 4000),
        "output": shortened(line["output"], 1000),
        "verdict": "known" if reproduces else "divergent",
        "text": f"reproduces with {line['version']}"
        if reproduces
        else f"does not reproduce with {line['version']}",
    }
