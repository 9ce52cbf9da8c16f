"""Recording of a training loop of one's own, which calls the recording with the inputs of each step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tal_conformance
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import read_circumstances
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.training.recorder import Recording, recording
from tal_reference import Hyperparameters

BATCH = Recipe(((Truth("ordinary"), Truth("ordinary", 1)),), classes=3, predictions="near").build()
INPUTS = BATCH.feature_maps, BATCH.annotations, BATCH.head


def stored(folder: Path) -> list[Circumstances]:
    return [read_circumstances(path) for path in sorted(folder.rglob("*.safetensors"))]


def test_inputs_and_circumstances_are_those_of_the_loop(tmp_path: Path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with (
        recording(tmp_path) as rec,
        rec(*INPUTS, Hyperparameters(topk=7), epoch=3, optimizer=optimizer) as step,
    ):
        step.total = torch.tensor(4.5, requires_grad=True)
    (path,) = tmp_path.iterdir()
    kept, known = Batch.load(path), read_circumstances(path)
    assert torch.equal(kept.annotations, BATCH.annotations)
    assert all(map(torch.equal, kept.feature_maps, BATCH.feature_maps))
    assert kept.hyperparameters == Hyperparameters(topk=7)
    assert (known.step, known.epoch, known.learning_rates, known.loss) == (0, 3, (0.5,), 4.5)
    assert kept.origin.startswith("recorded: training loop, step 0, epoch 3: first, ")


def test_rows_that_the_loop_changes_afterwards_are_those_of_the_call(tmp_path: Path):
    rows = BATCH.annotations.clone()
    with recording(tmp_path) as rec:
        rec(BATCH.feature_maps, rows, BATCH.head, total=1.0)
        rec.finish(None)
        rows.zero_()
    (path,) = tmp_path.iterdir()
    assert torch.equal(Batch.load(path).annotations, BATCH.annotations)


def in_the_block(rec: Recording, error: Exception) -> None:
    with rec(*INPUTS):
        raise error


def after_the_call(rec: Recording, error: Exception) -> None:
    rec(*INPUTS)
    raise error


def train(folder: Path, way: Callable[[Recording, Exception], None], error: Exception) -> None:
    with recording(folder) as rec:
        for _ in range(3):
            rec(*INPUTS, total=1.0)
        way(rec, error)


@pytest.mark.parametrize("way", [in_the_block, after_the_call])
def test_an_exception_is_stored_with_its_batch_and_the_one_before(
    tmp_path: Path, way: Callable[[Recording, Exception], None]
):
    with pytest.raises(ValueError, match="broken"):
        train(tmp_path, way, ValueError("broken"))
    first, before, failed = stored(tmp_path)
    assert (first.step, before.step, failed.step) == (0, 2, 3)
    assert (before.exception, failed.exception) == ("", "ValueError: broken")
    assert failed.raised_at.startswith("test_loop.py:")


def test_a_batch_that_raises_is_stored_although_the_one_before_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Predictions in another dtype than autocast's do not fit a case file: only that batch is lost."""
    with recording(tmp_path) as rec:
        rec(*INPUTS, total=1.0)
        with torch.autocast("cpu", torch.bfloat16), rec(*INPUTS):
            pass
        with pytest.raises(ValueError, match="broken"):
            in_the_block(rec, ValueError("broken"))
    assert [known.step for known in stored(tmp_path)] == [0, 2]
    assert stored(tmp_path)[1].exception == "ValueError: broken"
    assert (rec.lost, rec.over) == (1, None)
    assert "expected the dtype of automatic mixed precision" in capsys.readouterr().err


HALF = tuple(level.bfloat16() for level in BATCH.feature_maps)
MIXED = torch.autocast("cpu", torch.bfloat16)


def total_in_autocast(rec: Recording) -> None:
    with rec(HALF, *INPUTS[1:]) as step, MIXED:
        step.total = 1.0


def call_in_autocast(rec: Recording) -> None:
    with MIXED:
        rec(HALF, *INPUTS[1:], total=1.0)


def block_in_autocast(rec: Recording) -> None:
    with MIXED, rec(HALF, *INPUTS[1:]):
        pass


