"""The official loss in two gloo processes: what each computes, what they have in common, and what is recorded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.common.commands import ENVIRONMENT

from tal_conformance.commands.cases import case_files
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import read_circumstances

SCRIPT = Path(__file__).with_name("distributed_training.py")


@pytest.mark.slow
def test_two_processes_compute_their_own_loss_and_record_their_own_batches(tmp_path: Path):
    """N is that of the process (CALL-7); averaged gradients, times the world size, add up."""
    arguments = [("0", "2"), ("1", "2"), ("0", "1"), ("1", "1")]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path), *numbers],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for numbers in arguments
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    alone = [found[f"1-{rank}"] for rank in range(2)]
    assert alone[0] != alone[1]
    for rank in range(2):
        assert found[f"2-{rank}"]["total"] == alone[rank]["total"]  # not divided by the N of both
        # powers of two scale without rounding: the mean of twice the gradients is their sum
        assert found[f"2-{rank}"]["gradient"] == pytest.approx(
            alone[0]["gradient"] + alone[1]["gradient"],
            rel=2**-22,  # one addition of float32, in another order
        )
    files = case_files(tmp_path / "recorded-2")
    assert [path.parent.name for path in files] == ["rank-0", "rank-1"]
    for rank, path in enumerate(files):
        known = read_circumstances(path)
        assert (known.rank, known.world_size, known.step) == (rank, 2, 0)
        assert len(Batch.load(path).annotations) == rank + 1
        assert Batch.load(path).id == Batch.load(next((tmp_path / "recorded-1" / str(rank)).iterdir())).id
