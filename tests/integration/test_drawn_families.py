"""The recorded batches of end-to-end heads and rotated boxes can be made again, those of masks and poses made."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import E2E, OBB, POSE, SEGMENT
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject

ROOT = Path(__file__).parents[2]


def by_origin(paths: list[Path]) -> dict[str, Batch]:
    """Return recorded batches by model, loss and step, which their origins name before the epoch."""
    batches = [Batch.load(path) for path in paths]
    return {batch.origin.partition(", epoch")[0]: batch for batch in batches}


@pytest.mark.slow
@pytest.mark.long
def test_the_command_makes_the_shipped_batches_again(tmp_path: Path):
    """The recorded batches have the annotations, heads and hyperparameters of the stored ones."""
    pytest.importorskip("ultralytics", minversion="8.4.190")
    done = subprocess.run(
        [sys.executable, "-m", "tal_conformance.training.drawn_families", tmp_path / "made"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for task in (E2E.name, OBB.name):
        made = by_origin(sorted((tmp_path / "made" / task).glob("*.safetensors")))
        stored = by_origin(recorded_cases(task))
        both = made.keys() & stored.keys()
        assert any("step 0" in origin for origin in both)
        for origin in both:
            assert torch.equal(made[origin].annotations, stored[origin].annotations)
            assert made[origin].head == stored[origin].head
            assert made[origin].hyperparameters == stored[origin].hyperparameters
    for task in (SEGMENT.name, POSE.name):  # too large to ship
        batches = by_origin(sorted((tmp_path / "made" / task).glob("*.safetensors")))
        assert any(len(batch.annotations) for batch in batches.values())
        for batch in batches.values():
            for name in ("reference", "ultralytics"):
                assert not judge_against_reference(Subject(find(name), "cpu"), batch).verdict.fails
