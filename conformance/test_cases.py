"""Case files given on the command line: `pytest conformance --case FILE`."""

from conformance.batches import Batch
from conformance.conforming import Conformance


def test_case(conforms: Conformance, case: Batch) -> None:
    """The implementation conforms on the recorded batch."""
    conforms(case)
