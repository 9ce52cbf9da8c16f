"""Reading a run log: of a finished run, a killed one, or one of several worker processes.

A log that was cut anywhere still says all that it says. What cannot be used is left out, counted and
reported; only what is no run log at all, or one of another schema, is refused.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tal_reports.log.batches import Batches, batch_fault
from tal_reports.log.legacy import ADDED_SINCE, upgraded
from tal_reports.log.schemas import fault
from tal_reports.log.writer import MAIN, SCHEMA
from tal_reports.text import counted, moment, shortened, visible

Line = dict[str, Any]

MAX_LINE_BYTES = 16 * 2**20
"""Bytes of a line that is still read; a line that is longer is left out."""
MAX_LINES = 20_000
"""Lines of a kind (other than `batch`, which are counted) that are kept."""
MAX_FAULTS = 20
"""Different faults of a log that are told apart."""
MAX_DEPTH = 20
"""Levels of nesting that are kept of what the log says about the environment."""
MERGES = (["-m", "tal_reports", "merge"], ["-m", "reports", "merge"])
"""Commands that make one run of several, behind the name of the interpreter."""
OPENING = b'{"kind":"run"'
"""How the log of a run begins, also if it was cut soon after."""


class LogError(ValueError):
    """There is no run log, or none that this version reads. The message names the file and what is wrong."""


@dataclass
class Problems:
    """What of a log could not be used, and whether it ends.

    Attributes:
        unknown: lines of kinds that this version does not know, by kind.
        unusable: lines that are no JSON or do not follow the schema, by what is wrong with them.
        first: where the first line of `unusable` with each fault stands.
        cut: files that end in the middle of a line.
        unfinished: there is no `end` line.
    """

    unknown: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    unfinished: bool = False

    def sentences(self) -> list[str]:
        """The same in words; none if the log is whole."""
        said = []
        if self.unfinished:
            said.append("The run did not finish: this is what it had logged until then.")
        said += [f"{name} ends in the middle of a line, which was left out." for name in self.cut]
        for kind, count in self.unknown.items():
            said.append(f"{counted(count, 'line')} of a kind that this version does not know: {kind}.")
        for reason, count in self.unusable.items():
            said.append(f"{counted(count, 'line')} left out, the first at {self.first[reason]}: {reason}.")
        return [visible(shortened(sentence, 600)) for sentence in said]


@dataclass
class Log:
    """A run log as it was read. Lines are dictionaries that follow `log.schema.json`.

    Attributes:
        folder: the run's folder.
        run: the `run` line.
        batches: counts over the `batch` lines.
        divergences, differences, not_tested, benchmarks, training, synchronisations, scopes, power, ledger, findings:
            the lines of these kinds, in their order.
        end: the `end` line; None if the run did not finish.
        last_time: time of the last line.
        problems: what could not be used.
    """

    folder: Path
    run: Line
    batches: Batches = field(default_factory=Batches)
    divergences: list[Line] = field(default_factory=list)
    differences: list[Line] = field(default_factory=list)
    not_tested: list[Line] = field(default_factory=list)
    benchmarks: list[Line] = field(default_factory=list)
    training: list[Line] = field(default_factory=list)
    synchronisations: list[Line] = field(default_factory=list)
    scopes: list[Line] = field(default_factory=list)
    power: list[Line] = field(default_factory=list)
    ledger: list[Line] = field(default_factory=list)
    findings: list[Line] = field(default_factory=list)
    end: Line | None = None
    last_time: str | None = None
    problems: Problems = field(default_factory=Problems)

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in the order of the data."""
        return [stage["name"] for stage in self.run["stages"]]

    @property
    def loss_stages(self) -> list[str]:
        """Names of the stages from the first loss term on."""
        stages, terms = self.stages, self.run["terms"]
        return stages[next((at for at, stage in enumerate(stages) if stage in terms), len(stages)) :]

    @property
    def seconds(self) -> float | None:
        """How long the run took; None if it is not known, and of merged runs, which were at different times."""
        begun, ended = moment(self.run["time"]), moment(self.last_time)
        merged = self.run["command"][1:4] in MERGES
        return (ended - begun).total_seconds() if begun and ended and not merged else None


def read_log(path: Path | str) -> Log:
    """Read a run's folder (all its `log*.jsonl`, as several workers write them) or one log file.

    Memory does not grow with the number of judged batches, but for eight bytes or so each.

    Raises:
        LogError: there is no log, its first line is no `run` line, or its schema is another.
        OSError: a file cannot be read.
    """
    path = Path(path)
    main = path / MAIN if path.is_dir() else path
    if not main.is_file():
        inside = f": name one of its runs, such as {path / 'latest'}" * (path / "latest" / MAIN).is_file()
        raise LogError(
            f"{path}: there is no {MAIN} in it{inside}" if path.exists() else f"{path}: no such run"
        )
    with main.open("rb") as file:
        log = Log(main.parent.resolve(), _run_line(file, main))
        _read_lines(log, file, main.name, first=2)
    if log.run["time"] is None:
        log.problems.cut.append(main.name)
    if path.is_dir():
        for part in sorted(path.glob("log-*.jsonl")):
            with part.open("rb") as file:
                _read_lines(log, file, part.name)
    log.problems.unfinished = log.end is None
    return log


