"""Entries of the ledger, and the TOML file that they stand in."""

import re
import tomllib
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import TASKS
from tal_conformance.core.verdicts import Verdict
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.known_issues.predicates import PREDICATES

BUNDLED = Path(__file__).with_name("ledger.toml")
"""The ledger of this project."""
DEVICES = ("cpu", "cuda")
RAISES = "error"
"""What an entry writes as its stage where the implementation raises, or breaks the protocol, before any stage."""
LISTS = ("implementations", "devices", "when", "follows")
OPTIONAL = ("says", "follows")


class InvalidLedger(ValueError):
    """A file that is no ledger; the message names the file, the entry, and what is wrong."""


@dataclass(frozen=True)
class KnownIssue:
    """One divergence on record.

    Attributes:
        id: its name in log and report.
        implementations: whose it is: names without `==X.Y.Z`.
        versions: of those, as a specifier.
        devices: where it shows.
        clause: that the first diverging stage breaks; for `RAISES`, that the entry is about.
        stage: the first that diverges, or `RAISES`.
        when: names of predicates that a batch must all fulfil.
        reason, link, owner: for readers.
        expires: the first day on which it excuses nothing any more.
        says: words that the failure's summary holds; "" for any.
        follows: later stages that diverge with it. Each stage is judged from the implementation's own values of the one
            before, so that most do not: another one that diverges is another bug.
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

    def concerns(self, subject: Subject) -> bool:
        """Whether it is about this implementation, in its version, on its device."""
        who = subject.implementation
        names = {who.name, who.name.partition("==")[0], who.spec, who.spec.partition("==")[0]}
        if subject.device not in self.devices or not names & set(self.implementations):
            return False
        try:
            return self.versions.contains(Version(who.version), prereleases=True)
        except InvalidVersion:  # of no order: only an entry about all versions is about it
            return not len(self.versions)

    def met_by(self, batch: Batch) -> bool:
        """Whether a batch has all that the entry asks for."""
        return all(PREDICATES[name](batch) for name in self.when)

    def excuses(self, failure: Failure) -> bool:
        """Whether a failure on a batch that meets it is the one on record: same stage, same clause, same words."""
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
        """The stages that it is about."""
        return {self.stage, *self.follows}

    def expired(self, today: date) -> bool:
        """Whether its day has come."""
        return today >= self.expires


def read_ledger(*paths: Path) -> tuple[KnownIssue, ...]:
    """The entries of these files, in their order.

    Raises:
        CorruptLedger: a file cannot be read, or an entry is none.
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
                raise InvalidLedger(f"{where}: its id is taken by an entry before it")
            entries.append(entry)
    return tuple(entries)


def _raw_entries(path: Path) -> list[Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidLedger(f"{path}: the ledger cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidLedger(f"{path}: the ledger is no TOML: {error}") from error
    strange = sorted(set(content) - {"entry"})
    if strange:
        raise InvalidLedger(f"{path}: {strange[0]!r} is unknown; a ledger holds [[entry]] tables alone")
    entries = content.get("entry", [])
    if not isinstance(entries, list):
        raise InvalidLedger(f"{path}: write [[entry]], with two brackets")
    return entries


def entry_of(raw: Any) -> KnownIssue:
    """An entry as TOML gives it.

    Raises:
        ValueError: a key is missing or unknown, or what it holds makes no sense.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is no table")
    keys = [each.name for each in fields(KnownIssue)]
    strange = [key for key in raw if key not in keys]
    if strange:
        raise ValueError(f"{strange[0]!r} is unknown; keys are {', '.join(keys)}")
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
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{key!r} must be a list of names, one at least")
    elif key == "expires":
        if not isinstance(value, date) or isinstance(value, datetime):
            raise ValueError("'expires' must be a day, such as 2027-03-01, without quotes")
    elif not isinstance(value, str) or not (value.strip() or key in (*OPTIONAL, "versions")):
        raise ValueError(f"{key!r} must be a text that is not empty")


def _versions(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"'versions' must be a specifier such as '>=1.0, <2', not {text!r}") from error


def _check_sense(entry: KnownIssue) -> None:
    for device in entry.devices:
        if device not in DEVICES:
            raise ValueError(f"there is no device {device!r}; devices are {', '.join(DEVICES)}")
    for name in entry.when:
        if name not in PREDICATES:
            raise ValueError(f"there is no predicate {name!r}; predicates are {', '.join(PREDICATES)}")
    for stage in (entry.stage, *entry.follows):
        known = list(dict.fromkeys(name for task in TASKS.values() for name in task.clauses))
        if stage not in (*known, RAISES):
            raise ValueError(f"there is no stage {stage!r}; stages are {', '.join(known)} and {RAISES}")
    if not re.fullmatch(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)+", entry.clause):
        raise ValueError(f"{entry.clause!r} is no clause, such as TAL-CAND-2")
    if entry.stage == RAISES and not entry.says:
        raise ValueError(
            "an entry about an error must quote its message in 'says', or it excuses every other one"
        )
