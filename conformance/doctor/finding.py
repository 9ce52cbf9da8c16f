"""Findings: what was found in the inputs of a loss, with the clause and the share of the inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """Consequence of a finding, from harmless to worst."""

    REMARK = 0
    """A matter of degree, which may be intended."""
    NOT_LEARNT = 1
    """A ground truth cannot be learnt, or only in part."""
    WRONG_FORM = 2
    """Inputs that a loss accepts, but misunderstands."""
    NOT_FINITE = 3
    """Inputs that are not finite, and spread into the loss or the weights."""
    RAISES = 4
    """Inputs on which a loss raises an error, or must raise one."""

    @property
    def words(self) -> str:
        """Name of the severity in messages and results."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Finding:
    """One finding on the inputs of one call of a loss.

    Attributes:
        name: name of the kind of finding, the same for all batches.
        clause: clause of the specification that the inputs violate, or in whose range they leave no room.
        severity: consequence of the finding.
        sentence: what was found, what is expected, and the consequence.
        count: number of affected rows, values or anchors.
        total: number of all of them.
        unit: what is counted, as a plural: "rows".
    """

    name: str
    clause: str
    severity: Severity
    sentence: str
    count: int
    total: int
    unit: str

    @property
    def share(self) -> float:
        """Affected share, from 0 to 1."""
        return self.count / max(self.total, 1)

    @property
    def share_in_words(self) -> str:
        """Share such as "3 of 40 rows"."""
        return f"{self.count:,} of {self.total:,} {self.unit}"


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return findings sorted by severity, then by share, both descending."""
    return sorted(findings, key=lambda finding: (-finding.severity, -finding.share))


def worst_line(findings: Sequence[Finding]) -> str:
    """Return the first of some findings, worst first, as one line with the number of others; "" without a finding."""
    if not findings:
        return ""
    first, more = findings[0], len(findings) - 1
    others = f" (and {more} more, which `tal-conformance doctor` prints)" if more else ""
    return f"{first.severity.words}, {first.clause}: {first.sentence}{others}"
