"""The time left of a recorded training follows from the trainer's epochs and the time so far."""

import time
from types import SimpleNamespace

import pytest

from tal_conformance.training.time_left import TimeLeft


@pytest.fixture
def thirty_seconds_in(monkeypatch: pytest.MonkeyPatch) -> TimeLeft:
    monkeypatch.setattr(time, "monotonic", lambda: 130.0)
    return TimeLeft(began=100.0)


def trainer(**facts: object) -> SimpleNamespace:
    return SimpleNamespace(**{"epochs": 3, "epoch": 1, "train_loader": range(10)} | facts)


@pytest.mark.parametrize(
    ("facts", "calls", "losses", "expected"),
    [
        ({}, 15, 1, ", epoch 2 of 3, at most 0:00:30 left"),
        ({}, 30, 2, ", epoch 2 of 3, at most 0:00:30 left"),  # both losses of an end-to-end head
        ({"start_epoch": 1}, 5, 1, ", epoch 2 of 3, at most 0:01:30 left"),  # resumed: 20 steps, 5 done
        ({}, 31, 1, ""),  # more steps than planned: nothing is known
        ({"train_loader": None}, 15, 1, ""),
    ],
)
def test_the_time_left(thirty_seconds_in: TimeLeft, facts: dict, calls: int, losses: int, expected: str):
    assert thirty_seconds_in.text(trainer(**facts), calls, losses) == expected


def test_a_training_loop_of_ones_own_has_no_known_length(thirty_seconds_in: TimeLeft):
    assert thirty_seconds_in.text(None, 15, 1) == ""
