"""Case files that a command's argument names."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tal_conformance.commands.program import CommandError
from tal_conformance.core.case_file import read, read_circumstances
from tal_conformance.core.files import REPOSITORY
from tal_conformance.implementations.outcome_file import declared_dialect, outcomes_beside
from tal_reference import NEWEST, Dialect, parse
from tal_reference.eras_of_tasks import dialect_in

RUN_FOLDERS = ("reports/runs", "tal-conformance-reports")
"""Folders with runs in which a case is searched by its name."""
SUFFIX = ".safetensors"
RELEASE = re.compile(r"\bultralytics (\d+)\.(\d+)\.(\d+)")
"""Release in the origin of a recorded batch."""
RANKS = "rank-*"
"""Name of the folders in which the processes of a distributed training record."""


def case_file(case: str) -> Path:
    """Return the path of a case file.

    Args:
        case: path of the file, or the name of a case in a run; if several runs have this case, the newest run is used.

    Raises:
        CommandError: the file or case does not exist.
    """
    path = Path(case)
    if path.suffix or path.is_file():
        return path
    parents = [REPOSITORY / RUN_FOLDERS[0], *(Path(folder) for folder in RUN_FOLDERS)]
    for parent in parents:
        files = sorted(parent.glob(f"*/cases/{path.name}.safetensors"), reverse=True)
        if files:
            return files[0]
    raise CommandError(
        f"{case!r} is not a file, and no run in {', '.join(RUN_FOLDERS)} has a case of this name"
    )


def case_files(path: Path) -> list[Path]:
    """Return the case files of a path, sorted by name.

    Args:
        path: a file, a folder, the folder of a run or of a recording, or the id of a case of a run.

    Raises:
        CommandError: no run has a case of this name, or the folder contains no case file or cannot be read.
    """
    if not path.is_dir():
        return [case_file(str(path))]
    try:
        folders = [path / "cases", path, *sorted(path.glob(RANKS))]
        files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    except OSError as error:
        raise CommandError(f"cannot read the folder {path}: {error}") from error
    files = [file for file in files if file.suffix == SUFFIX and file.is_file()]
    if not files:
        raise CommandError(f"no case file (*{SUFFIX}) found in {path}")
    return files


def dialect_of_case(path: Path) -> Dialect:
    """Return the dialect of the loss for which a case was stored: that of its run, or of the recorded release.

    If several dialects are declared, or nothing is known, it is the newest.
    """
    declared = set(_dialects_of_run(path)) or set(_dialect_of_recording(path))
    return declared.pop() if len(declared) == 1 else NEWEST


def _dialects_of_run(path: Path) -> Iterator[Dialect]:
    """Yield the dialects that the outcomes beside a case of a run declare."""
    for outcome in outcomes_beside(path):
        with suppress(ValueError, OSError):
            yield parse(declared_dialect(outcome))


def _dialect_of_recording(path: Path) -> Iterator[Dialect]:
    """Yield the dialect of the release of Ultralytics whose loss received a recorded batch, if it is known."""
    with suppress(ValueError, TypeError, LookupError, OSError):
        found = RELEASE.search(read_circumstances(path).source or read(path).origin)
        if found:
            major, minor, patch = map(int, found.groups())
            dialect = dialect_in((major, minor, patch), read(path).task)
            if dialect is not None:
                yield dialect
