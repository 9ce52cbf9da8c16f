"""`tal-conformance replay CASE`: judge case files again, with any implementation or by stored outcomes.

A case file may come from a run (`cases/`), from a recorded training, or from an untrusted source: nothing in it is
executed. An unreadable file or a missing implementation is reported in one line, and the other cases are judged.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tal_conformance.batches.seeding import make_draws_reproducible
from tal_conformance.checks.everything import run_every_check
from tal_conformance.commands.cases import case_files
from tal_conformance.commands.doctor import examined_case, raised_words
from tal_conformance.commands.program import CommandError, dialect_named, program_name
from tal_conformance.commands.results import set_result
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.files import default_report_dir
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.progress import no_progress, progress
from tal_conformance.core.verdicts import Divergence, Judgement, State, Value, Verdict
from tal_conformance.doctor.finding import worst_line
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.guards.exceptions import TRACEBACK_ELSEWHERE
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
from tal_conformance.pictures.picture import can_be_drawn, failure_picture, picture
from tal_reference import Dialect, parse
from tal_reports import write_picture
from tal_text import say, warn

MAX_VALUES = 6
"""Maximum number of differing values that are printed for the first divergence."""
TRACEBACK_LINES = 12
"""Maximum number of lines of a traceback that are printed: its end, where the exception was raised."""


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
    if options.device == "cuda" and not options.offline and not torch.cuda.is_available():
        raise CommandError(
            "--device cuda: no CUDA device found. Use --offline to judge stored results of a run on another machine"
        )
    if not options.offline:
        replay.find_implementations()
    found = [entry for name in options.case for entry in _case_files_or_error(name)]
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


@dataclass(frozen=True)
class Replayed:
    """Result of judging one outcome (the results or exception of an implementation on a case) again.

    Attributes:
        who: name, version, device and dialect of the implementation, as the beginning of a sentence.
        verdict: verdict of the judgement.
        summary: one sentence about the first divergence; "" without a divergence.
        judgement: judgement of every stage; None if nothing could be judged.
        values: differing values of the first divergence.
        picture: data from which a picture is drawn; None if a prediction is not finite or nothing was judged.
        traceback: traceback of the implementation's exception; "" if it did not raise.
    """

    who: str
    verdict: Verdict
    summary: str = ""
    judgement: Judgement | None = None
    values: Sequence[Value] = ()
    picture: dict[str, Any] | None = None
    traceback: str = ""


@dataclass
class Replay:
    """Options of the command, and the results so far.

    Attributes:
        names: values of `--implementation`. With `offline`, they select the stored outcomes to judge; empty: all.
        offline: judge the outcomes stored beside the case files, without running an implementation.
        device: device to run on, unless `offline` is set.
        against: dialect by which every implementation is judged; None for the dialect that it declares.
        pictures: folder of the pictures.
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
                implementation = find(name)
            except (UnknownImplementation, ProtocolViolation) as error:
                self.report_missing(error)
                for line in error.details.splitlines()[-TRACEBACK_LINES:]:
                    warn(printable(f"  {line}"))
            else:
                held_to = self.against or implementation.dialect
                self.found.append(replace(implementation, dialect=held_to))

    def judge_case(self, path: Path) -> None:
        """Judge one case file and print the results."""
        try:
            batch = Batch.load(path)
        except FileNotFoundError:
            self.report_missing(f"case file not found: {path}")
            return
        except (InvalidCase, OSError) as error:
            self.report_missing(error)
            self._examine(path)
            return
        say(printable(f"{path}: {batch.describe()}"))
        if batch.origin:
            say(printable(f"  {batch.origin}"))
        for remark in remarks_on(batch):
            say(printable(f"  remark: {remark}"))
        finding = self._examine(path)
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
            say("\n".join(printable(line) for line in format_replay(replayed)))
            picture_file = self._draw(batch, replayed)
            outcomes.append({**outcome_fields(replayed), "picture": picture_file})

    def _examine(self, path: Path) -> str | None:
        """Print what the loss raised on a recorded batch and the worst finding on its inputs; return the finding."""
        try:
            examined = examined_case(path)
        except (InvalidCase, OSError):
            return None
        finding = worst_line(examined.findings)
        if examined.inputs.circumstances.exception:
            say(printable(f"  recorded: {raised_words(examined)}"))
        if finding:
            say(printable(f"  inputs: {finding}"))
        return finding or None

    def verdicts(self) -> str:
        """Return the number of outcomes with each verdict, as one line."""
        counts = Counter(outcome["verdict"] for case in self.cases for outcome in case["outcomes"])
        parts = [f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.most_common()]
        return f"{len(self.cases)} cases: {', '.join(parts) or 'nothing judged'}"

    def _live(self, batch: Batch) -> Iterator[Replayed]:
        """Run every loaded implementation on the batch, and yield the judged result of each."""
        for implementation in self.found:
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
                )
            else:
                drawing = picture_of(batch, dialect, outcomes[0], judgement) if outcomes else None
                yield Replayed(who, judgement.verdict, judgement=judgement, picture=drawing)

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
            write_picture(path, replayed.picture, f"{_word(replayed.verdict)}: case {batch.id}", lines)
        except OSError as error:
            self.report_missing(f"cannot write the picture: {error}. Name another folder with --pictures")
            return None
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
    return picture(batch, dialect, outcome.assignment, judgement) if can_be_drawn(batch) else None


