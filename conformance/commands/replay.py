"""Judge case files again, with any implementation or by what one left beside them: `python -m conformance replay`.

A case file may come from a run (`cases/`), from a recorded training, or from anybody: nothing in it is executed. What
cannot be read, or had, is told in one line, and keeps nothing else from being judged.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tal_conformance.checks.everything import run_every_check
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.files import default_report_dir
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Divergence, Judgement, State, Value, Verdict
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.outcome_file import (
    CorruptOutcome,
    StoredOutcome,
    load,
    outcomes_beside,
)
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.non_finite import is_finite, judge_any
from tal_conformance.pictures.picture import failure_picture, picture
from tal_reference import DIALECTS, Dialect
from tal_reports import write_picture

SHOWN = 6
"""Places of the first divergence that are printed."""
SUFFIX = ".safetensors"


class CannotReplay(Exception):
    """Something cannot be judged; the message says what is missing."""


@dataclass(frozen=True)
class Replayed:
    """One outcome of one case, judged again.

    Attributes:
        who: implementation, version, device and dialect, as a sentence begins.
        verdict: what it came to.
        summary: of the first divergence; "" if there is none.
        judgement: stage by stage, if something could be judged.
        values: places of the first divergence.
        picture: what is drawn; None of predictions that are not finite, and where nothing was judged.
    """

    who: str
    verdict: Verdict
    summary: str = ""
    judgement: Judgement | None = None
    values: Sequence[Value] = ()
    picture: dict[str, Any] | None = None


@dataclass
class Replay:
    """What is asked for, and what came of it so far.

    Attributes:
        names: implementations, as behind `--implementation`; offline, only outcomes of those that are named.
        offline: judge the outcomes that are stored beside the case files; no implementation runs.
        device: where to run otherwise.
        against: dialect that all are held to; None: each to its own.
        pictures: folder of the pictures.
        found: implementations that could be had.
        fails: something does not conform.
        missing: something could not be judged.
    """

    names: Sequence[str]
    offline: bool
    device: str
    against: Dialect | None
    pictures: Path
    found: list[Implementation] = field(default_factory=list)
    fails: bool = False
    missing: bool = False

    @property
    def status(self) -> int:
        """0 if all conforms, 1 if something does not, else 2 if something could not be judged."""
        return 1 if self.fails else 2 if self.missing else 0

    def lacks(self, what: object) -> None:
        """Tell in one line what cannot be judged."""
        self.missing = True
        print(printable(f"python -m conformance replay: {what}"), file=sys.stderr)

    def find_implementations(self) -> None:
        """Look up whom to judge; what cannot be had is told."""
        for name in self.names or ["ultralytics"]:
            try:
                one = find(name)
            except (UnknownImplementation, ProtocolViolation) as error:
                self.lacks(error)
            else:
                self.found.append(replace(one, dialect=self.against) if self.against else one)

    def case(self, path: Path) -> None:
        """Judge one case file, and print what came of it."""
        try:
            batch = Batch.load(path)
        except FileNotFoundError:
            return self.lacks(f"there is no file {path}")
        except (InvalidCase, OSError) as error:
            return self.lacks(error)
        print(printable(f"{path}: {batch.describe()}"))
        if batch.origin:
            print(printable(f"  {batch.origin}"))
        for replayed in self._stored(path, batch) if self.offline else self._live(batch):
            self.fails = self.fails or replayed.verdict.fails
            print("\n".join(printable(line) for line in format_replay(replayed)))
            self._draw(batch, replayed)
        return None

    def _live(self, batch: Batch) -> Iterator[Replayed]:
        """Every implementation on the batch."""
        for one in self.found:
            who = f"{one.name} {one.version} on {self.device}, held to {one.dialect.name}"
            outcomes: list[Outcome] = []

            def watched(
                batch: Batch, outcome: Outcome, dialect: Dialect, seen: list[Outcome] = outcomes
            ) -> Judgement:
                seen.append(outcome)
                return judge_any(batch, outcome, dialect)

            try:
                judgement = run_every_check(Subject(one, self.device), batch, watched)
            except Failure as failure:
                told = _told(failure)
                drawn = failure_picture(failure)
                yield Replayed(who, failure.verdict, told, failure.judgement, failure.values, drawn)
            else:
                drawn = drawn_of(batch, one.dialect, outcomes[0], judgement) if outcomes else None
                yield Replayed(who, judgement.verdict, judgement=judgement, picture=drawn)

    def _stored(self, case: Path, batch: Batch) -> Iterator[Replayed]:
        """Every outcome that is stored beside the case, judged."""
        judged = 0
        for path in outcomes_beside(case):
            try:
                stored = load(path, batch)
                dialect = self.against or dialect_of(stored, path)
            except (CorruptOutcome, CannotReplay, OSError) as error:
                self.lacks(error)
                continue
            if not self.names or stored.implementation in self.names:
                judged += 1
                yield judged_again(batch, stored, dialect)
        if not judged:
            whose = f" of {', '.join(self.names)}" if self.names else ""
            self.lacks(f"no outcome{whose} is stored beside {case}")

    def _draw(self, batch: Batch, replayed: Replayed) -> None:
        """Write the picture of what was judged, and print its path."""
        if replayed.picture is None:
            return
        safe = re.sub(r"[^\w.=-]+", "_", replayed.who)[:100]
        path = self.pictures / f"{batch.id}-{safe}.html"
        lines = [line for line in (replayed.who, replayed.summary, batch.describe(), batch.origin) if line]
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            write_picture(path, replayed.picture, f"{_word(replayed.verdict)}: case {batch.id}", lines)
        except OSError as error:
            self.lacks(f"the picture could not be written: {error}")
        else:
            print(printable(f"  picture: {path}"))


def replay(
    cases: Sequence[str],
    names: Sequence[str],
    offline: bool,
    device: str = "cpu",
    against: str | None = None,
    pictures: Path | None = None,
) -> int:
    """Judge cases again and print what came of it.

    Args:
        cases: paths of case files, and of folders with case files (a run's folder too).
        names: implementations, as behind `--implementation`; offline, only outcomes of those that are named.
        offline: judge the outcomes that are stored beside the case files; no implementation runs.
        device: where to run otherwise.
        against: name of the dialect that all are held to; None: each to its own.
        pictures: folder of the pictures; by default below that of the reports.

    Returns:
        0 if all conforms, 1 if something does not, else 2 if something could not be judged.
    """
    folder = pictures or default_report_dir(Path.cwd()) / "pictures"
    asked = Replay(names, offline, device, DIALECTS.get(against or ""), folder)
    if against and not asked.against:
        asked.lacks(f"--against {against}: there is no such dialect; known are {', '.join(DIALECTS)}")
        return asked.status
    if device == "cuda" and not offline and not torch.cuda.is_available():
        asked.lacks("there is no CUDA device here; --offline judges what one computed elsewhere")
        return asked.status
    if not offline:
        asked.find_implementations()
    for name in cases:
        try:
            files = case_files(Path(name))
        except CannotReplay as error:
            asked.lacks(error)
            continue
        for path in files:
            asked.case(path)
    return asked.status


def case_files(path: Path) -> list[Path]:
    """The file itself, or the case files of a folder or of a run's folder, by name.

    Raises:
        CannotReplay: the folder has none, or cannot be read.
    """
    if not path.is_dir():
        return [path]
    try:
        files = [file for file in (path / "cases", path) if file.is_dir() for file in sorted(file.iterdir())]
    except OSError as error:
        raise CannotReplay(f"{path} cannot be read: {error}") from error
    files = [file for file in files if file.suffix == SUFFIX and file.is_file()]
    if not files:
        raise CannotReplay(f"{path} has no case file (*{SUFFIX}) in it")
    return files


def dialect_of(stored: StoredOutcome, path: Path) -> Dialect:
    """What a stored outcome is held to.

    Raises:
        CannotReplay: a dialect that this version does not know.
    """
    if stored.dialect not in DIALECTS:
        known = ", ".join(DIALECTS)
        raise CannotReplay(f"{path} is held to the dialect {stored.dialect!r}; known are {known}")
    return DIALECTS[stored.dialect]


def drawn_of(
    batch: Batch, dialect: Dialect, outcome: Outcome, judgement: Judgement | None
) -> dict[str, Any] | None:
    """The picture of an outcome, if there is something to draw."""
    return picture(batch, dialect, outcome.assignment, judgement) if is_finite(batch) else None


def judged_again(batch: Batch, stored: StoredOutcome, dialect: Dialect) -> Replayed:
    """A stored outcome, judged."""
    who = f"{stored.implementation} {stored.version} on {stored.device} (stored), held to {dialect.name}"
    try:
        judgement = judge_any(batch, stored.outcome, dialect)
    except Divergence as error:
        first = error.judgement.first
        values = first.mismatch.values if first and first.mismatch else []
        drawn = drawn_of(batch, dialect, stored.outcome, error.judgement)
        return Replayed(who, error.judgement.verdict, f"at stage {error}", error.judgement, values, drawn)
    return Replayed(
        who,
        judgement.verdict,
        judgement=judgement,
        picture=drawn_of(batch, dialect, stored.outcome, judgement),
    )


def _told(failure: Failure) -> str:
    where = f"at stage {failure.stage} ({failure.clause}): " if failure.stage else ""
    return where + failure.summary


def _word(verdict: Verdict) -> str:
    return verdict.value.replace("_", " ")


def format_replay(replayed: Replayed) -> list[str]:
    """What is printed of one replayed outcome."""
    judgement = replayed.judgement
    unique = f" ({judgement.uniqueness.value.replace('_', ' ')})" if judgement else ""
    lines = [f"{replayed.who}: {_word(replayed.verdict).upper()}{unique}"]
    if replayed.summary:
        lines.append(f"  {replayed.summary}")
    for value in replayed.values[:SHOWN]:
        bound = "" if value.bound in ("", "0", "none") else f" within {value.bound}"
        lines.append(
            f"    {value.where}: {value.quantity} is {value.implementation}, expected {value.reference}{bound}"
        )
    for stage in judgement.stages.values() if judgement else ():
        known = stage.margin is not None and stage.state is State.AGREES
        margin = f", error {stage.margin:.3g} of its bound" if known else ""
        if stage.state is not State.NOT_SHOWN:
            lines.append(f"  {stage.stage:14}{stage.state.value}{margin}")
    return lines + [f"  {note}" for note in judgement.notes] if judgement else lines


def printable(text: str) -> str:
    """Text without anything that could steer a terminal: files may say what they like."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
