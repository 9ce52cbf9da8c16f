"""Command `overhead`: it times training steps with and without recorder; a batch stored meanwhile is an error."""

import itertools
import re
from collections.abc import Callable

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.benchmarks.intervals import Ratio
from tal_conformance.commands import main
from tal_conformance.commands import overhead as room
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics
from tal_conformance.training.capture import official_loss

configure_ultralytics()
BATCH = Recipe(((Truth("ordinary"),), ()), classes=3, predictions="near").build()

Step = Callable[..., object]


@pytest.fixture
def step() -> Step:
    """Return a function `step(factor)` that computes the official loss on predictions multiplied by `factor`."""
    import ultralytics

    adapter, rows = UltralyticsAdapter(ultralytics.__version__), BATCH.annotations
    criterion = adapter._new_criterion(BATCH.head, BATCH.hyperparameters, torch.device("cpu"))[0]
    names = {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}

    def call(factor: int = 1) -> object:
        maps = tuple((level * factor).requires_grad_() for level in BATCH.feature_maps)
        return criterion(adapter._predictions(maps, BATCH.head), names)

    return call


def test_the_recorder_is_there_in_every_second_step(step: Step):
    loss, listened = official_loss()[0], []

    def watched() -> None:
        wrapped = vars(loss)["loss" if "loss" in vars(loss) else "__call__"]
        listened.append(hasattr(wrapped, "__wrapped__"))
        step()

    ratio, seconds = room.compared(watched, 4)
    # The first step, which stores a batch, runs with the recorder.
    assert listened == [True, False, True, True, False, False, True, True, False]
    assert ratio.at > 0
    assert seconds > 0


def test_what_is_captured_is_no_measurement(step: Step):
    """If the loss grows at each step, so that the recorder stores each batch, `compared` raises an error."""
    factors = itertools.count(1)
    with pytest.raises(
        RuntimeError, match="batches in timed steps and stopped because of None; expected 4 calls, 0 batches"
    ):
        room.compared(lambda: step(next(factors)), 3)


def test_a_step_without_a_loss_is_no_measurement():
    with pytest.raises(
        RuntimeError, match=r"captured 0 calls, stored 0 batches .*; expected 3 calls, 0 batches"
    ):
        room.compared(lambda: None, 2)


@pytest.mark.parametrize(("at", "status", "says"), [(1.049, 0, "no more than"), (1.06, 1, "MORE than")])
def test_the_ratio_decides(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: Step,
    at: float,
    status: int,
    says: str,
):
    monkeypatch.setattr(room, "steps", lambda: {"training step": step, "loss alone": step})
    monkeypatch.setattr(
        room, "compared", lambda step, rounds, advance: (Ratio(at, at - 0.01, at + 0.01), 0.2)
    )
    assert main(["overhead"]) == status
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == (
        f"training step: 200.0 ms; with the recorder {at:.4f} times as long ({at - 0.01:.4f} to {at + 0.01:.4f})"
    )
    assert second.startswith("loss alone: ")
    assert third == f"with the recorder, a training step takes {says} 1.05 times as long"


@pytest.mark.slow
def test_the_steps_that_are_timed_are_a_real_training(capsys: pytest.CaptureFixture[str]):
    assert main(["overhead", "--rounds", "2"]) in (0, 1)  # two rounds are too few for a certain result
    out = capsys.readouterr().out
    assert (
        len(re.findall(r"ms; with the recorder [\d.]+ times as long \([\d.]+ to [\d.]+\)$", out, re.M)) == 2
    )


@pytest.mark.parametrize("rounds", ["-1", "0", "1"])
def test_too_few_rounds_are_told(capsys: pytest.CaptureFixture[str], rounds: str):
    assert main(["overhead", "--rounds", rounds]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m conformance overhead: --rounds {rounds}: expected at least 2")


def test_without_ultralytics_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def absent() -> None:
        raise UnknownImplementation("ultralytics, which builds the model, cannot be imported")

    monkeypatch.setattr(room, "steps", absent)
    assert main(["overhead"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be imported" in line
