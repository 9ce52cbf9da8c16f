"""Case files given on the command line: `pytest conformance --case FILE`."""

from typing import TYPE_CHECKING

import pytest

from conformance.batches import Batch
from conformance.conforming import Conformance
from conformance.thorough import thoroughly

if TYPE_CHECKING:
    from conformance.conftest import Run


def test_case(conforms: Conformance, case: Batch) -> None:
    """The implementation conforms on the batch, in every way that a test looks at one."""
    conforms(case, by=thoroughly)


def test_can_be_read(run: "Run", unreadable: str) -> None:
    """A file that holds no batch is an error; the others are judged all the same."""
    pytest.fail(run.unreadable[unreadable], pytrace=False)
