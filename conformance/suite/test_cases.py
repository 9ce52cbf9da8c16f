"""Case files given on the command line: `pytest conformance --case FILE`."""

from typing import TYPE_CHECKING

import pytest

from tal_conformance.checks.everything import run_every_check
from tal_conformance.core.batch import Batch
from tal_conformance.suite.checker import Checker, skip_untested

if TYPE_CHECKING:
    from tal_conformance.suite.session import SessionState


def test_case(checker: Checker, case: Batch) -> None:
    """The implementation passes every check on the batch of the case file."""
    implementation = checker.subject.implementation
    if case.task not in implementation.tasks:
        skip_untested(
            checker.sink,
            f"case {case.id} is a batch of the task {case.task}, and the run tests {implementation.spec} on "
            f"{implementation.task}: add {case.task!r} to its attribute `tasks`, or remove --task",
        )
    checker(case, by=run_every_check)


def test_can_be_read(run: "SessionState", unreadable: str) -> None:
    """A case file that cannot be read fails the run; the other case files are judged."""
    pytest.fail(run.unreadable[unreadable], pytrace=False)
