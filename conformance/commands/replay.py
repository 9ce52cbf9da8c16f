"""`tal-conformance replay CASE`: judge case files again, with any implementation or by stored outcomes.

A case file may come from a run (`cases/`), from a recorded training, or from an untrusted source: nothing in it is
executed. An unreadable file or a missing implementation is reported in one line, and the other cases are judged.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tal_conformance.batches.seeding import make_draws_reproducible
from tal_conformance.checks.everything import run_every_check
from tal_conformance.commands.cases import case_files
from tal_conformance.commands.doctor import examined_case, raised_words
from tal_conformance.commands.program import CommandError, dialect_named, program_name
from tal_conformance.commands.replayed import (
    TRACEBACK_LINES,
    Replayed,
    format_replay,
    numbers_of,
    outcome_fields,
    printable,
    word,
)
from tal_conformance.commands.results import set_result
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.devices import reason_missing, unavailable
from tal_conformance.core.files import default_report_dir
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.progress import no_progress, progress
from tal_conformance.core.verdicts import Divergence, Judgement, Verdict
from tal_conformance.doctor.finding import worst_line
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.guards.exceptions import TRACEBACK_ELSEWHERE
from tal_conformance.implementations.on_device import on_device
from tal_conformance.implementations.outcome_file import (
    CorruptOutcome,
    StoredOutcome,
    load,
    outcomes_beside,
)
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.non_finite import judge_any
from tal_conformance.judgement.remarks import remarks_on
from tal_conformance.pictures.picture import can_be_drawn, drawn_assignment, failure_picture, picture
from tal_reference import Dialect, parse
from tal_reference.eras_of_tasks import for_task
from tal_reports import write_picture
from tal_text import say, warn


def run(options: argparse.Namespace) -> int:
    """Judge case files again and print the results.

    Returns:
        0 if everything conforms, 1 if something does not, else 2 if something could not be judged.

    Raises:
        CommandError: the dialect is unknown, or the device does not exist.
    """
    make_draws_reproducible()
    replay = Replay(
        names=options.implementation or [],
        offline=options.offline,
        device=options.device,
        against=dialect_named("--against", options.against),
        pictures=options.pictures or default_report_dir(Path.cwd()) / "pictures",
    )
    if not options.offline and reason_missing(options.device) is not None:
        raise CommandError(unavailable(options.device))
    if not options.offline:
        replay.find_implementations()
    found = [entry for name in options.case for entry in _case_files_or_error(name)]
    replay.details = options.details or len(found) == 1
    with progress("Judging cases", len(found)) if len(found) > 1 else nullcontext(no_progress) as advance:
        for entry in found:
            if isinstance(entry, CommandError):
                replay.report_missing(entry)
            else:
                replay.judge_case(entry)
            advance()
    if len(replay.cases) > 1:
        say(replay.verdicts())
    set_result(cases=replay.cases, problems=replay.problems)
    return replay.status


def _case_files_or_error(name: str) -> Sequence[Path | CommandError]:
    """Return the case files that an argument names, or the error if there are none."""
    try:
        return case_files(Path(name))
    except CommandError as error:
        return [error]


class CannotReplay(Exception):
    """Error: a case cannot be judged. The message states what is missing."""


@dataclass
class Replay:
    """Options of the command, and the results so far.

    Attributes:
        names: values of `--implementation`. With `offline`, they select the stored outcomes to judge; empty: all.
        offline: judge the outcomes stored beside the case files, without running an implementation.
        device: device to run on, unless `offline` is set.
        against: dialect by which every implementation is judged; None for the dialect that it declares.
        pictures: folder of the pictures.
        details: print batch, origin, stages and picture of results that conform, too.
        found: the loaded implementations.
        fails: True if an outcome does not conform.
        missing: True if a case could not be judged, or only in part.
        cases: machine-readable results, one for each judged case file.
        problems: messages about cases and implementations that cannot be judged.
    """

    names: Sequence[str]
    offline: bool
    device: str
    against: Dialect | None
    pictures: Path
    details: bool = True
    found: list[Implementation] = field(default_factory=list)
    fails: bool = False
    missing: bool = False
    cases: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Exit status: 0 if everything conforms, 1 if something does not, else 2 if something could not be judged."""
        return 1 if self.fails else 2 if self.missing else 0

    def report_missing(self, problem: object) -> None:
        """Print one line about a case or an implementation that cannot be judged."""
        self.missing = True
        self.problems.append(str(problem))
        warn(printable(f"{program_name()} replay: {problem}"))

    def find_implementations(self) -> None:
        """Load the named implementations (default: Ultralytics), and print a line for each failure to load."""
        for name in self.names or ["ultralytics"]:
            try:
                implementation = on_device(find(name), self.device)
            except (UnknownImplementation, ProtocolViolation) as error:
                self.report_missing(error)
                for line in error.details.splitlines()[-TRACEBACK_LINES:]:
                    warn(printable(f"  {line}"))
            else:
                self.found.append(
                    implementation if self.against is None else implementation.with_dialect(self.against)
                )

    def judge_case(self, path: Path) -> None:
        """Judge one case file and print the results."""
        try:
            batch = Batch.load(path)
        except FileNotFoundError:
            self.report_missing(f"case file not found: {path}")
            return
        except (InvalidCase, OSError) as error:
            self.report_missing(error)
            for line in self._examine(path)[0]:
                say(line)
            return
        facts, finding = self._examine(path)
        about = [printable(f"  remark: {remark}") for remark in remarks_on(batch)] + facts
        heading = [f"{path}: {batch.describe()}"] + ([f"  {batch.origin}"] if batch.origin else [])
        if self.details:
            for line in [*map(printable, heading), *about]:
                say(line)
        outcomes: list[dict[str, Any]] = []
        self.cases.append({
            "file": path, "id": batch.id, "batch": batch.origin or batch.describe(),
            "remarks": list(remarks_on(batch)), "finding": finding, "outcomes": outcomes,
        })  # fmt: skip
        for replayed in self._stored(path, batch) if self.offline else self._live(batch):
            self.fails = self.fails or replayed.verdict.fails
            self.missing = self.missing or replayed.verdict in (
                Verdict.INCONCLUSIVE,
                Verdict.NOT_SUPPORTED,
            )
            self._report(path, replayed, heading, about)
            picture_file = self._draw(batch, replayed)
            outcomes.append({**outcome_fields(replayed), "picture": picture_file})

    def _report(self, path: Path, replayed: Replayed, heading: list[str], about: list[str]) -> None:
        """Print one result: with details, all of it; else one line with the file, and the reasons for a failure.

        Args:
            path: path of the case file.
            replayed: the result.
            heading: lines about the batch, which are part of a failure's reasons.
            about: printable lines about unusual inputs.
        """
        lines = [printable(line) for line in format_replay(replayed, self.details)]
        if not self.details:
            heading = [printable(f"  {line.strip().removeprefix(f'{path}: ')}") for line in heading]
            failing = heading if replayed.verdict.fails else []
            lines = [printable(f"{path}: ") + lines[0], *failing, *about, *lines[1:]]
        say("\n".join(lines))

    def _examine(self, path: Path) -> tuple[list[str], str | None]:
        """Return printable lines about the recorded exception and the worst finding on a batch, and the finding."""
        try:
            examined = examined_case(path)
        except (InvalidCase, OSError):
            return [], None
        finding = worst_line(examined.findings)
        raised = examined.inputs.circumstances.exception
        lines = [f"  recorded: {raised_words(examined)}"] if raised else []
        lines += [f"  inputs: {finding}"] if finding else []
        return [printable(line) for line in lines], finding or None

    def verdicts(self) -> str:
        """Return the number of outcomes with each verdict, as one line."""
        counts = Counter(outcome["verdict"] for case in self.cases for outcome in case["outcomes"])
        parts = [f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.most_common()]
        missing = f"; {len(self.problems)} could not be judged" if self.problems else ""
        return f"{len(self.cases)} cases: {', '.join(parts) or 'nothing judged'}{missing}"

    def _live(self, batch: Batch) -> Iterator[Replayed]:
        """Run every loaded implementation on the batch, and yield the judged result of each."""
        for loaded in self.found:
            implementation = loaded.for_batch_of(batch.task)
            version, dialect = implementation.version, implementation.dialect
            who = f"{implementation.name} {version} on {self.device}, dialect {dialect.name}"
            outcomes: list[Outcome] = []

            def watched(outcome: Outcome, expected: Expectation, seen: list[Outcome] = outcomes) -> Judgement:
                seen.append(outcome)
                return judge_any(outcome, expected)

            try:
                judgement = run_every_check(Subject(implementation, self.device), batch, watched)
            except Failure as failure:
                summary, drawing = _summary(failure), failure_picture(failure)
                yield Replayed(
                    who,
                    failure.verdict,
                    summary,
                    failure.judgement,
                    failure.values,
                    drawing,
                    failure.details or "",
                    numbers_of(batch, dialect, outcomes[0]) if outcomes else None,
                )
            else:
                drawing = picture_of(batch, dialect, outcomes[0], judgement) if outcomes else None
                numbers = numbers_of(batch, dialect, outcomes[0]) if outcomes else None
                yield Replayed(who, judgement.verdict, judgement=judgement, picture=drawing, numbers=numbers)

    def _stored(self, case: Path, batch: Batch) -> Iterator[Replayed]:
        """Judge every outcome that is stored beside the case file, and yield the results."""
        judged = 0
        for path in outcomes_beside(case):
            try:
                stored = load(path, batch)
                dialect = self.against or dialect_of(stored, path)
            except (CorruptOutcome, CannotReplay, OSError) as error:
                self.report_missing(error)
                continue
            if not self.names or stored.implementation in self.names:
                judged += 1
                yield judge_stored(batch, stored, dialect)
        if not judged:
            of_names = f" of {', '.join(self.names)}" if self.names else ""
            self.report_missing(
                f"no outcome{of_names} is stored beside {case}: leave out --offline to compute one"
            )

    def _draw(self, batch: Batch, replayed: Replayed) -> Path | None:
        """Write the picture of a result, print the file's path and return it; None without a picture."""
        if replayed.picture is None:
            return None
        safe = re.sub(r"[^\w.=-]+", "_", replayed.who)[:100]
        path = self.pictures / f"{batch.id}-{safe}.html"
        lines = [line for line in (replayed.who, replayed.summary, batch.describe(), batch.origin) if line]
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            write_picture(path, replayed.picture, f"{word(replayed.verdict)}: case {batch.id}", lines)
        except OSError as error:
            self.report_missing(f"cannot write the picture: {error}. Name another folder with --pictures")
            return None
        if self.details or replayed.verdict.fails:
            say(printable(f"  picture: {path}"))
        return path


