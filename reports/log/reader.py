"""Read the log of a run, which may be finished or killed, and may have several worker processes.

A log that was cut off at any byte is read up to that byte. Unusable lines are left out, counted and reported.
Only a file that is not a run log, or has an unknown schema, is an error.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tal_reports.log.batches import Batches, batch_fault
from tal_reports.log.legacy import ADDED_SINCE, upgraded
from tal_reports.log.schemas import fault, kinds
from tal_reports.log.writer import MAIN, SCHEMA
from tal_reports.text import counted, moment, shortened, visible

Line = dict[str, Any]

MAX_LINE_BYTES = 16 * 2**20
"""Maximum number of bytes of a line; longer lines are left out."""
MAX_LOG_BYTES = 2**34
"""Maximum size in bytes of a log file that is read."""
MAX_LINES = 20_000
"""Maximum number of lines of one kind that are stored; `batch` lines are counted instead."""
MAX_FAULTS = 20
"""Maximum number of different errors that are counted separately; all others are counted together."""
MAX_DEPTH = 20
"""Maximum number of nested levels in the environment; deeper values are dropped."""
MERGES = (["-m", "tal_reports", "merge"], ["-m", "reports", "merge"])
"""The first words after `python` in the command of a merged run."""
OPENING = b'{"kind":"run"'
"""First bytes of every run log."""
BATCH = b'{"kind":"batch"'
"""First bytes of the line of a batch, as `RunLog.append` writes it."""


class LogError(ValueError):
    """Error: no readable run log was found. The message names the file and the fault."""


@dataclass
class Problems:
    """Parts of a log that could not be used.

    Attributes:
        unknown: count of lines of unknown kinds, by kind.
        unusable: count of lines that are not JSON or violate the schema, by description of the error.
        first: file and number of the first line with each of these errors.
        cut: files that end in the middle of a line.
        unfinished: True if the log has no `end` line.
    """

    unknown: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    unfinished: bool = False

    def sentences(self) -> list[str]:
        """Return the problems as sentences; an empty list for a complete log."""
        found = []
        if self.unfinished:
            found.append("The run did not finish. The report covers what it had logged until then.")
        found += [f"{name} ends in the middle of a line, which was left out." for name in self.cut]
        for kind, count in self.unknown.items():
            found.append(f"{counted(count, 'line')} of a kind that this version does not know: {kind}.")
        for reason, count in self.unusable.items():
            found.append(f"{counted(count, 'line')} left out, the first at {self.first[reason]}: {reason}.")
        return [visible(shortened(sentence, 600)) for sentence in found]


class TestCount(NamedTuple):
    """Number of tests of one implementation, or of the tests that do not concern a single implementation.

    Attributes:
        planned: number of selected tests.
        finished: number of tests that finished; None if the run was killed before it counted them.
    """

    planned: int
    finished: int | None

    @property
    def complete(self) -> bool:
        """True if all planned tests finished."""
        return self.finished is not None and self.finished >= self.planned


@dataclass
class Log:
    """The content of a run log. Lines are dictionaries that follow `log.schema.json`.

    Attributes:
        folder: the run's folder.
        run: the `run` line.
        batches: counts over the `batch` lines.
        divergences, differences, not_tested, benchmarks, training, synchronisations, scopes, power, ledger, findings,
            test_counts, inconclusive, identifications, shrinking: the lines of these kinds, in the order of the log.
        end: the `end` line; None if the run did not finish.
        last_time: latest time of a line in the log.
        problems: parts of the log that could not be used.
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
    test_counts: list[Line] = field(default_factory=list)
    inconclusive: list[Line] = field(default_factory=list)
    identifications: list[Line] = field(default_factory=list)
    shrinking: list[Line] = field(default_factory=list)
    end: Line | None = None
    last_time: str | None = None
    problems: Problems = field(default_factory=Problems)

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in the order in which they are computed."""
        return [stage["name"] for stage in self.run["stages"]]

    @property
    def loss_stages(self) -> list[str]:
        """Names of the stages of the loss: all stages from the first loss term on."""
        stages, terms = self.stages, self.run["terms"]
        return stages[next((at for at, stage in enumerate(stages) if stage in terms), len(stages)) :]

    @property
    def tests(self) -> dict[str | None, TestCount]:
        """Planned and finished tests by implementation; empty for a log that does not count tests."""
        counts: dict[str | None, TestCount] = {}
        for line in self.test_counts:
            known = counts.get(line["implementation"], TestCount(0, None))
            finished = [count for count in (known.finished, line["finished"]) if count is not None]
            planned = max(known.planned, line["planned"])
            counts[line["implementation"]] = TestCount(planned, max(finished, default=None))
        return counts

    @property
    def seconds(self) -> float | None:
        """Duration of the run; None if it is unknown, or if the run was merged from runs at different times."""
        begun, ended = moment(self.run["time"]), moment(self.last_time)
        merged = self.run["command"][1:4] in MERGES
        return (ended - begun).total_seconds() if begun and ended and not merged else None


def read_log(path: Path | str) -> Log:
    """Read the folder of a run, with the logs of all its workers, or a single log file.

    Memory grows by about eight bytes for each judged batch.

    Args:
        path: a folder with `log.jsonl`, or the file itself.

    Raises:
        LogError: no log was found, its first line is not a `run` line, or its schema is unknown.
        OSError: a file cannot be read.
    """
    path = Path(path)
    main = path / MAIN if path.is_dir() else path
    if not main.is_file():
        hint = f"; name one of its runs, such as {path / 'latest'}" * (path / "latest" / MAIN).is_file()
        raise LogError(f"no {MAIN} in {path}{hint}" if path.exists() else f"no such run: {path}")
    if not is_readable(main):
        raise LogError(f"{main} has {main.stat().st_size:,} bytes, expected at most {MAX_LOG_BYTES:,}")
    with main.open("rb") as file:
        log = Log(main.parent.resolve(), _run_line(file, main))
        _read_lines(log, file, main.name, first=2)
    if log.run["time"] is None:
        log.problems.cut.append(main.name)
    if path.is_dir():
        for part in filter(is_readable, sorted(path.glob("log-*.jsonl"))):
            with part.open("rb") as file:
                _read_lines(log, file, part.name)
    log.problems.unfinished = log.end is None
    return log


def is_readable(path: Path) -> bool:
    """Return True if a path leads to a regular file (no pipe or device) that is not too large."""
    return path.is_file() and path.stat().st_size <= MAX_LOG_BYTES


def valid_lines(path: Path) -> Iterator[Line | None]:
    """Yield every line of a log file as a dictionary, but None for a line that does not follow the schema."""
    with path.open("rb") as file:
        for raw in _raw_lines(file):
            try:
                line = _parsed(raw)
            except ValueError:
                yield None
                continue
            kind = line.get("kind")
            if not isinstance(kind, str) or kind not in kinds():
                yield None
                continue
            without_picture = line | {"picture": None} if "picture" in line else line
            wrong = batch_fault(line) if kind == "batch" else fault(without_picture, "log", kind)
            yield None if wrong else line


def batch_lines(folder: Path, implementation: str) -> Iterator[Line]:
    """Yield the valid `batch` lines of an implementation in all logs of a run, except lines of the shrinking phase."""
    for path in filter(is_readable, [folder / MAIN, *sorted(folder.glob("log-*.jsonl"))]):
        with path.open("rb") as file:
            for raw in _raw_lines(file):
                if not raw.startswith(BATCH):
                    continue
                try:
                    line = _parsed(raw)
                except ValueError:
                    continue
                own = line.get("implementation") == implementation and line.get("phase") != "shrink"
                if own and batch_fault(line) is None:
                    yield line


def _run_line(file: BinaryIO, path: Path) -> Line:
    """Return the `run` line, the first line of a log; {} if the run was killed before it wrote this line.

    Raises:
        LogError: the file is not a run log of a known schema.
    """
    raw = file.readline(MAX_LINE_BYTES)
    try:
        line = _parsed(raw)
    except ValueError as error:
        if not raw.endswith(b"\n") and (raw.startswith(OPENING) or OPENING.startswith(raw)):
            return _unknown_run(path.resolve().parent.name)
        raise LogError(f"{path} is not a run log: its first line is not a JSON object ({error})") from error
    if line.get("kind") != "run":
        raise LogError(f"{path} is not a run log: the kind of its first line is not 'run'")
    line = upgraded(line, SCHEMA)
    if line.get("schema") != SCHEMA:
        found = line.get("schema")
        newer = type(found) is int and found > SCHEMA
        hint = "; it was written by a newer version of tal-conformance: upgrade this one" if newer else ""
        raise LogError(
            f"{path} has schema {found!r:.80}; this version reads schemas {min(ADDED_SINCE)} to {SCHEMA}{hint}"
        )
    problem = fault(line, "log", "run")
    if problem is not None:
        raise LogError(f"{path} is not a run log: in its first line, {problem}")
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
                _leave_out(log, f"{name} line {number}", f"not a JSON object ({error})")
            else:
                log.problems.cut.append(name)
            continue
        problem = _add(log, line)
        if problem is not None:
            _leave_out(log, f"{name} line {number}", problem)


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a log file that are not blank; a line that is too long is cut off."""
    while raw := file.readline(MAX_LINE_BYTES):
        rest = raw
        while len(rest) >= MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        if raw.strip():
            yield raw


