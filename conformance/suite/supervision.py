"""Supervise a run, so that an implementation that ends the process leaves a table, a report and an exit status."""

import sys
from pathlib import Path

import pytest

from tal_conformance.core.supervision import Marks, supervise, supervised
from tal_conformance.suite.session import RUN
from tal_reports import LogError, RunLog, read_log, render, terminal_table, visible
from tal_text import say, warn


def supervise_run(config: pytest.Config) -> None:
    """Supervise a run that was started from the command line. Runs started by other code are not supervised.

    Args:
        config: the configuration of the run, before any implementation is imported.
    """
    options = config.option
    from_command_line = config.invocation_params.args == tuple(sys.argv[1:])
    if from_command_line and not (options.collectonly or options.help or options.version):
        supervise(conclude)
        config.pluginmanager.register(RunMarks(), "conformance-supervision")


class RunMarks:
    """A pytest plugin that tells the supervisor the folder of the run, its end and its exit status."""

    def __init__(self) -> None:
        self._session: pytest.Session | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Mark the folder of the run."""
        self._session = session
        run = session.config.stash.get(RUN, None)
        if run is not None:
            supervised.run_folder(run.folder)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Mark the end of the run."""
        supervised.finish(0 if self._session is None else int(self._session.exitstatus))


def conclude(marks: Marks, how: str) -> None:
    """Log and print how the process ended before the run was complete.

    Args:
        marks: the last marks of the process.
        how: a sentence that describes its end.
    """
    reason = f"{how}; --isolate runs implementations in processes of their own"
    if marks.call:
        reason = f"while code of this implementation ran, {reason}"
    warn(f"\nconformance: {visible(marks.call or 'the run')}: {reason}")
    if not marks.folder:
        return
    folder = Path(marks.folder)
    try:
        log = RunLog(folder)
        log.append("not_tested", implementation=marks.call or None, device=None, reason=reason)
        log.close()
        render(folder)
        say(f"\n{terminal_table(read_log(folder))}")
    except (OSError, ValueError, LogError) as error:
        warn(f"conformance: the run's table could not be printed: {visible(str(error))}")
