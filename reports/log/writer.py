"""Writing a run's log: a folder for each run, one JSON line for each thing that happened, on disk at once."""

import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tal_reports.log.batches import batch_fault
from tal_reports.log.schemas import fault, kinds

SCHEMA = 2
"""Schema of the logs that this version writes.

It is raised only where older readers would misread a log; new kinds of lines and new optional fields leave it as it is.
Raising it requires an entry in `legacy.ADDED_SINCE`, so that older logs are still read, and a log of the previous
schema in `tests/samples`. The schemas of summary.json and history.jsonl follow the same rule.
"""
MAIN = "log.jsonl"
"""The log of a run; worker processes beside it write `log-<worker>.jsonl`."""
LATEST = "latest"
"""The link beside the run folders that points at the newest finished run."""


class RunLog:
    """The log of one run, open for appending.

    Every line is handed to the operating system as soon as it is appended, in one piece: a killed process
    loses nothing that it has appended, and processes that append to the same file do not mix their
    lines.

    Attributes:
        folder: the run's folder.
        path: the log in it.
    """

    def __init__(self, folder: Path | str, worker: str | None = None) -> None:
        """Open the log of a run whose folder exists.

        Args:
            folder: the run's folder.
            worker: where several processes judge batches, the name of this one; it gets a file of its own.

        Raises:
            ValueError: the worker's name is not one or more of letters, digits, `.`, `_` and `-`.
            OSError: the log cannot be opened.
        """
        if worker is not None and not re.fullmatch(r"[\w.-]+", worker, re.ASCII):
            raise ValueError(f"{worker!r} is no name for a worker")
        self.folder = Path(folder).resolve()
        self.path = self.folder / (MAIN if worker is None else f"log-{worker}.jsonl")
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = _ends_torn(self.path)

    @classmethod
    def create(cls, report_dir: Path | str, run: str | None = None) -> Self:
        """Make a new run's folder `<report_dir>/<run>`, with an empty folder `cases` in it, and open its log.

        Args:
            report_dir: the folder of all runs; it is made if it is not there.
            run: id of the run; by default made of the time and a few random digits.

        Raises:
            FileExistsError: there is such a run.
            OSError: the folder cannot be made.
        """
        folder = Path(report_dir) / (run or new_run_id())
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        (folder / "cases").mkdir()
        return cls(folder)

    @property
    def run(self) -> str:
        """The run's id."""
        return self.folder.name

    def append(self, kind: str, **fields: Any) -> None:
        """Append one line; `time` is added. In a line of kind `run` so are `schema` and the run's id.

        Paths are written as text, sets as sorted lists, numbers that are not finite as `inf`, `-inf`, `nan`.

        Raises:
            ValueError: the line does not follow `log.schema.json`; nothing is written.
            TypeError: a field holds what JSON has no word for; nothing is written.
            OSError: it could not be written.
        """
        line: dict[str, Any] = {"kind": kind, "time": now()}
        if kind == "run":
            line |= {"schema": SCHEMA, "run": self.run}
        line |= _plain(fields)
        wrong = batch_fault(line) if kind == "batch" else fault(line, "log")
        if kind not in kinds():
            wrong = "there is no such kind"
        if wrong is not None:
            raise ValueError(f"a log line of kind {kind} does not follow the schema: {wrong}")
        self._write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")

    def finish(self, exit_status: int) -> None:
        """Append the `end` line, bring the log to the disk and close it.

        Raises:
            OSError: it could not be written.
        """
        self.append("end", exit=exit_status, finished=now())
        os.fsync(self._file)
        self.close()

    def close(self) -> None:
        """Close the file; a log that is closed without `finish` is that of a run that did not finish."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def set_latest(self) -> None:
        """Point `latest`, beside the run's folder, at it; for readers it changes at once, or not at all.

        Raises:
            OSError: the link cannot be made, for example because something else of that name is there.
        """
        link = self.folder.parent / LATEST
        unfinished = link.with_name(f".{LATEST}.{os.getpid()}.{secrets.token_hex(4)}")
        unfinished.symlink_to(self.folder.name, target_is_directory=True)
        try:
            unfinished.replace(link)
        finally:
            unfinished.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, content: bytes) -> None:
        if self._torn:  # what is left of a line that did not fit on the disk must not spoil this one
            content = b"\n" + content
        self._torn = True
        while content:
            content = content[os.write(self._file, content) :]
        self._torn = False


def new_run_id() -> str:
    """An id that sorts by time and that two runs of one second do not share: `20251124-021033-5f3a9c`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def now() -> str:
    """The time as log lines have it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_whole(path: Path, text: str) -> None:
    """Write a file that for readers appears, or changes, all at once.

    Raises:
        OSError: it cannot be written; an older file of that name is then as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """The value in JSON's types."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of a member of an enumeration, its value
    if isinstance(value, Mapping):
        return {str(key): _plain(content) for key, content in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(content) for content in value)
    if isinstance(value, (list, tuple)):
        return [_plain(content) for content in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a log line cannot hold a {type(value).__name__}: {value!r:.80}")


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
