"""The ledger of known issues: a TOML file of divergences that do not fail a run."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from tal_conformance.core.batch import Batch
from tal_conformance.core.clauses import clauses
from tal_conformance.core.devices import USUAL, is_device_type
from tal_conformance.core.files import check_regular
from tal_conformance.core.names import LONGEST_MESSAGE, cut, suggestion, unknown_name
from tal_conformance.core.task import DETECT, TASKS
from tal_conformance.core.verdicts import Verdict
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.known_issues.predicates import PREDICATES

BUNDLED = Path(__file__).with_name("ledger.toml")
"""Path of this project's ledger."""
RAISES = "error"
"""Value of `stage` for an implementation that raises, or violates the protocol, before any stage."""
LISTS = ("implementations", "devices", "when", "follows", "tasks")
OPTIONAL = ("says", "follows", "tasks")


class InvalidLedger(ValueError):
    """Error: a ledger is invalid. The message names the file, the entry and the problem."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(message, LONGEST_MESSAGE))


@dataclass(frozen=True)
class KnownIssue:
    """One known divergence: an entry of the ledger.

    Attributes:
        id: name of the entry in log and report.
        implementations: names of the affected implementations, without `==X.Y.Z`.
        versions: specifier of their affected versions.
        devices: affected devices.
        clause: clause that the first diverging stage violates; if `stage` is `RAISES`, the concerned clause.
        stage: the first diverging stage, or `RAISES`.
        when: names of predicates; a batch must satisfy all of them.
        reason: explanation of the divergence, for readers.
        link: address of the issue at the implementation's project.
        owner: person in charge of the entry.
        expires: the first day on which the entry excuses nothing.
        says: text that the failure's summary must contain; "" for any text.
        follows: later stages that diverge for the same reason. Each stage is judged from the implementation's own
            values of the previous stage, so that most later stages agree. A further diverging stage usually is a
            further bug.
        tasks: names of the affected tasks.
    """

    id: str
    implementations: tuple[str, ...]
    versions: SpecifierSet
    devices: tuple[str, ...]
    clause: str
    stage: str
    when: tuple[str, ...]
    reason: str
    link: str
    owner: str
    expires: date
    says: str = ""
    follows: tuple[str, ...] = ()
    tasks: tuple[str, ...] = (DETECT.name,)

    def concerns(self, subject: Subject) -> bool:
        """Return True if the entry concerns the implementation, version, device and task of `subject`."""
        implementation = subject.implementation
        names = {
            name
            for full in (implementation.name, implementation.spec)
            for name in (full, re.split("==|@", full)[0])
        }
        if subject.device not in self.devices or implementation.task not in self.tasks:
            return False
        if not names & set(self.implementations):
            return False
        try:
            return self.versions.contains(Version(implementation.version), prereleases=True)
        except InvalidVersion:  # an incomparable version, which only an entry for all versions concerns
            return not len(self.versions)

    def met_by(self, batch: Batch) -> bool:
        """Return True if a batch satisfies all predicates of the entry."""
        return all(PREDICATES[name](batch) for name in self.when)

    def excuses(self, failure: Failure) -> bool:
        """Return True if a failure, on a batch that satisfies `when`, has the entry's stage, clause and text."""
        if self.says not in failure.summary:
            return False
        if self.stage == RAISES:
            return failure.verdict is Verdict.ERROR and not failure.stage
        return (
            failure.verdict is Verdict.DIVERGENT
            and failure.stage == self.stage
            and failure.clause == self.clause
        )

    def covers(self) -> set[str]:
        """Return the names of the stages whose divergences the entry explains."""
        return {self.stage, *self.follows}

    def expired(self, today: date) -> bool:
        """Return True if the entry has expired by the day `today`, so that it no longer excuses failures."""
        return today >= self.expires