def judge_stored(batch: Batch, stored: StoredOutcome, dialect: Dialect) -> Replayed:
    """Judge a stored outcome by a dialect, and return the result."""
    who = f"{stored.implementation} {stored.version} on {stored.device} (stored), dialect {dialect.name}"
    try:
        judgement = judge_any(stored.outcome, Expectation(batch, dialect))
    except Divergence as error:
        first = error.judgement.first
        values = first.mismatch.values if first and first.mismatch else []
        drawing = picture_of(batch, dialect, stored.outcome, error.judgement)
        return Replayed(who, error.judgement.verdict, f"at stage {error}", error.judgement, values, drawing)
    return Replayed(
        who,
        judgement.verdict,
        judgement=judgement,
        picture=picture_of(batch, dialect, stored.outcome, judgement),
    )


def _summary(failure: Failure) -> str:
    """Return one sentence about a failure, without its reference to a report: this command does not write a report."""
    stage = f"at stage {failure.stage} ({failure.clause}): " if failure.stage else ""
    return stage + failure.summary.replace(TRACEBACK_ELSEWHERE, "")


def _word(verdict: Verdict) -> str:
    return verdict.value.replace("_", " ")


def format_replay(replayed: Replayed) -> list[str]:
    """Return the lines of text about one result."""
    judgement = replayed.judgement
    unique = (
        f" ({judgement.uniqueness.value.replace('_', ' ')})"
        if judgement and not (judgement.rejected or judgement.unsupported)
        else ""
    )
    lines = [f"{replayed.who}: {_word(replayed.verdict).upper()}{unique}"]
    if replayed.summary:
        lines.append(f"  {replayed.summary}")
    lines += [f"    {line}" for line in replayed.traceback.splitlines()[-TRACEBACK_LINES:]]
    for value in replayed.values[:MAX_VALUES]:
        bound = "" if value.bound in ("", "0", "none") else f" within {value.bound}"
        lines.append(
            f"    {value.where}: {value.quantity} is {value.implementation}, expected {value.reference}{bound}"
        )
    for stage in judgement.stages.values() if judgement else ():
        has_margin = stage.margin is not None and stage.state is State.AGREES
        margin = f", largest error {stage.margin:.3g} of its bound" if has_margin else ""
        if stage.state is not State.NOT_SHOWN:
            lines.append(f"  {stage.stage:14}{stage.state.value}{margin}")
    notes = judgement.notes if judgement else []
    if judgement and judgement.unsupported:
        notes = [f"raises, as declared: {judgement.unsupported}", *notes]
    return lines + [f"  {note.replace(TRACEBACK_ELSEWHERE, '')}" for note in notes]


def outcome_fields(replayed: Replayed) -> dict[str, Any]:
    """Return the machine-readable result of one judged outcome."""
    judgement = replayed.judgement
    return {
        "implementation": replayed.who,
        "verdict": replayed.verdict.value,
        "summary": replayed.summary or None,
        "stages": {
            stage.stage: {"state": stage.state.value, "margin": stage.margin}
            for stage in (judgement.stages.values() if judgement else ())
        },
        "values": [asdict(value) for value in replayed.values],
        "notes": list(judgement.notes) if judgement else [],
        "traceback": replayed.traceback or None,
    }


def printable(text: str) -> str:
    """Return a text with control characters replaced, because the content of files could control the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
