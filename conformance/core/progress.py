"""Progress of long operations: a bar on a terminal, plain lines if standard error is a file or a pipe."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from tal_text import encodable, visible, warn

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 10.0
"""Minimum time in seconds between two plain lines that contain only a count."""


class Advance(Protocol):
    """Callback of `progress`: counts finished steps."""

    def __call__(self, line: str = "", steps: int = 1) -> None:
        """Count finished steps.

        Args:
            line: text to print above the bar or, without a terminal, as a separate line.
            steps: number of steps finished since the last call; 0 to print the line only.
        """
        ...


def no_progress(line: str = "", steps: int = 1) -> None:
    """Do nothing: an `Advance` for callers that show no progress."""


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Advance]:
    """Show the progress of the block on standard error, so that it does not mix with results on standard output.

    Blocks may be nested, with one bar for each block.

    Args:
        title: description of the work, such as "Installing releases".
        total: number of steps; None if it is unknown.
    """
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _plain_lines(title, total)


def _plain_lines(title: str, total: int | None) -> Advance:
    """Print the title, and return a callback that prints given texts at once, and counts of steps every few seconds.

    Once a few seconds have passed, each line states the time that is left. The result of the work tells that all steps
    are finished: no line has their count alone.
    """
    began = time.monotonic()
    done, next_line = 0, began + SECONDS_BETWEEN_LINES
    of_total = "" if total is None else f" of {total}"
    _print_to_stderr(f"{title} ..." if total in (None, 1) else f"{title}: {total} to do")

    def advance(line: str = "", steps: int = 1) -> None:
        nonlocal done, next_line
        done += steps
        now = time.monotonic()
        if line or (now >= next_line and done != total):
            next_line = now + SECONDS_BETWEEN_LINES
            left = _time_left(now - began, done, total)
            _print_to_stderr(f"{title}: {done}{of_total}{left}{': ' if line else ''}{line}")

    return advance


def _time_left(elapsed: float, done: int, total: int | None) -> str:
    """Return the time that is left if all steps take equally long, such as ", 0:02:05 left"; "" if it is unknown."""
    if total is None or not 0 < done < total or elapsed < SECONDS_BETWEEN_LINES:
        return ""
    return f", {timedelta(seconds=round(elapsed / done * (total - done)))} left"


def _print_to_stderr(line: str) -> None:
    warn(line)


_open_bars: "list[Progress]" = []
"""The display of this process's bars, if one is open: a terminal can show one display at a time."""


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Advance]:
    """Show a progress bar on the terminal, below existing bars, and remove it when the block ends."""
    if not _open_bars:
        with _display() as display:
            _open_bars.append(display)
            try:
                yield from _task(display, title, total)
            finally:
                _open_bars.pop()
    else:
        yield from _task(_open_bars[-1], title, total)


def _display() -> "Progress":
    """Return a display of progress bars with title, steps, elapsed time and time left; closing removes it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # output to a file must not be redirected to the terminal
    )


def _task(display: "Progress", title: str, total: int | None) -> Iterator[Advance]:
    """Add a bar to the display, yield its callback, and remove the bar when the block ends."""
    task = display.add_task(encodable(visible(title), sys.stderr), total=total)

    def advance(line: str = "", steps: int = 1) -> None:
        display.advance(task, steps)
        if line:
            display.console.print(
                encodable(visible(line), sys.stderr), markup=False, highlight=False, soft_wrap=True
            )

    try:
        yield advance
    finally:
        display.remove_task(task)
