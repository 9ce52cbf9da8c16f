"""Supervise a run: if an implementation ends the process, table, report and exit status are still written."""

import sys
from pathlib import Path

import pytest

from tal_conformance.core.supervision import Marks, supervise, supervised
from tal_conformance.suite.session import RUN
from tal_reports import LogError, RunLog, read_log, render, terminal_table, visible
from tal_text import say, warn


def supervise_run(config: pytest.Config) -> None:
    """Continue a run in a supervised child process, if it was started from the command line.

    Args:
        config: the configuration of the run, before any implementation is imported.
    """
    options = config.option
    from_command_line = config.invocation_params.args == tuple(sys.argv[1:])
    if from_command_line and not (options.collectonly or options.help or options.version):
        supervise(conclude)
        config.pluginmanager.register(RunMarks(), "conformance-supervision")


class RunMarks:
    """A pytest plugin that reports the run's folder, its end and its exit status to the supervisor."""

    def __init__(self) -> None:
        self._session: pytest.Session | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Report the folder of the run to the supervisor."""
        self._session = session
        run = session.config.stash.get(RUN, None)
        if run is not None:
            supervised.run_folder(run.folder)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Report the end of the run to the supervisor."""
        supervised.finish(0 if self._session is None else int(self._session.exitstatus))


def conclude(marks: Marks, how: str) -> None:
    """Log and print that the process of a run ended before the run was complete.

    Args:
        marks: the last report of the process to the supervisor.
        how: the way in which the process ended, as a sentence.
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
        warn(f"conformance: cannot print the table of the run's results: {visible(str(error))}")