@pytest.mark.parametrize("way", [total_in_autocast, call_in_autocast, block_in_autocast])
def test_autocast_is_read_where_the_loss_is_called(
    tmp_path: Path, way: Callable[[Recording], None], capsys: pytest.CaptureFixture[str]
):
    with recording(tmp_path) as rec:
        way(rec)
    (path,) = tmp_path.iterdir()
    assert Batch.load(path).autocast
    assert read_circumstances(path).autocast == "bfloat16"
    assert "autocast" not in Batch.load(path).origin + capsys.readouterr().err


def test_autocast_that_was_not_seen_around_16_bits_is_mentioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with recording(tmp_path) as rec:
        for _ in range(2):
            with rec(HALF, *INPUTS[1:]) as step:
                with MIXED:
                    total = 1.0
                step.total = total
    (path,) = tmp_path.iterdir()
    assert "autocast not seen" in Batch.load(path).origin
    (line,) = capsys.readouterr().err.splitlines()
    assert "predictions are bfloat16, and autocast was not enabled" in line


def test_rows_and_learning_rates_are_those_before_the_loss(tmp_path: Path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    rows = BATCH.annotations.clone()
    with recording(tmp_path) as rec:
        rec(BATCH.feature_maps, rows, BATCH.head, optimizer=optimizer, total=1.0)
        rows[:, 2:] *= 64
        optimizer.param_groups[0]["lr"] = 0.25
    (path,) = tmp_path.iterdir()
    assert torch.equal(Batch.load(path).annotations, BATCH.annotations)
    assert read_circumstances(path).learning_rates == (0.5,)


def after_the_total(rec: Recording, error: Exception) -> None:
    rec(*INPUTS, total=1.0)
    raise error


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (in_the_block, "the loss raised ValueError: broken at test_loop.py:"),
        (after_the_call, "the loss, or the training after it, raised ValueError: broken at test_loop.py:"),
        (after_the_total, "the training raised ValueError: broken at test_loop.py:"),
    ],
)
def test_the_part_of_the_training_that_raised_is_named(
    tmp_path: Path,
    way: Callable[[Recording, Exception], None],
    words: str,
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(ValueError, match="broken"):
        train(tmp_path, way, ValueError("broken"))
    (line,) = capsys.readouterr().err.splitlines()
    assert f"step 3: {words}" in line
    assert ("after this call of the loss" in line) is (way is after_the_total)
    assert stored(tmp_path)[-1].raised.startswith(words)


def test_an_exception_between_two_losses_is_that_of_the_last_call(tmp_path: Path):
    """A step ends with the next call: an exception of the data loader is stored with the batch before it."""
    with recording(tmp_path) as rec:
        with pytest.raises(ValueError, match="caught"):
            in_the_block(rec, ValueError("caught"))
        rec(*INPUTS, total=float("nan"))
    assert [one.exception for one in stored(tmp_path)] == ["ValueError: caught", ""]
    assert rec.counts() == {"raised": 1, "loss not finite": 1}


def test_two_losses_have_their_own_selection(tmp_path: Path):
    with recording(tmp_path) as rec:
        for _ in range(3):
            rec(*INPUTS, loss="one")
            rec(*INPUTS, Hyperparameters(topk=7), loss="two")
    assert sorted(Batch.load(path).hyperparameters.topk for path in tmp_path.iterdir()) == [7, 10]


def test_an_interrupted_training_is_not_a_batch_that_raised(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, after_the_call, KeyboardInterrupt())  # type: ignore[arg-type]  # no Exception, on purpose
    assert not any(one.exception for one in stored(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [(BATCH.feature_maps[0], BATCH.annotations, BATCH.head), ([], BATCH.annotations, BATCH.head),
     (BATCH.feature_maps, BATCH.annotations[:, 1:], BATCH.head), (BATCH.feature_maps, [], BATCH.head),
     (BATCH.feature_maps, BATCH.annotations, None)],
)  # fmt: skip
def test_other_arguments_are_refused_at_the_call(tmp_path: Path, wrong: Any):
    with recording(tmp_path) as rec, pytest.raises(TypeError, match="expected"):
        rec(*wrong)


def test_a_recording_ends_with_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Nothing that was seen is left out silently, also if the loop raises; two steps, and one of them raises."""

    def train() -> None:
        with tal_conformance.recording(tmp_path / "recorded") as rec:
            rec(*INPUTS)
            with rec(*INPUTS):
                raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        train()
    lines = capsys.readouterr().err.splitlines()
    assert any("batches of 2 recorded in" in line for line in lines)
    assert any("1 raised: RuntimeError: out of luck" in line for line in lines)
