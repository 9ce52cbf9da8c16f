"""TRAINING: batches recorded from a training of Ultralytics (see `tal_conformance.batches.recorded`)."""

from pathlib import Path

import pytest

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.core.batch import Batch
from tal_conformance.suite.checker import Checker


@pytest.mark.clauses("TRAINING")
@pytest.mark.parametrize("path", recorded_cases(), ids=lambda path: path.stem)
def test_shipped_batch(checker: Checker, path: Path) -> None:
    """The implementation conforms on a recorded batch that this project ships as a file."""
    checker(Batch.load(path))