def read_ledger(*paths: Path) -> tuple[KnownIssue, ...]:
    """Return the ledger entries of several files, in the files' order.

    Raises:
        InvalidLedger: a file cannot be read, or an entry is invalid.
    """
    entries: list[KnownIssue] = []
    for path in paths:
        for number, raw in enumerate(_raw_entries(path), 1):
            name = raw.get("id") if isinstance(raw, dict) else None
            where = f"{path}: entry {number}" + (f" ({name})" if isinstance(name, str) else "")
            try:
                entry = entry_of(raw)
            except ValueError as error:
                raise InvalidLedger(f"{where}: {error}") from error
            if entry.id in {other.id for other in entries}:
                raise InvalidLedger(f"{where}: an earlier entry has the same id")
            entries.append(entry)
    return tuple(entries)


LARGEST_LEDGER = 2**24
"""Size of the largest ledger that is read, in bytes."""


def _raw_entries(path: Path) -> list[Any]:
    try:
        check_regular(path, LARGEST_LEDGER)
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidLedger(f"cannot read the ledger {path}: {error}") from error
    except (ValueError, RecursionError) as error:  # also an integer of too many digits, and deep nesting
        raise InvalidLedger(f"cannot read the ledger {path}: not valid TOML: {error!s:.200}") from error
    unknown = sorted(set(content) - {"entry"})
    if unknown:
        raise InvalidLedger(f"{path}: {unknown[0]!r} is an unknown table; expected [[entry]] tables only")
    entries = content.get("entry", [])
    if not isinstance(entries, list):
        raise InvalidLedger(f"{path}: expected [[entry]] with two brackets, got [entry]")
    return entries


def entry_of(raw: Any) -> KnownIssue:
    """Return the ledger entry that a TOML table describes.

    Raises:
        ValueError: a key is missing or unknown, or its value is invalid.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"expected every entry of the ledger to be a TOML table, got {raw!r}")
    keys = [field.name for field in fields(KnownIssue)]
    unknown = [key for key in raw if key not in keys]
    if unknown:
        raise ValueError(unknown_name("key", unknown[0], keys))
    missing = [key for key in keys if key not in raw and key not in OPTIONAL]
    if missing:
        raise ValueError(f"{missing[0]!r} is missing")
    for key in keys:
        if key in raw:
            _check_type(key, raw[key])
    lists = {key: tuple(raw[key]) for key in LISTS if key in raw}
    entry = KnownIssue(**raw | lists | {"versions": _versions(raw["versions"])})
    _check_sense(entry)
    return entry


def _check_type(key: str, value: Any) -> None:
    if key in LISTS:
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{key!r} must be a list of at least one name, got {value!r}")
    elif key == "expires":
        if not isinstance(value, date) or isinstance(value, datetime):
            raise ValueError(f"'expires' must be a date without quotes, such as 2027-03-01, got {value!r}")
    elif not isinstance(value, str) or not (value.strip() or key in (*OPTIONAL, "versions")):
        raise ValueError(f"{key!r} must be a non-empty string, got {value!r}")


def _versions(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(
            f"'versions' must be a version specifier such as '>=1.0, <2', got {text!r}"
        ) from error


def _check_names(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError, with the nearest known name, if a name is unknown."""
    expected = tuple(known)
    for name in names:
        if name not in expected:
            raise ValueError(unknown_name(kind, name, expected))


def _check_sense(entry: KnownIssue) -> None:
    for device in entry.devices:
        if not is_device_type(device):
            raise ValueError(
                f"unknown device {device!r}, expected a type of device that torch knows: {', '.join(USUAL)}, …"
            )
    _check_names("predicate", entry.when, PREDICATES)
    _check_names("task", entry.tasks, TASKS)
    known = dict.fromkeys(name for task in entry.tasks for name in TASKS[task].clauses)
    _check_names("stage", (entry.stage, *entry.follows), (*known, RAISES))
    if not re.fullmatch(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)+", entry.clause):
        raise ValueError(f"{entry.clause!r} is not the name of a clause, expected a name such as TAL-CAND-2")
    if entry.clause not in clauses():
        raise ValueError(
            f"unknown clause {entry.clause!r}{suggestion(entry.clause, clauses()) or '.'} "
            "`tal-conformance clause TAL` prints the clauses of a group"
        )
    if entry.stage == RAISES and not entry.says:
        raise ValueError(
            f"an entry with the stage {RAISES!r} must quote the exception's message in 'says', so that the entry does "
            "not excuse other exceptions"
        )
