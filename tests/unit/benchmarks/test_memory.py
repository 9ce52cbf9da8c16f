"""Peak memory is measured in a new process; if that process fails, the implementation is reported as failed."""

import mmap
import os
from pathlib import Path

import pytest

from tal_conformance.benchmarks.memory import peak_bytes
from tal_conformance.benchmarks.workloads import Case
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.registry import find

PLANTED = 200 * 2**20
CORES = os.cpu_count() or 1
UNSEEN = 2 * max(32, 2 * CORES) * CORES * mmap.PAGESIZE
"""By how much a peak above a baseline may be wrong: Linux counts pages in batches on each core."""
ADAPTERS = f'''
import os
import torch
from tal_conformance.implementations import Assignment, AssignerInputs

class Frugal:
    name = "frugal"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        batch, anchors, classes = inputs.scores.shape
        none = torch.zeros(batch, anchors, dtype=torch.long)
        scores = torch.zeros(batch, anchors, classes)
        return Assignment(none, torch.zeros(batch, anchors, 4), scores, none.bool(), none)

class Wasteful(Frugal):
    """Takes memory and gives it back: what is there after the call does not show it."""

    def assign(self, inputs: AssignerInputs) -> Assignment:
        if inputs.scores.shape[1] > 1000:  # in the batch that is measured
            torch.ones({PLANTED}, dtype=torch.uint8)
        return super().assign(inputs)

class Broken(Frugal):
    def assign(self, inputs: AssignerInputs) -> Assignment:
        raise RuntimeError("no memory for you")

class Dying(Frugal):
    def assign(self, inputs: AssignerInputs) -> Assignment:
        os._exit(7)
'''


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Case(1, 320, 5, classes=2).build()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "adapters.py"
    path.write_text(ADAPTERS, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_planted_allocation_is_seen(adapters: Path, batch: Batch):
    """The peak memory of an adapter includes a large planted allocation, and is small without the allocation."""
    wasteful, frugal = (
        peak_bytes(find(f"{adapters}:{name}"), batch, "cpu", "assign") for name in ("Wasteful", "Frugal")
    )
    assert wasteful >= PLANTED - UNSEEN
    assert frugal < PLANTED / 10


@pytest.mark.slow
def test_one_that_raises_there(adapters: Path, batch: Batch):
    with pytest.raises(ImplementationFailed, match="raised RuntimeError: no memory for you") as failed:
        peak_bytes(find(f"{adapters}:Broken"), batch, "cpu", "assign")
    assert "Traceback" in str(failed.value.details)


def test_one_whose_process_dies(adapters: Path, batch: Batch):
    with pytest.raises(ImplementationFailed, match="ended with status 7"):
        peak_bytes(find(f"{adapters}:Dying"), batch, "cpu", "assign")
