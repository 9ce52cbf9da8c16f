"""`tal-conformance record -- yolo detect train ...`: record the batches that the loss receives in a training.

The training runs in this process, as it would without the recorder; Ultralytics is imported before torch, because it
sets numbers of threads that torch reads when it is imported, and after `sys.argv` is the training's, which it keeps.
"""

import argparse
import importlib
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from tal_conformance.commands.program import program_name

if TYPE_CHECKING:
    from tal_conformance.training.recorder import Recording

DEFAULT = Path("tal-conformance-recorded")
"""Folder, below the working directory, with a folder for each recorded training."""
WAYS = "write `-- yolo detect train data=... model=...`, `-- script.py ...` or `-- python -m module ...`"
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--into", type=Path, metavar="DIR", help="folder of the case files")
    parser.add_argument(
        "--every",
        type=int,
        default=500,
        metavar="N",
        help="store every n-th step's batch; 0: none (default: 500)",
    )
    parser.add_argument(
        "--limit-mb", type=float, default=500.0, metavar="MB", help="size limit of all files (default: 500)"
    )
    parser.add_argument(
        "training",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="such as: -- yolo detect train data=my.yaml",
    )


def run(options: argparse.Namespace) -> int:
    """Record a training and return its exit status; 2 if nothing can be recorded."""
    command = options.training[options.training[:1] == ["--"] :]
    return record(command, options.into, options.every, options.limit_mb)


class CannotRun(Exception):
    """The command cannot run in this process; the message says what to write."""


def record(command: Sequence[str], into: Path | None, every: int, limit_mb: float) -> int:
    """Run a training and record it.

    Args:
        command: words of a shell command.
        into: folder of the case files; by default a new one, named after the time.
        every: steps between two batches that are stored regularly; 0: none.
        limit_mb: size limit of all files in MB.

    Returns:
        The training's exit status; 2 if nothing can be recorded.
    """
    folder = into or DEFAULT / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    try:
        program = program_of(command)
    except CannotRun as error:
        return _refused(error)
    with program.arguments_in_place():
        with suppress(Exception):  # the recorder says it better
            importlib.import_module("ultralytics")
        from tal_conformance.training.capture import CannotRecord
        from tal_conformance.training.recorder import recording

        try:
            with recording(folder, every, limit_mb) as recorded:
                status = status_of(program.run)
        except CannotRecord as error:
            return _refused(error)
    print("\n".join(summary_of(recorded)), file=sys.stderr)
    return status


def _refused(error: Exception) -> int:
    print(f"{program_name()} record: {error}", file=sys.stderr)
    return 2


@dataclass(frozen=True)
class Program:
    """A Python program that runs in this process.

    Attributes:
        arguments: its `sys.argv`.
        folder: first folder of its import path.
        run: runs it.
    """

    arguments: list[str]
    folder: Path
    run: Callable[[], object]

    @contextmanager
    def arguments_in_place(self) -> Iterator[None]:
        """Make the process look as if it had been started as this program, while the block runs."""
        before = sys.argv, sys.path[0]
        sys.argv, sys.path[0] = self.arguments, os.fspath(self.folder.resolve())
        try:
            yield
        finally:
            sys.argv, sys.path[0] = before


def program_of(command: Sequence[str]) -> Program:
    """Return the program that a shell command runs.

    Raises:
        CannotRun: it is not a Python program, or does not exist.
    """
    if not command:
        raise CannotRun(f"nothing to record: {WAYS}")
    words = list(command)
    if Path(words[0]).name.startswith("python") and len(words) > 1:
        words = words[1:]
        if words[0] == "-m" and len(words) > 1:
            words = words[1:]
            return Program(
                words, Path.cwd(), lambda: runpy.run_module(words[0], None, "__main__", alter_sys=True)
            )
    if words[0].endswith(".py"):
        if not Path(words[0]).is_file():
            raise CannotRun(f"training script not found: {words[0]}")
        return Program(words, Path(words[0]).parent, lambda: runpy.run_path(words[0], run_name="__main__"))
    scripts = list(entry_points(group="console_scripts", name=Path(words[0]).name))
    if not scripts:
        raise CannotRun(f"{words[0]!r} is not a program of this Python environment: {WAYS}")

    def run() -> object:
        return scripts[0].load()()  # imported when the arguments are in place

    return Program(words, Path(sys.executable).parent, run)


def summary_of(recorded: "Recording") -> list[str]:
    """Return the summary of a recording, as lines."""
    kept, folder = recorded.shelf.kept, recorded.shelf.folder
    if not recorded.calls:
        with suppress(OSError):
            folder.rmdir()
        return [
            "conformance recorder: the official detection loss was never called to train in this process.",
            "  Recorded is `yolo detect train` on one device: on several, the training runs in other processes.",
            "  A loss that is itself compiled is not heard.",
        ]
    files = f"{len(kept)} batch{'' if len(kept) == 1 else 'es'}"
    return [
        f"conformance recorder: {files} of {recorded.calls} recorded in {folder} ({recorded.shelf.size / 1e6:.1f} MB)",
        f"  judge them: {program_name()} replay {folder}",
    ]


def status_of(run: Callable[[], object]) -> int:
    """Run a Python program and return its exit status; print a traceback as Python does."""
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0
