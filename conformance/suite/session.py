"""The suite's pytest face: its options, one set of tests for every implementation, and the run that it leaves."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tal_conformance.batches.hazards import MEANINGS
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.environment import command_line
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.known_issues.ledger import BUNDLED, InvalidLedger, KnownIssue, read_ledger
from tal_conformance.known_issues.standing import Standing, standings
from tal_conformance.suite.coverage import loose_bounds, missing_hazards
from tal_conformance.suite.options import (
    against,
    report_dir,
)
from tal_conformance.suite.run_log import RunLogWriter
from tal_reference import Dialect
from tal_reports import RunLog, read_log, render

RUN = pytest.StashKey["SessionState"]()
GATING = ("ci", "nightly")
"""Profiles whose runs fail where a clause or a hazard was reached too rarely."""


@dataclass
class SessionState:
    """What one pytest session tests.

    Attributes:
        recorder: writes the log.
        seed: of Hypothesis.
        devices: every device with "tested" or the reason why not.
        implementations: those that could be had.
        missing: those that could not, with the reason.
        cases: batches of `--case`.
        unreadable: those of its files that hold none, with the reason.
        uncovered: clauses and hazards that the run should have reached more often.
        ledger: divergences on record.
        stale: entries of it that must make the run fail, and why.
        report: the report's path, or what kept it from being made.
    """

    recorder: RunLogWriter
    seed: str
    devices: dict[str, str]
    implementations: list[Implementation] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    cases: list[Batch] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    uncovered: list[str] = field(default_factory=list)
    ledger: tuple[KnownIssue, ...] = ()
    stale: list[str] = field(default_factory=list)
    report: Path | Exception | None = None

    @property
    def folder(self) -> Path:
        """Where the run leaves its log, cases and report."""
        return self.recorder.folder

    @property
    def subjects(self) -> list[Subject]:
        """Every implementation on every tested device."""
        tested = [device for device, state in self.devices.items() if state == "tested"]
        return [
            Subject(implementation, device) for implementation in self.implementations for device in tested
        ]


def _create_log(config: pytest.Config) -> RunLog:
    parent = report_dir(config)
    try:
        return RunLog.create(parent)
    except OSError as error:
        raise pytest.UsageError(
            f"cannot write a report into {parent}: {error} (--report-dir takes another)"
        ) from error


def find_implementations(
    run: SessionState, names: list[str], dialect: Dialect | None = None, isolate: bool = False
) -> None:
    """Look up what is to be tested; what cannot be had is noted, and does not keep the others from it.

    Args:
        run: takes them.
        names: as behind `--implementation`.
        dialect: what all are held to; None: each to its own.
        isolate: run those of one's own in processes of their own.
    """
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        try:
            implementation = find(name, isolate)
        except (UnknownImplementation, ProtocolViolation) as error:
            run.missing[name] = str(error)
            continue
        if implementation.name in taken:
            free = (f"{name} ({number})" if number else name for number in count())
            implementation = replace(implementation, name=next(text for text in free if text not in taken))
        if dialect is not None:
            implementation = replace(implementation, dialect=dialect)
        taken.add(implementation.name)
        run.implementations.append(implementation)


def load_cases(run: SessionState, config: pytest.Config) -> None:
    """The batches of `--case`; a file that holds none is noted, and does not keep the others from being judged."""
    for name in config.getoption("--case") or []:
        try:
            run.cases.append(Batch.load(Path(config.invocation_params.dir, name)))
        except InvalidCase as error:
            run.unreadable[name] = (
                f"{error}; take it anew from `cases/` of the run that it came from, or record it again"
            )
        except OSError as error:
            run.unreadable[name] = f"{name} cannot be read: {error.strerror or error}"


def load_ledger(config: pytest.Config) -> tuple[KnownIssue, ...]:
    """What is on record: of this project, and of `--ledger`. It is so by declared dialects: `--against` has none.

    Raises:
        pytest.UsageError: a file is no ledger.
    """
    own = config.getoption("--ledger")
    paths = [BUNDLED, *([Path(config.invocation_params.dir, own)] if own else [])]
    try:
        entries = read_ledger(*paths)
    except InvalidLedger as error:
        raise pytest.UsageError(f"--ledger {error}") from error
    return () if against(config) else entries


def begin(run: SessionState, config: pytest.Config) -> None:
    """Write the log's first lines."""
    run.recorder.begin(
        {
            "profile": config.getoption("--conformance-profile"),
            "seed": run.seed,
            "command": command_line(),
            "devices": run.devices,
            "hazards": dict(MEANINGS),
            "implementations": [
                {
                    "name": implementation.name,
                    "version": implementation.version,
                    "dialect": implementation.dialect.name,
                    "capabilities": implementation.capabilities,
                }
                for implementation in run.implementations
            ]
            + [
                {"name": name, "version": "unknown", "dialect": "unknown", "capabilities": []}
                for name in run.missing
            ],
        }
    )
    for device, state in run.devices.items():
        if state != "tested":
            run.recorder.line(
                "not_tested", implementation=None, device=device, reason=state.removeprefix("not tested: ")
            )
    for name, reason in run.missing.items():
        run.recorder.line("not_tested", implementation=name, device=None, reason=reason)
    for reason in run.unreadable.values():
        run.recorder.line("not_tested", implementation=None, device=None, reason=f"--case: {reason}")


