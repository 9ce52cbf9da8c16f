"""How the entries of the ledger stand at the end of a run, and which of them must make it fail."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from tal_conformance.judgement.failure import Subject
from tal_conformance.known_issues.ledger import KnownIssue

Place = tuple[str, str, str]
"""Id of an entry, name of an implementation, device."""


class State(StrEnum):
    """How an entry stands for one implementation on one device."""

    MATCHED = "matched"
    """It excused something."""
    OPEN = "not decided"
    """It excused nothing, in a run that was no whole one."""
    UNMET = "never met"
    """No batch of a whole run had what it asks for."""
    HEALED = "no longer diverges"
    """Batches of a whole run met it, and none of them diverged as it says."""
    EXPIRED = "expired"
    """Its day has come: it excuses nothing."""


@dataclass(frozen=True)
class Standing:
    """One entry, for one implementation on one device.

    Attributes:
        entry: which.
        subject: for whom, and where.
        met: judged batches that had what it asks for.
        known: those of them that it excused.
        state: what follows.
    """

    entry: KnownIssue
    subject: Subject
    met: int
    known: int
    state: State

    @property
    def problem(self) -> str | None:
        """What must be done about it, in one sentence; None if nothing."""
        who = f"ledger entry {self.entry.id} ({self.subject.id})"
        owner = f"its owner is {self.entry.owner}"
        match self.state:
            case State.EXPIRED:
                return f"{who} expired on {self.entry.expires}: mend the divergence, or decide anew; {owner}"
            case State.UNMET:
                return f"{who} was never met: no batch of this run had {', '.join(self.entry.when)}; {owner}"
            case State.HEALED:
                return (
                    f"{who} no longer diverges: none of the {self.met} batches that meet it differs at stage "
                    f"{self.entry.stage} by {self.entry.clause}; remove the entry, or correct it; {owner}"
                )
            case _:
                return None


def standings(
    entries: Iterable[KnownIssue],
    subjects: Iterable[Subject],
    counts: Mapping[str, Mapping[Place, int]],
    whole: bool,
    today: date,
) -> Iterator[Standing]:
    """How each entry stands for each of the subjects that it concerns.

    Args:
        entries: of the ledger.
        subjects: who was tested.
        counts: batches that were `met`, and those `known`, by place.
        whole: everything of a gating profile was run: what was not met here will not be.
        today: to tell what has expired.
    """
    tested = list(subjects)
    for entry in entries:
        for subject in tested:
            if entry.concerns(subject):
                place = entry.id, subject.implementation.name, subject.device
                met, known = (counts[kind].get(place, 0) for kind in ("met", "known"))
                yield Standing(entry, subject, met, known, _state(entry, met, known, whole, today))


def _state(entry: KnownIssue, met: int, known: int, whole: bool, today: date) -> State:
    if entry.expired(today):
        return State.EXPIRED
    if known:
        return State.MATCHED
    if not whole:
        return State.OPEN
    return State.HEALED if met else State.UNMET
