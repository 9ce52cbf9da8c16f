"""Callbacks of a trainer: they record from its start to its end."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics
from tal_conformance.training.callbacks import recording_callbacks
from tal_conformance.training.capture import CannotRecord, official_loss

configure_ultralytics()
BATCH = Recipe(((Truth("ordinary"),),), classes=3).build()


def step() -> None:
    maps = [level.clone().requires_grad_() for level in BATCH.feature_maps]
    from ultralytics import __version__

    from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter

    adapter, rows = UltralyticsAdapter(__version__), BATCH.annotations
    criterion = adapter._criterion(BATCH.head, BATCH.hyperparameters, torch.device("cpu"))[0]
    names = {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}
    criterion(adapter._predictions(tuple(maps), BATCH.head), names)


class Trainer:
    """The events of a trainer that runs its callbacks."""

    def __init__(self, callbacks: dict[str, Any]) -> None:
        self.callbacks = callbacks

    def train(self) -> None:
        for event in ("on_train_start", "step", "on_train_end", "teardown"):
            if event == "step":
                step()
            elif event in self.callbacks:
                self.callbacks[event](self)


def test_a_training_is_recorded_from_start_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    find("ultralytics")
    before = dict(vars(official_loss()[0]))
    step()
    Trainer(recording_callbacks(tmp_path / "new")).train()
    assert len(list((tmp_path / "new").iterdir())) == 1
    assert dict(vars(official_loss()[0])) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"conformance recorder: 1 batch of 1 recorded in {tmp_path / 'new'}")


def test_a_folder_of_another_training_is_not_mixed(tmp_path: Path):
    Trainer(recording_callbacks(tmp_path)).train()
    with pytest.raises(CannotRecord, match="already holds recorded batches"):
        Trainer(recording_callbacks(tmp_path)).train()