def _parsed(raw: bytes) -> Line:
    """Return the JSON object of a line.

    Raises:
        ValueError: the line is not a JSON object.
    """
    try:
        line = json.loads(raw.decode(), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(line, dict):
        raise ValueError(f"found a {type(line).__name__}")
    return line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _add(log: Log, line: Line) -> str | None:
    """Add a line to the log and return None, or return a description of the reason why it cannot be added."""
    kind = line.get("kind")
    if kind == "batch":
        problem = batch_fault(line)
        if problem is None:
            log.batches.add(line)
    else:
        problem = _store(log, kind, line)
    if moment(line.get("time")) is not None:
        log.last_time = max(log.last_time or "", line["time"])
    return problem and f"{kind!s:.40}: {problem}"


def _store(log: Log, kind: Any, line: Line) -> str | None:
    lines = {
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
        "tests": log.test_counts,
        "inconclusive": log.inconclusive,
        "identification": log.identifications,
        "shrinking": log.shrinking,
    }
    if kind == "end":
        problem = fault(line, "log", kind)
        log.end = log.end if problem else line
        return problem
    if not isinstance(kind, str) or kind not in lines:
        _tally(log.problems.unknown, f"{kind!s:.40}")
        return None
    problem = fault(line | {"picture": None}, "log", kind) if "picture" in line else fault(line, "log", kind)
    if problem is None and len(lines[kind]) >= MAX_LINES:
        problem = f"more than {MAX_LINES:,} lines"
    if problem is None:
        lines[kind].append(line)
        _drop_bad_picture(log, line)
    return problem


def _drop_bad_picture(log: Log, line: Line) -> None:
    """Remove the picture of a line if it violates the schema, and count this problem."""
    problem = None if line.get("picture") is None else fault(line["picture"], "log", "picture")
    if problem is not None:
        line["picture"] = None
        _leave_out(log, f"case {line.get('case')!s:.40}", f"picture: {problem}")


def _leave_out(log: Log, where: str, reason: str) -> None:
    log.problems.first.setdefault(_tally(log.problems.unusable, reason), where)


def _tally(counts: Counter[str], name: str) -> str:
    """Add 1 to the count of a name, or of "other" if there are already many names, and return the counted name."""
    name = name if name in counts or len(counts) < MAX_FAULTS else "other"
    counts[name] += 1
    return name
