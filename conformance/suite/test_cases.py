"""Case files given on the command line: `pytest conformance --case FILE`."""

from typing import TYPE_CHECKING

import pytest

from tal_conformance.checks.everything import thoroughly
from tal_conformance.core.batch import Batch
from tal_conformance.suite.checker import Conformance

if TYPE_CHECKING:
    from tal_conformance.suite.session import Run


def test_case(conforms: Conformance, case: Batch) -> None:
    """The implementation conforms on the batch, in every way that a test looks at one."""
    conforms(case, by=thoroughly)


def test_can_be_read(run: "Run", unreadable: str) -> None:
    """A file that holds no batch is an error; the others are judged all the same."""
    pytest.fail(run.unreadable[unreadable], pytrace=False)
