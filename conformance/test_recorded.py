"""TRAINING: what the loss received while Ultralytics' trainer learnt (see `conformance.batches.shipped`)."""

from pathlib import Path

import pytest

from conformance.batches import Batch
from conformance.batches.shipped import shipped
from conformance.conforming import Conformance


@pytest.mark.clauses("TRAINING")
@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_batch(conforms: Conformance, path: Path) -> None:
    """The implementation conforms on a batch that was recorded with `python -m conformance record`."""
    conforms(Batch.load(path))
