"""`tal-conformance findings`: list probable bugs of official code, and known issues of other projects."""

import argparse
from collections.abc import Sequence
from typing import Any

from tal_conformance.commands.program import CommandError
from tal_conformance.commands.results import set_result
from tal_conformance.core.names import unknown_name
from tal_conformance.core.progress import progress
from tal_conformance.known_issues.catalogue import (
    batches_of,
    format_finding,
    format_known_issue,
    issue_text,
)
from tal_conformance.known_issues.findings import (
    Finding,
    Ran,
    ScriptFailed,
    installed,
    read_findings,
    run_script,
)
from tal_conformance.known_issues.ledger import BUNDLED, KnownIssue, read_ledger
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """List all findings and known issues, or print the text of an issue about each named finding.

    Returns:
        0, or 1 if a script that ran reproduced a finding unexpectedly, or did not reproduce it.

    Raises:
        CommandError: a finding is unknown, or its script failed.
    """
    known = {finding.id: finding for finding in read_findings()}
    if unknown := [name for name in options.findings if name not in known]:
        raise CommandError(unknown_name("finding", unknown[0], known))
    findings = [known[name] for name in options.findings or known]
    entries = () if options.findings else read_ledger(BUNDLED)
    results = run_scripts(findings) if options.run else {}
    set_result(
        findings=[finding_fields(finding, results.get(finding.id)) for finding in findings],
        known_issues=list(map(entry_fields, entries)),
    )
    if options.findings:
        texts = [
            issue_text(finding, results[finding.id].output if finding.id in results else "")
            for finding in findings
        ]
        say("\n\n".join(texts))
    else:
        say("\n\n".join(listing(findings, entries)))
    for result in results.values():
        verb = "reproduces" if result.reproduces else "does not reproduce"
        say("", f"{result.finding.id}: {verb} with ultralytics {result.release}")
        say(
            *([f"  {result.problem}"] if result.problem else []),
            *map("  {}".format, result.output.splitlines()),
        )
    return int(any(result.problem for result in results.values()))


def run_scripts(findings: Sequence[Finding]) -> dict[str, Ran]:
    """Run the scripts of findings with the installed release, and return the results by name of the finding.

    Raises:
        CommandError: a script failed, so that it neither reproduced nor refuted its finding.
    """
    release, results = installed(), {}
    with progress("Running scripts", len(findings)) as advance:
        for finding in findings:
            try:
                results[finding.id] = run_script(finding, release)
            except ScriptFailed as error:
                raise CommandError(str(error)) from error
            advance()
    return results


def listing(findings: Sequence[Finding], entries: Sequence[KnownIssue]) -> list[str]:
    """Return all findings and known issues as paragraphs of text."""
    return [
        "Findings: probable bugs of official code",
        *("\n".join(format_finding(finding)) for finding in findings),
        "Known issues of other projects",
        *("\n".join(format_known_issue(entry)) for entry in entries),
    ]


def finding_fields(finding: Finding, result: Ran | None) -> dict[str, Any]:
    """Return the machine-readable form of a finding; `result` is the result of its script, None if it did not run."""
    fields = {name: getattr(finding, name) for name in ("title", "batch", "clause", "script")}
    return {
        "name": finding.id,
        **fields,
        "first": str(finding.first),
        "last": str(finding.last),
        "mended": None if finding.mended is None else str(finding.mended),
        "reproduces": None if result is None else result.reproduces,
        "problem": None if result is None else result.problem,
    }


def entry_fields(entry: KnownIssue) -> dict[str, Any]:
    """Return the machine-readable form of an entry of the ledger."""
    return {
        "name": entry.id,
        "implementations": list(entry.implementations),
        "versions": str(entry.versions),
        "clause": entry.clause,
        "stage": entry.stage,
        "batches": batches_of(entry),
        "reason": entry.reason,
        "expires": entry.expires.isoformat(),
    }
