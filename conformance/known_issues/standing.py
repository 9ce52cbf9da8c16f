"""State of every ledger entry at the end of a run: used, unused, expired. Some states make the run fail."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from tal_conformance.judgement.failure import Subject
from tal_conformance.known_issues.ledger import KnownIssue

Place = tuple[str, str, str]
"""Key of a count: id of a ledger entry, name of an implementation, device."""


class State(StrEnum):
    """State of a ledger entry (a known issue) for one implementation on one device."""

    MATCHED = "matched"
    """The entry excused at least one failure."""
    OPEN = "not decided"
    """The entry excused no failure, but the run did not include the whole profile."""
    UNMET = "never met"
    """No batch of a whole run satisfied the entry's predicates."""
    HEALED = "no longer diverges"
    """Batches of a whole run satisfied the predicates, and none of them diverged as described by the entry."""
    EXPIRED = "expired"
    """The entry has expired and no longer excuses failures."""


@dataclass(frozen=True)
class Standing:
    """Result of a ledger entry (a known issue) for one implementation on one device.

    Attributes:
        entry: entry of the ledger.
        subject: the implementation and its device.
        met: number of judged batches that satisfied all predicates of the entry.
        known: number of failures on these batches that the entry excused.
        state: the resulting state.
    """

    entry: KnownIssue
    subject: Subject
    met: int
    known: int
    state: State

    @property
    def problem(self) -> str | None:
        """Instruction to the person in charge of the entry; None if the state requires no action."""
        name = f"ledger entry {self.entry.id} ({self.subject.id})"
        owner = f"its owner is {self.entry.owner}"
        match self.state:
            case State.EXPIRED:
                return (
                    f"{name} expired on {self.entry.expires}: fix the divergence, or set a new date; {owner}"
                )
            case State.UNMET:
                return (
                    f"{name} is unused: no batch of this run satisfied {', '.join(self.entry.when)}; {owner}"
                )
            case State.HEALED:
                return (
                    f"{name} no longer diverges: none of the {self.met} batches that satisfy its predicates differs at "
                    f"stage {self.entry.stage} by {self.entry.clause}. Remove or correct the entry; {owner}"
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
    """Yield the result of each ledger entry for each implementation and device that it concerns.

    Args:
        entries: entries of the ledger.
        subjects: tested implementations with their devices.
        counts: two mappings, `met` and `known`, each from (entry id, implementation, device) to a number of batches.
        whole: True if the run was complete, in a profile that is strict about coverage (such as `ci`), so that unused
            entries are reported.
        today: the current date, for comparison with the entries' expiry dates.
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