def stopped(session: pytest.Session, run: SessionState, report: Any) -> Any:
    """Test no more where nothing can be written any more: what is judged from now on would be lost."""
    session.shouldstop = f"the run's log cannot be written: {run.recorder.lost}"
    report.longrepr = session.shouldstop
    return report


def failures_in(error: BaseException) -> Iterator[Failure]:
    """The failures that an exception is, or is a group of."""
    if isinstance(error, Failure):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from failures_in(part)


def gates(config: pytest.Config) -> bool:
    """Whether this run is a whole one of a profile that must exercise everything."""
    whole = config.getoption("--conformance-profile") in GATING
    whole = whole and not config.getoption("--examples") and not config.getoption("--case")
    narrowed = ("keyword", "markexpr", "deselect", "lf", "stepwise")
    parts = [argument for argument in config.args if "::" in argument or argument.endswith(".py")]
    return whole and not parts and not any(config.getoption(option, None) for option in narrowed)


def uncovered_clauses(run: SessionState) -> list[str]:
    """Clauses and hazards that too few batches of this run reached; they are logged as not tested."""
    batches = read_log(run.folder).batches
    near_ties = max((kinds["near_tie"] for kinds in batches.uniqueness.values()), default=0)
    missed = missing_hazards(batches.hazards, batches.different, near_ties)
    for reason in missed:
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)
    return missed


def note_ledger(run: SessionState, whole: bool) -> None:
    """Log how the entries of the ledger stand; those that must make the run fail are noted."""
    concerned = [each for each in run.ledger if any(each.concerns(subject) for subject in run.subjects)]
    if not concerned:
        return
    batches = read_log(run.folder).batches
    counts = {"met": batches.met, "known": batches.known}
    for standing in standings(concerned, run.subjects, counts, whole, datetime.now(UTC).date()):
        run.recorder.line("ledger", **ledger_line(standing))
        run.stale += [standing.problem] if standing.problem else []


def ledger_line(standing: Standing) -> dict[str, Any]:
    """A standing for the log."""
    entry, subject = standing.entry, standing.subject
    return {
        "entry": entry.id,
        "implementation": subject.implementation.name,
        "device": subject.device,
        "versions": str(entry.versions),
        "clause": entry.clause,
        "stage": entry.stage,
        "when": entry.when,
        "reason": entry.reason,
        "link": entry.link,
        "owner": entry.owner,
        "expires": entry.expires.isoformat(),
        "met": standing.met,
        "known": standing.known,
        "state": standing.state.value,
        "fails": standing.problem is not None,
    }


def note_loose_bounds(run: SessionState) -> None:
    """Log the bounds that no error came near: a reader must know, but the implementation did nothing wrong."""
    margins = read_log(run.folder).batches.margins
    for reason in loose_bounds({key: margin.quantile(0.999) for key, margin in margins.items()}):
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)


def rendered(run: SessionState) -> Path | Exception:
    """The report's path, or what kept it from being made; the log is whole either way."""
    try:
        report = render(run.folder)
        run.recorder.make_latest()
    except Exception as error:
        return error
    return report
