"""pytest plugin of a run that another process started: writes the run's folder and progress to a file.

The plugin is loaded with `-p tal_conformance.testing.announcements`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

FILE_VARIABLE = "TAL_CONFORMANCE_ANNOUNCEMENTS"
"""Environment variable with the path of the file to which the announcements are appended, as lines of JSON."""


def _announce(**fields: Any) -> None:
    with Path(os.environ[FILE_VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Announce the folder of the run."""
    from tal_conformance.suite.session import RUN

    run = session.config.stash.get(RUN, None)
    if run is not None and not hasattr(session.config, "workerinput"):
        _announce(folder=str(run.folder))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Announce the number of tests that will run. pytest-xdist's workers select the same tests."""
    if session.items:
        _announce(planned=len(session.items))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Announce each finished test. A worker of pytest-xdist leaves that to the controller."""
    if report.when == "teardown" and "PYTEST_XDIST_WORKER" not in os.environ:
        _announce(finished=report.nodeid)
