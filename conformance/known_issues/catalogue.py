"""Findings and known issues in words: for the command `findings`, for its page in the documentation, and for reports.

`python -m tal_conformance.known_issues.catalogue` writes the page `docs/findings.md` anew in a clone of the repository.
"""

from collections.abc import Sequence

from tal_conformance.core.clauses import clauses
from tal_conformance.core.files import REPOSITORY
from tal_conformance.known_issues.findings import Finding, read_findings
from tal_conformance.known_issues.ledger import BUNDLED, KnownIssue, read_ledger
from tal_conformance.known_issues.predicates import meaning_of

PAGE = REPOSITORY / "docs" / "findings.md"
HEAD = """# Known findings

This page is written by `python -m tal_conformance.known_issues.catalogue` from the data that the suite itself reads;
`tal-conformance findings` prints the same, and `tal-conformance findings NAME` the text of an issue about a finding.

## In official code

Behaviour of Ultralytics' official code that violates a clause, or that no clause wants, and that is probably a bug. The
suite runs each script every night with the installed release, and fails once a release has fixed the behaviour, so
that this page stays true.
"""
LEDGER_HEAD = """## In other projects

Divergences of other projects from the dialect that they declare. A run reports them as known issues, and does not
fail because of them until the entry expires.

| Known issue | Versions | Clause | Stage | Shown by batches where | Behaviour |
|---|---|---|---|---|---|
"""


def format_finding(finding: Finding) -> list[str]:
    """Return a finding as lines of text: name, behaviour, releases, clause and smallest batch."""
    return [
        f"{finding.id}: {finding.title}",
        f"  releases: {finding.releases}",
        f"  clause: {finding.clause}",
        f"  smallest batch: {finding.batch}",
    ]


def format_known_issue(entry: KnownIssue) -> list[str]:
    """Return an entry of the ledger as lines of text: name, behaviour, versions, clause and batches."""
    return [
        f"{entry.id}: {entry.reason}",
        f"  versions: {versions_of(entry)}",
        f"  clause: {entry.clause}, stage {entry.stage}",
        f"  on batches where: {batches_of(entry)}",
    ]


def versions_of(entry: KnownIssue) -> str:
    """Return the implementations and the versions that an entry of the ledger concerns."""
    return f"{', '.join(entry.implementations)} {entry.versions or 'of any version'}"


def batches_of(entry: KnownIssue) -> str:
    """Return the properties of the batches on which a known issue shows, in words."""
    meanings = [meaning_of(name).rstrip(".") for name in entry.when]
    return "; ".join(f"{meaning[:1].lower()}{meaning[1:]}" for meaning in meanings)


def issue_text(finding: Finding, output: str = "") -> str:
    """Return the Markdown text of an issue about a finding, for the project that it concerns.

    Args:
        finding: the finding.
        output: expected and observed values, as the script printed them; "" to leave them out.
    """
    parts = [
        f"# {finding.title}",
        f"Releases: {finding.releases}.",
        f"Smallest batch: {finding.batch}.",
        f"Expected ({finding.clause}): {clauses()[finding.clause]['text']}",
        f"The script needs only torch and ultralytics, and exits with 0 if the bug is present:\n\n{_code(finding)}",
    ]
    if output:
        parts.append(f"Its output:\n\n```text\n{output}\n```")
    return "\n\n".join(parts)


def page(findings: Sequence[Finding], entries: Sequence[KnownIssue]) -> str:
    """Return the Markdown text of the page about findings and known issues."""
    sections = [
        f"### {finding.title}\n\n- Name: `{finding.id}`\n- Releases: {finding.releases}\n- Clause: {finding.clause}\n"
        f"- Smallest batch: {finding.batch}\n\n{_code(finding)}\n"
        for finding in findings
    ]
    return "\n".join([HEAD, *sections, LEDGER_HEAD + "\n".join(map(_row, entries)) + "\n"])


def _row(entry: KnownIssue) -> str:
    cells = [f"`{entry.id}`", versions_of(entry), entry.clause, entry.stage, batches_of(entry), entry.reason]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(finding: Finding) -> str:
    return f"```python\n{finding.script.read_text(encoding='utf-8').rstrip()}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(read_findings(), read_ledger(BUNDLED)), encoding="utf-8")
