"""Judge case files again, with an implementation or by what one left beside them: `python -m conformance replay`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from conformance.batches import Batch, CorruptCase
from conformance.conforming import conform
from conformance.implementations import Implementation, ProtocolViolation, UnknownImplementation, find
from conformance.implementations.stored import CorruptOutcome, load, outcomes_beside
from conformance.judgement import Diverges, Judgement, State, Value, Verdict, judge
from conformance.recording import Failure, Subject
from reference import DIALECTS

SHOWN = 6
"""Places of the first divergence that are printed."""


class CannotReplay(Exception):
    """There is nothing to judge; the message says what is missing."""


@dataclass(frozen=True)
class Replayed:
    """One outcome of one case, judged again.

    Attributes:
        who: implementation, version, device and dialect, as a sentence begins.
        verdict: what it came to.
        summary: of the first divergence; "" if there is none.
        judgement: stage by stage, if something could be judged.
        values: places of the first divergence.
    """

    who: str
    verdict: Verdict
    summary: str = ""
    judgement: Judgement | None = None
    values: Sequence[Value] = ()


def replay(cases: Sequence[str], names: Sequence[str], offline: bool, device: str = "cpu") -> int:
    """Judge cases again and print what came of it.

    Args:
        cases: paths of case files.
        names: implementations, as behind `--implementation`; offline, only outcomes of those that are named.
        offline: judge the outcomes that are stored beside the case files; no implementation runs.
        device: where to run otherwise.

    Returns:
        0 if all conforms, 1 if something does not, 2 if there was nothing to judge.
    """
    failed = False
    try:
        found = [] if offline else [_found(name) for name in names or ["ultralytics"]]
        if device == "cuda" and not offline and not torch.cuda.is_available():
            raise CannotReplay("there is no CUDA device here; --offline judges what one computed elsewhere")
        for case in cases:
            batch = _loaded(Path(case))
            print(printable(f"{case}: {batch.describe()}"))
            every = _stored(Path(case), batch, names) if offline else _live(batch, found, device)
            for replayed in every:
                print("\n".join(printable(line) for line in lines_of(replayed)))
                failed = failed or replayed.verdict.fails
    except CannotReplay as error:
        print(printable(f"python -m conformance replay: {error}"), file=sys.stderr)
        return 2
    return int(failed)


def _found(name: str) -> Implementation:
    try:
        return find(name)
    except (UnknownImplementation, ProtocolViolation) as error:
        raise CannotReplay(str(error)) from error


def _loaded(path: Path) -> Batch:
    try:
        return Batch.load(path)
    except (CorruptCase, OSError) as error:
        raise CannotReplay(str(error)) from error


def _live(batch: Batch, implementations: Sequence[Implementation], device: str) -> Iterator[Replayed]:
    """Every implementation on the batch."""
    for one in implementations:
        who = f"{one.name} {one.version} on {device}, held to {one.dialect.name}"
        try:
            judgement = conform(Subject(one, device), batch)
        except Failure as failure:
            yield Replayed(who, failure.verdict, _told(failure), failure.judgement, failure.values)
        else:
            yield Replayed(who, judgement.verdict, judgement=judgement)


def _told(failure: Failure) -> str:
    where = f"at stage {failure.stage} ({failure.clause}): " if failure.stage else ""
    return where + failure.summary


def _stored(case: Path, batch: Batch, names: Sequence[str]) -> Iterator[Replayed]:
    """Every outcome that is stored beside the case, judged."""
    judged = 0
    for path in outcomes_beside(case):
        try:
            stored = load(path, batch)
        except (CorruptOutcome, OSError) as error:
            raise CannotReplay(str(error)) from error
        if names and stored.implementation not in names:
            continue
        dialect = DIALECTS.get(stored.dialect)
        if dialect is None:
            known = ", ".join(DIALECTS)
            raise CannotReplay(f"{path} is held to the dialect {stored.dialect!r}; known are {known}")
        judged += 1
        who = f"{stored.implementation} {stored.version} on {stored.device} (stored), held to {dialect.name}"
        try:
            judgement = judge(batch, stored.outcome, dialect)
        except Diverges as error:
            first = error.judgement.first
            values = first.mismatch.values if first and first.mismatch else []
            yield Replayed(who, error.judgement.verdict, f"at stage {error}", error.judgement, values)
        else:
            yield Replayed(who, judgement.verdict, judgement=judgement)
    if not judged:
        whose = f" of {', '.join(names)}" if names else ""
        raise CannotReplay(f"no outcome{whose} is stored beside {case}")


def lines_of(replayed: Replayed) -> list[str]:
    """What is printed of one replayed outcome."""
    judgement = replayed.judgement
    unique = f" ({judgement.uniqueness.value.replace('_', ' ')})" if judgement else ""
    lines = [f"{replayed.who}: {replayed.verdict.value.upper().replace('_', ' ')}{unique}"]
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
