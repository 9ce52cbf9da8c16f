"""The state of one pytest session: implementations, devices, case files, known issues and run log."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tal_conformance.batches.hazards.catalogue import MEANINGS_BY_TASK
from tal_conformance.checks.power import worth_of
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.environment import command_line, environment
from tal_conformance.core.task import DETECT, TASKS
from tal_conformance.implementations.on_device import can_be_moved, on_device
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.known_issues.ledger import BUNDLED, InvalidLedger, KnownIssue, read_ledger
from tal_conformance.known_issues.standing import Standing, standings
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.coverage import IMPOSSIBLE, OPTIONAL, loose_bounds, missing_hazards
from tal_conformance.suite.options import (
    against,
    report_dir,
)
from tal_conformance.suite.progress import TestProgress, nothing_judged
from tal_conformance.suite.run_log import RunLogWriter
from tal_conformance.suite.shrinking import ShrinkBudget
from tal_reference.choices import title
from tal_reports import Batches, RunLog, batch_lines, read_log, render

RUN = pytest.StashKey["SessionState"]()
MAX_UNSUPPORTED_SHARE = 0.75
"""Largest share of the batches of a run that the adapter may declare not to support.

Measured with the narrowest adapter of known code bases, which has 16 bins, two levels or more, fixed k, alpha and beta,
and no topk2: it supports 177 of 518 batches of all checks, and excludes 66 %.
"""
GATING = ("ci", "nightly")
"""Profiles whose complete runs fail if too few batches reach a clause or a hazard."""


@dataclass
class SessionState:
    """The state of one pytest session.

    Attributes:
        recorder: writes the run log.
        seed: seed of Hypothesis, or "derandomized".
        devices: for each device "tested", or the reason why it is not tested.
        implementations: the implementations to test.
        progress: counts planned and finished tests.
        cases: batches of the case files given by `--case`.
        unreadable: the reason why a file of `--case` could not be read, by path.
        uncovered: sentences about clauses and hazards that too few batches reached.
        ledger: the known issues: failures that do not fail the run.
        unsupported: sentences about implementations whose adapters exclude too many batches.
        stale: sentences about known issues that make the run fail, such as expired ones.
        shrinking: failures that were shrunk, and the budget of processor time for shrinking.
        mistakes: formal mistakes (such as a wrong dtype) that were reported, as (implementation, device, mistake).
        absent: missing results that were logged, as (implementation, name of the result).
        untested_tasks: sentences about tasks of implementations that the run does not test.
        report: path of the report, or the exception that prevented it; None before the end of the session.
    """

    recorder: RunLogWriter
    seed: str
    devices: dict[str, str]
    implementations: list[Implementation] = field(default_factory=list)
    cases: list[Batch] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    uncovered: list[str] = field(default_factory=list)
    ledger: tuple[KnownIssue, ...] = ()
    unsupported: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    shrinking: ShrinkBudget = field(default_factory=ShrinkBudget)
    mistakes: set[tuple[str, str, str]] = field(default_factory=set)
    absent: set[tuple[str, str]] = field(default_factory=set)
    untested_tasks: list[str] = field(default_factory=list)
    report: Path | Exception | None = None
    progress: TestProgress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = TestProgress(self.recorder)

    @property
    def folder(self) -> Path:
        """Folder of the run's log, case files and report."""
        return self.recorder.folder

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the implementations are tested on: each implementation is tested on one."""
        return tuple(dict.fromkeys(implementation.task for implementation in self.implementations))

    @property
    def subjects(self) -> list[Subject]:
        """All pairs of an implementation and a tested device."""
        tested = [device for device, state in self.devices.items() if state == "tested"]
        return [
            Subject(on_device(implementation, device), device)
            for implementation in self.implementations
            for device in tested
            if can_be_moved(implementation, device)
        ]


def create_log(config: pytest.Config) -> RunLog:
    """Create the folder and the log of a run; raise a usage error if they cannot be written."""
    parent = report_dir(config)
    try:
        return RunLog.create(parent)
    except OSError as error:
        raise pytest.UsageError(
            f"cannot write a report into {parent}: {error}; choose another folder with --report-dir"
        ) from error


def load_cases(run: SessionState, config: pytest.Config) -> None:
    """Load the batches of `--case`. Store the reason for each unreadable file in `run.unreadable`, and go on."""
    for name in config.getoption("--case") or []:
        try:
            run.cases.append(Batch.load(Path(config.invocation_params.dir, name)))
        except InvalidCase as error:
            run.unreadable[name] = (
                f"{error}; copy the file again from `cases/` of its run, or record it again"
            )
        except OSError as error:
            run.unreadable[name] = f"cannot read {name}: {error.strerror or error}"


def load_ledger(config: pytest.Config) -> tuple[KnownIssue, ...]:
    """Return the known issues of this project and of `--ledger`.

    Known issues concern the dialects that implementations declare. With `--against` another dialect is used, and the
    ledger is empty.

    Raises:
        pytest.UsageError: a file is not a valid ledger.
    """
    own = config.getoption("--ledger")
    paths = [BUNDLED, *([Path(config.invocation_params.dir, own)] if own else [])]
    try:
        entries = read_ledger(*paths)
    except InvalidLedger as error:
        raise pytest.UsageError(f"--ledger {error}") from error
    return () if against(config) else entries


def ignored_ledger(config: pytest.Config) -> str:
    """Return a sentence if `--against` makes the run ignore the file of `--ledger`, or ""."""
    dialect, own = against(config), config.getoption("--ledger")
    if dialect is None or not own:
        return ""
    return (
        f"--ledger {own} is ignored: known issues concern the dialect that an implementation declares, and --against "
        f"{dialect.name} replaces it"
    )


def isolation_of(implementations: Iterable[Implementation]) -> dict[str, str]:
    """Return a description of the isolation of each implementation that runs in a worker process, by name."""
    return {
        implementation.name: (
            f"process of its own, network blocked by {implementation.adapter.network}, {implementation.adapter.memory}"
        )
        for implementation in implementations
        if implementation.in_subprocess
    }


def begin(run: SessionState, config: pytest.Config) -> None:
    """Write the first lines of the run log: the run, and the reasons for everything that is not tested."""
    isolation = isolation_of(run.implementations)
    run.recorder.begin(
        {
            "profile": config.getoption("--conformance-profile"),
            "worth": _worth(run, config),
            "seed": run.seed,
            "command": command_line(),
            "devices": run.devices,
            "hazards": {name: text for task in run.tasks for name, text in MEANINGS_BY_TASK[task].items()},
            "environment": environment() | ({"isolation": isolation} if isolation else {}),
            "implementations": [
                {
                    "name": implementation.name,
                    "version": implementation.version,
                    "dialect": title(implementation.dialect),
                    "task": implementation.task,
                    "capabilities": implementation.capabilities,
                }
                for implementation in run.implementations
            ],
        },
        *(TASKS[task] for task in run.tasks),
    )
    for device, state in run.devices.items():
        if state != "tested":
            run.recorder.line(
                "not_tested", implementation=None, device=device, reason=state.removeprefix("not tested: ")
            )
        for implementation in run.implementations if state == "tested" else ():
            if not can_be_moved(implementation, device):
                reason = f"in a process of its own, which is not possible on {device}"
                run.recorder.line(
                    "not_tested", implementation=implementation.name, device=device, reason=reason
                )
    for reason in run.untested_tasks:
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)
    for reason in run.unreadable.values():
        run.recorder.line("not_tested", implementation=None, device=None, reason=f"--case: {reason}")


def _worth(run: SessionState, config: pytest.Config) -> dict[str, Any] | None:
    """Return the number of planted faults that the profile finds; None if the run does not test detection.

    The power of the profiles is measured for detection alone.
    """
    if DETECT.name not in run.tasks:
        return None
    return worth_of(config.getoption("--conformance-profile"), is_whole(config))


def note_other_checks(run: SessionState, task: str, items: Sequence[pytest.Item]) -> None:
    """Log the checks that have no counterpart for a task, in one line: the subject of each test module.

    Args:
        run: state of the session.
        task: name of the task.
        items: the tests that were deselected because they do not apply to the task.
    """
    subjects: dict[str, None] = {}
    for item in items:
        module = getattr(item, "module", None)
        first_line = (getattr(module, "__doc__", None) or item.path.stem).splitlines()[0]
        subjects[first_line.split(":")[0].rstrip(".")] = None
    if subjects:
        reason = f"task {task}: checks without batches of this task: {', '.join(subjects)}"
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)


def stopped(session: pytest.Session, run: SessionState, report: Any) -> Any:
    """Stop the session because its log cannot be written, and return the report with this reason."""
    session.shouldstop = f"cannot write the run log: {run.recorder.lost}; free disk space or set --report-dir"
    report.longrepr = session.shouldstop
    return report


def failures_in(error: BaseException) -> Iterator[Failure]:
    """Yield the `Failure` objects in an exception or, recursively, in an exception group."""
    if isinstance(error, Failure):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from failures_in(part)


def gates(config: pytest.Config) -> bool:
    """Return True if this is a complete run of a profile that must reach every clause and hazard."""
    return config.getoption("--conformance-profile") in GATING and is_whole(config)


def is_whole(config: pytest.Config) -> bool:
    """Return True if this run has all tests and batches of its profile."""
    complete = not any(config.getoption(option) for option in ("--examples", "--case"))
    if DETECT.name not in config.stash[RUN].tasks:  # coverage and power are measured for detection alone
        return False
    narrowed = ("keyword", "markexpr", "deselect", "lf", "stepwise")
    parts = [argument for argument in config.args if "::" in argument or argument.endswith(".py")]
    return complete and not parts and not any(config.getoption(option, None) for option in narrowed)


def uncovered_clauses(run: SessionState) -> list[str]:
    """Log each clause and hazard that too few batches reached as not tested, and return a sentence for each of them."""
    batches = _batches_of(run, DETECT.name)
    near_ties = max((kinds["near_tie"] for kinds in batches.uniqueness.values()), default=0)
    reasons = missing_hazards(batches.hazards, batches.different, near_ties)
    for reason in reasons:
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)
    return reasons


def note_unreached_hazards(run: SessionState) -> None:
    """Log for every other task than detection the hazards that no batch had.

    The minimum numbers of batches of `uncovered_clauses` are measured for detection alone.
    """
    for task in run.tasks:
        if task != DETECT.name:
            reached = _batches_of(run, task).hazards
            excluded = OPTIONAL | IMPOSSIBLE.get(task, frozenset())
            missing = [name for name in MEANINGS_BY_TASK[task] if not reached[name] and name not in excluded]
            if missing:
                reason = f"task {task}: hazards that no batch had: {', '.join(missing)}"
                run.recorder.line("not_tested", implementation=None, device=None, reason=reason)


def _batches_of(run: SessionState, task: str) -> Batches:
    """Return the counts over the logged batches of a task."""
    batches = Batches()
    for implementation in run.implementations:
        if implementation.task == task:
            for line in batch_lines(run.folder, implementation.name):
                batches.add(line)
    return batches


def new_mistakes(run: SessionState, checker: Checker) -> list[Failure]:
    """Return the failures for formal mistakes (such as a wrong dtype) that no earlier test has reported."""
    subject = checker.subject
    found = []
    for mistake, failure in checker.formal.items():
        key = subject.implementation.name, subject.device, mistake
        if key not in run.mistakes:
            run.mistakes.add(key)
            found.append(failure)
    return found


def note_absent(run: SessionState, checker: Checker) -> None:
    """Log every result that an implementation does not return, such as the loss terms, once in a run."""
    name = checker.subject.implementation.name
    for absent in sorted(checker.absent):
        if (name, absent) not in run.absent:
            run.absent.add((name, absent))
            run.recorder.line(
                "not_tested", implementation=name, device=None, reason=f"{absent} is None: {DERIVED[absent]}"
            )


DERIVED = {
    "Assignment.labels": "the class of each anchor is that of the ground truth of its target box",
    "Assignment.truth_index": "the owner of each anchor is the ground truth of its target box",
    "Loss.items": "the terms are judged by the total and the gradients",
    "Loss.branches": "the branches are judged by the gradients on their feature maps",
    "Loss.gradients": "the values of the loss are judged, and its gradients are not",
}
"""How a result that an implementation does not have is judged."""


def too_unsupported(run: SessionState) -> list[str]:
    """Return a sentence for each implementation whose adapter excludes too many batches, and log it."""
    verdicts: dict[tuple[str, str], Counter[str]] = {}
    for cell, counts in read_log(run.folder).batches.cells.items():
        verdicts.setdefault((cell.implementation, cell.device), Counter()).update(counts)
    reasons = []
    for (name, device), counts in verdicts.items():
        batches, excluded = counts.total(), counts["not_supported"]
        if not excluded or excluded <= unsupported_ceiling(batches) * batches:
            continue
        reason = (
            f"{name} on {device}: {excluded:,} of {batches:,} batches are not supported, more than "
            f"{MAX_UNSUPPORTED_SHARE:.0%}: the other batches show too little about the implementation"
        )
        reasons.append(reason)
        run.recorder.line(
            "inconclusive", implementation=name, device=device, test="all tests", batches=batches,
            inconclusive=excluded, reason=reason,
        )  # fmt: skip
    return reasons


def unsupported_ceiling(batches: int) -> float:
    """Return the largest share of batches that an adapter may exclude, for a run of `batches` batches.

    The limit is `MAX_UNSUPPORTED_SHARE` plus four standard deviations of the share in a random sample of that size.
    One run in 30,000 exceeds this limit by chance. The result is below 1, so that an adapter that excludes all batches
    fails.
    """
    spread = 4 * math.sqrt(MAX_UNSUPPORTED_SHARE * (1 - MAX_UNSUPPORTED_SHARE) / batches)
    return min(MAX_UNSUPPORTED_SHARE + spread, 1 - 0.5 / batches)


def note_ledger(run: SessionState, whole: bool) -> None:
    """Log for every known issue whether it occurred, and store messages about outdated entries in `run.stale`.

    Args:
        run: the session.
        whole: True if the run is complete, so that an issue that did not occur counts as solved.
    """
    concerned = [issue for issue in run.ledger if any(issue.concerns(subject) for subject in run.subjects)]
    if not concerned:
        return
    batches = read_log(run.folder).batches
    counts = {"met": batches.met, "known": batches.known}
    for standing in standings(concerned, run.subjects, counts, whole, datetime.now(UTC).date()):
        run.recorder.line("ledger", **ledger_line(standing))
        run.stale += [standing.problem] if standing.problem else []


def ledger_line(standing: Standing) -> dict[str, Any]:
    """Return the fields of the log line about a known issue: the issue, and whether it occurred."""
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
    """Log every stage whose error bound is much larger than all observed errors, so that the report lists it."""
    margins = read_log(run.folder).batches.margins
    for reason in loose_bounds({key: margin.quantile(0.999) for key, margin in margins.items()}):
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)


def log_shrinking(run: SessionState) -> None:
    """Log the processor time that this process spent on making failing batches smaller, if any test failed."""
    budget = run.shrinking
    if budget.shrunk and run.recorder.lost is None:
        seconds = round(sum(budget.used.values()), 2)
        run.recorder.line("shrinking", seconds=seconds, budget=budget.seconds, spared=budget.spared)


def close_run(run: SessionState, status: int, judges_cases: bool) -> int:
    """Log how many tests finished, close the log, and render the report.

    The link `latest` is set only if all planned tests finished and at least one batch was judged.

    Args:
        run: the session; its `report` is set to the path, or to the exception that prevented it.
        status: pytest's exit status.
        judges_cases: True if the run judges case files, which may all be batches to reject.

    Returns:
        The exit status: NO_TESTS_COLLECTED instead of OK if nothing was judged, or only batches to reject;
        TESTS_FAILED instead of OK if the log has a failure.
    """
    judged = False
    try:
        log = read_log(run.folder)
        whole = run.progress.end(log)
        judged = not nothing_judged(log, or_only_rejected=not judges_cases)
        if status == pytest.ExitCode.OK and not judged:
            status = pytest.ExitCode.NO_TESTS_COLLECTED
        if status == pytest.ExitCode.OK and log.divergences:
            # code of an implementation changed pytest's reports
            status = pytest.ExitCode.TESTS_FAILED
        run.recorder.end(int(status != 0))
    except OSError as error:
        run.report = error
        return status
    ended = status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    run.report = rendered(run, latest=whole and judged and ended)
    return status


def rendered(run: SessionState, latest: bool) -> Path | Exception:
    """Render the report, and return its path, or the exception that prevented it.

    Args:
        run: the session.
        latest: True to make the link `latest` point to this run.
    """
    try:
        report = render(run.folder)
        if latest:
            run.recorder.make_latest()
    except Exception as error:
        return error
    return report