def dialect_of(stored: StoredOutcome, path: Path) -> Dialect:
    """Return the dialect that a stored outcome declares.

    Raises:
        CannotReplay: this version does not know the dialect.
    """
    try:
        return parse(stored.dialect)
    except ValueError as error:
        raise CannotReplay(f"{path}: {error}. Name a dialect to judge by with --against") from error


def picture_of(
    batch: Batch, dialect: Dialect, outcome: Outcome, judgement: Judgement | None
) -> dict[str, Any] | None:
    """Return the data of an outcome's picture for the report, or None if the batch cannot be drawn."""
    if not can_be_drawn(batch):
        return None
    return picture(batch, dialect, drawn_assignment(batch, outcome, judgement), judgement)


def judge_stored(batch: Batch, stored: StoredOutcome, dialect: Dialect) -> Replayed:
    """Judge a stored outcome by a dialect, and return the result."""
    dialect = for_task(dialect, batch.task) or dialect
    who = f"{stored.implementation} {stored.version} on {stored.device} (stored), dialect {dialect.name}"
    try:
        judgement = judge_any(stored.outcome, Expectation(batch, dialect))
    except Divergence as error:
        first = error.judgement.first
        values = first.mismatch.values if first and first.mismatch else []
        drawing = picture_of(batch, dialect, stored.outcome, error.judgement)
        numbers = numbers_of(batch, dialect, stored.outcome)
        return Replayed(
            who,
            error.judgement.verdict,
            f"at stage {error}",
            error.judgement,
            values,
            drawing,
            numbers=numbers,
        )
    return Replayed(
        who,
        judgement.verdict,
        judgement=judgement,
        picture=picture_of(batch, dialect, stored.outcome, judgement),
        numbers=numbers_of(batch, dialect, stored.outcome),
    )


def _summary(failure: Failure) -> str:
    """Return one sentence about a failure, without its reference to a report: this command does not write a report."""
    stage = f"at stage {failure.stage} ({failure.clause}): " if failure.stage else ""
    return stage + failure.summary.replace(TRACEBACK_ELSEWHERE, "")
