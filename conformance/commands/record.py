"""`tal-conformance record -- yolo detect train ...`: record inputs of the loss during a training as case files.

The training runs in this process. Ultralytics is imported before torch, because Ultralytics sets thread counts that
torch reads on import. `sys.argv` is set to the training's arguments first, because Ultralytics stores `sys.argv` on
import.
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
from tal_conformance.commands.results import set_error, set_result
from tal_text import warn

if TYPE_CHECKING:
    from tal_conformance.training.recorder import Recording

DEFAULT = Path("tal-conformance-recorded")
"""Default folder below the working directory, with one folder for each recorded training."""
WAYS = "write `-- yolo detect train data=... model=...`, `-- script.py ...` or `-- python -m module ...`"
INTERRUPTED = 130
"""Exit status of a program that was interrupted with Ctrl-C."""


def run(options: argparse.Namespace) -> int:
    """Record a training and return its exit status; 2 if nothing can be recorded."""
    command = options.training[options.training[:1] == ["--"] :]
    return record(command, options.into, options.every, options.limit_mb)


class CannotRun(Exception):
    """Error: the training's command cannot run in this process. The message names the supported forms."""


def record(command: Sequence[str], into: Path | None, every: int, limit_mb: float) -> int:
    """Run a training and record it.

    Args:
        command: the command that starts the training, as a list of words.
        into: folder of the case files; by default a new folder, named after the time.
        every: a batch is stored every `every` steps; 0 stores none regularly.
        limit_mb: size limit of all files in MB.

    Returns:
        The training's exit status; 2 if nothing can be recorded.
    """
    folder = into or DEFAULT / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    try:
        program = program_of(command)
    except CannotRun as error:
        return _print_error(error)
    with program.arguments_in_place():
        with suppress(Exception):  # the recorder reports a failing import
            importlib.import_module("ultralytics")
        from tal_conformance.training.capture import CannotRecord, official_loss
        from tal_conformance.training.recorder import recording

        try:
            official_loss()
            with recording(folder, every, limit_mb) as recorded:
                status = status_of(program.run)
        except CannotRecord as error:
            return _print_error(error)
    set_result(
        folder=recorded.shelf.folder,
        calls=recorded.calls,
        cases=len(recorded.shelf.cases),
        bytes=recorded.shelf.size,
        anomalies=dict(recorded.counts()),
        lost=recorded.lost,
        raised=recorded.raised or None,
        finding=recorded.first_finding or None,
    )
    warn("\n".join(summary_of(recorded)))
    return status


def _print_error(error: Exception) -> int:
    warn(f"{program_name()} record: {error}")
    set_error(str(error))
    return 2


@dataclass(frozen=True)
class Program:
    """A Python program that runs in this process.

    Attributes:
        arguments: the program's `sys.argv`.
        folder: first entry of `sys.path` for the program.
        run: function that runs the program in this process.
    """

    arguments: list[str]
    folder: Path
    run: Callable[[], object]

    @contextmanager
    def arguments_in_place(self) -> Iterator[None]:
        """Set `sys.argv` and `sys.path` to the program's values, and restore both when the block ends."""
        before = sys.argv, sys.path[0]
        sys.argv, sys.path[0] = self.arguments, os.fspath(self.folder.resolve())
        try:
            yield
        finally:
            sys.argv, sys.path[0] = before


def program_of(command: Sequence[str]) -> Program:
    """Return the Python program that a command, given as a list of words, starts.

    Raises:
        CannotRun: the command is not a Python program, or does not exist.
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
        raise CannotRun(f"{words[0]!r} is not a console script of this Python environment: {WAYS}")

    def run() -> object:
        return scripts[0].load()()  # imported after the arguments are set

    return Program(words, Path(sys.executable).parent, run)


def summary_of(recorded: "Recording") -> list[str]:
    """Return the summary of a recording as lines of text; remove the folder of a recording without calls."""
    from tal_conformance.training.summary import summary_lines

    folder = recorded.shelf.folder
    if not recorded.calls:
        with suppress(OSError):
            folder.rmdir()
        return [
            "conformance recorder: this process never called the official detection loss in a training step.",
            "  `yolo detect train` can be recorded on one device: on several, it trains in other processes.",
            "  These record with a trainer that adds `tal_conformance.recording_callbacks(folder)`.",
            "  A loss that is itself compiled (torch.compile) cannot be recorded.",
        ]
    return [
        *summary_lines(recorded),
        f"  examine and judge them: {program_name()} doctor {folder}; {program_name()} replay {folder}",
    ]


def status_of(run: Callable[[], object]) -> int:
    """Run a Python program and return its exit status; print the traceback if it raises, as Python does."""
    try:
        run()
    except SystemExit as end:
        if isinstance(end.code, str):
            warn(str(end.code))
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0