def _run_line(file: BinaryIO, path: Path) -> Line:
    """The first line of a run log; if the run was killed before that, one with the folder's name.

    Raises:
        LogError: it is none.
    """
    raw = file.readline(MAX_LINE_BYTES)
    try:
        line = _parsed(raw)
    except ValueError as error:
        if not raw.endswith(b"\n") and (raw.startswith(OPENING) or OPENING.startswith(raw)):
            return _unknown_run(path.resolve().parent.name)
        raise LogError(f"{path} is no run log: its first line is no JSON object ({error})") from error
    if line.get("kind") != "run":
        raise LogError(f"{path} is no run log: its first line is not of kind run")
    line = upgraded(line, SCHEMA)
    if line.get("schema") != SCHEMA:
        found = line.get("schema")
        newer = type(found) is int and found > SCHEMA
        what_to_do = "; a newer version of tal-conformance wrote it: upgrade this one" if newer else ""
        raise LogError(
            f"{path} has schema {found!r:.80}; this version reads schemas {min(ADDED_SINCE)} to {SCHEMA}{what_to_do}"
        )
    wrong = fault(line, "log", "run")
    if wrong is not None:
        raise LogError(f"{path} is no run log: in its first line, {wrong}")
    return line | {"environment": _shallow(line["environment"], MAX_DEPTH)}


def _unknown_run(name: str) -> Line:
    nothing: Line = {"profile": None, "seed": None, "command": [], "environment": {}, "devices": {}}
    nothing |= {"implementations": [], "stages": [], "terms": []}
    return {"kind": "run", "time": None, "schema": SCHEMA, "run": name} | nothing


def _shallow(value: Any, levels: int) -> Any:
    if isinstance(value, dict):
        return {key: _shallow(content, levels - 1) for key, content in value.items()} if levels else "…"
    if isinstance(value, list):
        return [_shallow(content, levels - 1) for content in value] if levels else "…"
    return value


def _read_lines(log: Log, file: BinaryIO, name: str, first: int = 1) -> None:
    for number, raw in enumerate(_raw_lines(file), first):
        try:
            line = _parsed(raw)
        except ValueError as error:
            if raw.endswith(b"\n") or len(raw) >= MAX_LINE_BYTES:
                _leave_out(log, f"{name} line {number}", f"no JSON object ({error})")
            else:
                log.problems.cut.append(name)
            continue
        wrong = _add(log, line)
        if wrong is not None:
            _leave_out(log, f"{name} line {number}", wrong)


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines that are not blank; of one that is too long, its beginning."""
    while raw := file.readline(MAX_LINE_BYTES):
        rest = raw
        while len(rest) >= MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        if raw.strip():
            yield raw


def _parsed(raw: bytes) -> Line:
    """The line's object.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        line = json.loads(raw.decode(), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(line, dict):
        raise ValueError(f"a {type(line).__name__}")
    return line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _add(log: Log, line: Line) -> str | None:
    """Take a line into the log; what is wrong with it if that cannot be done."""
    kind = line.get("kind")
    if kind == "batch":
        wrong = batch_fault(line)
        if wrong is None:
            log.batches.add(line)
    else:
        wrong = _add_rare(log, kind, line)
    if moment(line.get("time")) is not None:
        log.last_time = max(log.last_time or "", line["time"])
    return wrong and f"{kind!s:.40}: {wrong}"


def _add_rare(log: Log, kind: Any, line: Line) -> str | None:
    kept = {
        "divergence": log.divergences,
        "difference": log.differences,
        "not_tested": log.not_tested,
        "benchmark": log.benchmarks,
        "training": log.training,
        "synchronisations": log.synchronisations,
        "scope": log.scopes,
        "power": log.power,
        "ledger": log.ledger,
        "finding": log.findings,
    }
    if kind == "end":
        wrong = fault(line, "log", kind)
        log.end = log.end if wrong else line
        return wrong
    if not isinstance(kind, str) or kind not in kept:
        _tally(log.problems.unknown, f"{kind!s:.40}")
        return None
    wrong = fault(line | {"picture": None}, "log", kind) if "picture" in line else fault(line, "log", kind)
    if wrong is None and len(kept[kind]) >= MAX_LINES:
        wrong = f"more than {MAX_LINES:,} of them"
    if wrong is None:
        kept[kind].append(line)
        _drop_bad_picture(log, line)
    return wrong


def _drop_bad_picture(log: Log, line: Line) -> None:
    """A picture that cannot be drawn does not take its divergence with it."""
    wrong = None if line.get("picture") is None else fault(line["picture"], "log", "picture")
    if wrong is not None:
        line["picture"] = None
        _leave_out(log, f"case {line.get('case')!s:.40}", f"picture: {wrong}")


def _leave_out(log: Log, where: str, reason: str) -> None:
    log.problems.first.setdefault(_tally(log.problems.unusable, reason), where)


def _tally(counts: Counter[str], name: str) -> str:
    """Count a name, or "other" once there are many; under which name it was counted."""
    name = name if name in counts or len(counts) < MAX_FAULTS else "other"
    counts[name] += 1
    return name
