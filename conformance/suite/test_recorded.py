"""TRAINING: batches recorded from a training of Ultralytics (see `tal_conformance.batches.recorded`)."""

from pathlib import Path

import pytest

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import TASKS
from tal_conformance.suite.checker import Checker

EVERY = [(task, path) for task in TASKS for path in recorded_cases(task)]


@pytest.mark.clauses("TRAINING")
@pytest.mark.every_task
@pytest.mark.parametrize(("task", "path"), EVERY, ids=lambda value: getattr(value, "stem", value))
def test_shipped_batch(checker: Checker, task: str, path: Path) -> None:
    """The implementation conforms on a recorded batch of its task that this project ships as a file."""
    checker(Batch.load(path))
