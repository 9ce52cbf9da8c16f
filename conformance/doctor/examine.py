"""Examine the inputs of a loss, and of a folder of recorded batches, before any loss is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tal_conformance.doctor.candidates import candidate_findings
from tal_conformance.doctor.finding import Finding, Severity, worst_first
from tal_conformance.doctor.inputs import Inputs
from tal_conformance.doctor.predictions import form_findings, value_findings
from tal_conformance.doctor.rows import row_findings

CONSEQUENCES = {
    "rows in another form": {
        "box outside the image", "box partly outside the image", "no candidate", "beyond the bins",
        "more ground truths than anchors",
    },
    "negative side": {"no candidate"},
}  # fmt: skip
"""Findings that follow from another one, and are left out beside it."""


def examine(inputs: Inputs) -> list[Finding]:
    """Return everything that is unusual about the inputs of a loss, worst first; [] for ordinary inputs."""
    found = form_findings(inputs)
    if inputs.well_shaped:
        found += value_findings(inputs) + row_findings(inputs) + candidate_findings(inputs)
    names = {finding.name for finding in found}
    implied = set().union(*(follow for name, follow in CONSEQUENCES.items() if name in names))
    return worst_first([finding for finding in found if finding.name not in implied])


@dataclass(frozen=True)
class Examined:
    """Findings on one case file.

    Attributes:
        path: path of the case file.
        inputs: its inputs.
        findings: findings, worst first.
    """

    path: Path
    inputs: Inputs
    findings: list[Finding]


@dataclass(frozen=True)
class Summary:
    """One kind of finding in several case files.

    Attributes:
        severity: worst severity in the files that have the finding.
        first: the finding in the first file, by step and name, that has it.
        where: that file.
        files: number of files that have the finding.
        count: number of affected rows, values or anchors in the files that have the finding.
        total: number of all rows, values or anchors in the files that have the finding.
    """

    severity: Severity
    first: Finding
    where: Examined
    files: int
    count: int
    total: int


def summarise(examined: Sequence[Examined]) -> list[Summary]:
    """Return every kind of finding in several case files, worst first, then most frequent first."""
    ordered = sorted(examined, key=lambda case: (case.inputs.circumstances.step or 0, case.path.name))
    kinds: dict[str, list[tuple[Examined, Finding]]] = {}
    for case in ordered:
        for finding in case.findings:
            kinds.setdefault(finding.name, []).append((case, finding))
    summaries = [
        Summary(
            severity=max(finding.severity for _, finding in hits),
            first=hits[0][1],
            where=hits[0][0],
            files=len(hits),
            count=sum(finding.count for _, finding in hits),
            total=sum(finding.total for _, finding in hits),
        )
        for hits in kinds.values()
    ]
    return sorted(summaries, key=lambda summary: (-summary.severity, -summary.files))
