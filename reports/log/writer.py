"""Write the log of a run: a folder for each run, and one JSON line for each event, flushed at once."""

import fcntl
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tal_reports.log.batches import batch_fault
from tal_reports.log.schemas import fault, kinds

SCHEMA = 4
"""Number of the schema of the logs that this version writes.

It is raised only where older readers would misread a log; new kinds of lines and new optional fields leave it as it is.
Raising it requires an entry in `legacy.ADDED_SINCE`, so that older logs are still read, and a log of the previous
schema in `tests/samples`. The schemas of summary.json and history.jsonl follow the same rule.
"""
MAIN = "log.jsonl"
"""Name of a run's log file. Worker processes write `log-<worker>.jsonl` in the same folder."""
LATEST = "latest"
"""Name of the link to the newest finished run, in the folder of all runs."""


class RunLog:
    """The log of one run, open for appending.

    Every line is handed to the operating system at once and in one piece: a killed process loses no line that it has
    appended, and processes that append to the same file do not mix their lines.

    Attributes:
        folder: the folder of the run.
        path: the log file in the folder.
    """

    def __init__(self, folder: Path | str, worker: str | None = None) -> None:
        """Open the log of a run whose folder exists.

        Args:
            folder: the folder of the run.
            worker: name of this process, if several processes judge batches, each with its own log file.

        Raises:
            ValueError: the worker's name has characters other than letters, digits, `.`, `_` and `-`.
            OSError: the log cannot be opened.
        """
        if worker is not None and not re.fullmatch(r"[\w.-]+", worker, re.ASCII):
            raise ValueError(f"invalid worker name {worker!r}: use letters, digits, '.', '_' and '-'")
        self.folder = Path(folder).resolve()
        self.path = self.folder / (MAIN if worker is None else f"log-{worker}.jsonl")
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # without the lock, a line that another process is writing would look incomplete
        with _locked(self._file):
            self._torn = _ends_torn(self.path)

    @classmethod
    def create(cls, report_dir: Path | str, run: str | None = None) -> Self:
        """Make a new run's folder `<report_dir>/<run>`, with an empty folder `cases` in it, and open its log.

        Args:
            report_dir: the folder of all runs, which is created if it is missing.
            run: id of the run; by default the time and a few random digits.

        Raises:
            FileExistsError: the run exists.
            OSError: the folder cannot be created.
        """
        folder = Path(report_dir) / (run or new_run_id())
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        (folder / "cases").mkdir()
        return cls(folder)

    @property
    def run(self) -> str:
        """Id of the run, the name of its folder."""
        return self.folder.name

    def append(self, kind: str, **fields: Any) -> None:
        """Append a line with the given fields and the time; a line of kind `run` also gets the schema and the run id.

        Paths are written as text, sets as sorted lists, non-finite numbers as `inf`, `-inf` and `nan`.

        Raises:
            ValueError: the line does not follow `log.schema.json`; nothing is written.
            TypeError: a field has a type that JSON cannot represent; nothing is written.
            OSError: the line could not be written.
        """
        line: dict[str, Any] = {"kind": kind, "time": now()}
        if kind == "run":
            line |= {"schema": SCHEMA, "run": self.run}
        line |= json_types(fields)
        wrong = batch_fault(line) if kind == "batch" else fault(line, "log")
        if kind not in kinds():
            wrong = f"unknown kind; known kinds are {', '.join(sorted(kinds()))}"
        if wrong is not None:
            raise ValueError(f"a log line of kind {kind} does not follow the schema: {wrong}")
        self._write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")

    def finish(self, exit_status: int) -> None:
        """Append the `end` line, sync the log to disk and close it.

        Raises:
            OSError: the log could not be written.
        """
        self.append("end", exit=exit_status, finished=now())
        os.fsync(self._file)
        self.close()

    def close(self) -> None:
        """Close the file. A log that is closed without `finish` counts as unfinished."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def set_latest(self) -> None:
        """Point the link `latest`, beside the run's folder, to this run. The link is replaced atomically.

        Raises:
            OSError: the link cannot be made, for example because a folder has its name.
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
        with _locked(self._file):
            if self._torn:  # first end an incomplete line, which a full disk can leave
                content = b"\n" + content
            self._torn = True
            while content:
                content = content[os.write(self._file, content) :]
            self._torn = False


def new_run_id() -> str:
    """Return an id that sorts by time and is unique among runs of one second: `20251124-021033-5f3a9c`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def now() -> str:
    """Return the current time in the format of log lines: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old or the new content, never a part.

    Raises:
        OSError: the file cannot be written; an older file of that name is unchanged.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def json_types(value: Any) -> Any:
    """Return a value converted to types that JSON has; non-finite numbers become `inf`, `-inf` and `nan`.

    Raises:
        TypeError: a value has a type that is not converted.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # the value of an enumeration member
    if isinstance(value, Mapping):
        return {str(key): json_types(content) for key, content in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(json_types(content) for content in value)
    if isinstance(value, (list, tuple)):
        return [json_types(content) for content in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON cannot contain a {type(value).__name__}: {value!r:.80}")


@contextmanager
def _locked(file: int) -> Iterator[None]:
    """Lock an open file while the `with` block runs, if the file system supports locks; a closed file is not locked."""
    with suppress(OSError, ValueError):
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            fcntl.flock(file, fcntl.LOCK_UN)


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
