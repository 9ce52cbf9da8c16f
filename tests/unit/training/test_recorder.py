"""Recording of a training: stored batches equal the inputs of the loss, and the training does not change."""

import contextlib
import errno
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.commands.record import summary_of
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import read_circumstances
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.doctor.examine import examine
from tal_conformance.doctor.inputs import read_inputs
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.guards.torch_state import official_code
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics
from tal_conformance.judgement.failure import Subject
from tal_conformance.training import recorder
from tal_conformance.training.capture import Call, CannotRecord, feature_maps_of, listening, official_loss
from tal_conformance.training.recorder import Recording, recording
from tal_conformance.training.selection import ANOMALIES_STORED
from tal_reference import Hyperparameters

configure_ultralytics()
CROWDED = Recipe(((Truth("ordinary"), Truth("tiny")), ()), classes=3, predictions="near")
EMPTY = Recipe(((), ()), classes=3)


@pytest.fixture(scope="module")
def adapter() -> UltralyticsAdapter:
    import ultralytics

    return UltralyticsAdapter(ultralytics.__version__)


Step = Callable[..., Tensor]


@pytest.fixture
def step(adapter: UltralyticsAdapter) -> Step:
    """Return a function that calls the official loss on a batch, and returns the first map's gradient."""

    def call(batch: Batch, validates: bool = False, criterion: Any = None, **more: Any) -> Tensor:
        maps = tuple(level.clone().requires_grad_(not validates) for level in batch.feature_maps)
        if criterion is None:
            criterion = adapter._criterion(batch.head, batch.hyperparameters, maps[0].device)[0]
        rows = batch.annotations
        names = {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}
        with torch.autocast("cpu", batch.dtype, enabled=batch.autocast):
            total, _ = criterion(adapter._predictions(maps, batch.head), names | more)
        return total.detach() if validates else torch.autograd.grad(total.sum(), maps)[0]

    return call


def files(folder: Path) -> list[Batch]:
    return [Batch.load(path) for path in sorted(folder.iterdir())]


def said(captured: Any) -> list[str]:
    return captured.readouterr().err.splitlines()


@pytest.mark.parametrize(
    "batch",
    [
        CROWDED.build(),
        EMPTY.build(),
        CROWDED.build().to(dtype=torch.bfloat16),
        replace(CROWDED.build().to(dtype=torch.bfloat16), autocast=True),
        replace(CROWDED, hyperparameters=Hyperparameters(topk=7, topk2=1, box_gain=2.0)).build(),
        replace(CROWDED, reg_max=1).build(),
    ],
    ids=["float32", "no ground truth", "bfloat16", "mixed precision", "other numbers", "one bin"],
)
def test_what_is_kept_is_what_the_loss_received(step: Step, batch: Batch, tmp_path: Path):
    with recording(tmp_path):
        step(batch)
    (kept,) = files(tmp_path)
    assert kept.id == batch.id  # a hash of feature maps, annotations, head, hyperparameters and precision
    assert kept.hazards == hazards_of(batch)
    assert kept.origin.startswith("recorded: ultralytics 8.")
    assert ", step 0: first" in kept.origin


def test_steps_are_counted_and_chosen(step: Step, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with recording(tmp_path, every=2) as recorded:
        for recipe in (CROWDED, CROWDED, CROWDED, EMPTY):
            step(recipe.build())
    assert recorded.calls == 4
    reasons = {one.step: {name for _, name in one.reasons} for one in recorded.shelf.cases}
    assert list(reasons) == [0, 2, 3]
    assert {"first", "most GTs so far", "smallest GT so far"} <= reasons[0]
    assert reasons[2] == {"every n-th"}
    assert "no GT" in reasons[3]
    assert said(capsys) == []


def test_validation_is_no_step(step: Step, tmp_path: Path):
    with recording(tmp_path) as recorded:
        step(CROWDED.build(), validates=True)
    assert recorded.calls == 0
    assert list(tmp_path.iterdir()) == []


def test_the_training_does_not_notice(step: Step, tmp_path: Path):
    batch = CROWDED.build()
    expected, before = step(batch), torch.get_rng_state()
    with recording(tmp_path, every=1):
        assert torch.equal(step(batch), expected)
    assert torch.equal(torch.get_rng_state(), before)


def recorded_until(error: type[BaseException], folder: Path, step: Step) -> None:
    with recording(folder):
        step(CROWDED.build())
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_was_recorded_before_a_crash_stays(step: Step, tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error):
        recorded_until(error, tmp_path, step)
    assert [batch.id for batch in files(tmp_path)] == [CROWDED.build().id]


def test_the_official_loss_is_left_as_it_was(step: Step, tmp_path: Path):
    loss = official_loss()[0]
    before, code = dict(vars(loss)), official_code()
    with recording(tmp_path):
        assert dict(vars(loss)) != before
    assert dict(vars(loss)) == before
    with pytest.raises(RuntimeError):
        recorded_until(RuntimeError, tmp_path / "again", step)
    assert dict(vars(loss)) == before
    assert official_code() == code


def test_a_loss_that_raises_raises_as_without(step: Step, tmp_path: Path):
    with recording(tmp_path), pytest.raises(AttributeError):
        step(CROWDED.build(), criterion=lambda *_: (None, None))
    with recording(tmp_path) as recorded:
        step(CROWDED.build())
    assert recorded.calls == 1


@pytest.mark.parametrize(
    "raised",
    [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), KeyError("x"), RuntimeError("y")],
)
def test_a_recorder_that_fails_says_so_once_and_the_training_goes_on(
    step: Step,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: Exception,
):
    def full(*_: object) -> None:
        raise raised

    monkeypatch.setattr("tal_conformance.core.case_file.save_file", full)
    expected = step(CROWDED.build())
    with recording(tmp_path, every=1) as recorded:
        assert all(torch.equal(step(CROWDED.build()), expected) for _ in range(3))
    assert recorded.over is not None
    (line,) = said(capsys)
    assert "recording has stopped, and the training continues" in line
    assert type(raised).__name__ in line
    assert list(tmp_path.iterdir()) == []


def test_a_release_that_calls_its_loss_otherwise_is_no_failure(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("tal_conformance.training.capture._plain", lambda predictions: 1 / 0)
    with recording(tmp_path) as recorded:
        step(CROWDED.build())
    assert recorded.over == "ZeroDivisionError: division by zero"
    assert len(said(capsys)) == 1


def spoilt(row: int, column: int, value: float, batch: Batch | None = None) -> Batch:
    """Return a batch with another number in its annotation rows, which `Batch` might refuse."""
    batch = CROWDED.build() if batch is None else batch
    object.__setattr__(batch, "annotations", batch.annotations.clone())
    batch.annotations[row, column] = value
    return batch


def test_what_a_case_file_cannot_hold_is_left_out_and_the_rest_kept(
    step: Step, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with recording(tmp_path, every=1) as recorded:
        for _ in range(2):
            with pytest.raises(RuntimeError):
                step(CROWDED.build(), batch_idx=torch.zeros(5))  # there are two rows
        step(CROWDED.build())
    assert (recorded.over, recorded.lost, recorded.calls) == (None, 2, 3)
    assert [batch.id for batch in files(tmp_path)] == [CROWDED.build().id]
    (line,) = said(capsys)
    assert (
        "a case file cannot hold it: images, classes and boxes of the annotations do not fit each other"
        in line
    )


def stored(folder: Path) -> dict[int, Circumstances]:
    """Return the circumstances of every stored batch by its step."""
    found = [read_circumstances(path) for path in sorted(folder.glob("*.safetensors"))]
    return {one.step: one for one in found if one.step is not None}


def test_a_batch_that_raises_is_kept_with_the_one_before(
    step: Step, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with recording(tmp_path) as recorded:
        for _ in range(3):
            step(CROWDED.build())
        with pytest.raises(IndexError):
            step(spoilt(1, 1, 7.0))
        assert sorted(stored(tmp_path)) == [0, 2, 3]  # before the exception passes on
        step(CROWDED.build())
    before, failed = stored(tmp_path)[2], stored(tmp_path)[3]
    assert before.reasons == ("before the batch that went wrong",)
    assert failed.reasons == ("label outside the head", "raised")
    assert failed.exception.startswith("IndexError: index 7 is out of bounds")
    assert failed.raised_at.startswith("tal.py:")
    assert failed.traceback.splitlines()[-1] == failed.raised_at
    assert "/" not in failed.traceback  # case files are passed on: no paths
    assert (failed.loss, before.loss is not None) == (None, True)
    (path,) = tmp_path.glob("step-000003-*")
    (first, *_) = examine(read_inputs(path))
    assert first.name == "label outside the head"
    assert recorded.counts() == {"raised": 1, "label outside the head": 1}
    assert recorded.raised.startswith("IndexError: index 7")
    assert any("step 3: the loss raised IndexError" in line and "TAL-TGT-1" in line for line in said(capsys))
    lines = summary_of(recorded)
    assert lines[0].startswith("conformance recorder: 3 batches of 5 recorded in ")
    assert any(line.startswith("  1 raised: IndexError: index 7") and " at tal.py:" in line for line in lines)


def test_a_loss_that_is_not_finite_is_kept_with_the_one_before(step: Step, tmp_path: Path):
    diverged = CROWDED.build()
    diverged.feature_maps[0][0, 65] = torch.nan
    with recording(tmp_path) as recorded:
        for batch in [CROWDED.build()] * 4 + [diverged] * 12:
            step(batch)
    assert sorted(stored(tmp_path)) == [0, 3, *range(4, 4 + ANOMALIES_STORED)]
    assert math.isnan(stored(tmp_path)[4].loss or 0)
    assert recorded.counts() == {"loss not finite": 12}
    assert "  12 loss not finite, first at step 4 (10 stored)" in summary_of(recorded)


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [(0, 2, -0.25, "coordinates outside [0, 1]"), (1, 5, 1.5, "coordinates outside [0, 1]"),
     (0, 1, -1.0, "label outside the head"), (0, 1, 0.5, "label outside the head"),
     (1, 1, math.nan, "row not finite"), (1, 4, math.nan, "row not finite"), (1, 0, 2.0, "image outside the batch"),
     (1, 0, 0.5, "image outside the batch")],
)  # fmt: skip
def test_rows_that_are_wrong_without_an_exception_are_kept(
    step: Step, tmp_path: Path, row: int, column: int, value: float, reason: str
):
    """The recorder counts a row for the reason that the finding of `doctor` on the stored batch has."""
    with recording(tmp_path) as recorded:
        step(CROWDED.build())
        with contextlib.suppress(
            IndexError, RuntimeError, ValueError
        ):  # some releases raise on some of the rows
            step(spoilt(row, column, value))
    assert reason in stored(tmp_path)[1].reasons
    assert set(recorded.counts()) - {"raised", "loss not finite"} == {reason}
    (path,) = tmp_path.glob("step-000001-*")
    names = {finding.name for finding in examine(read_inputs(path))}
    assert reason in names or reason == "coordinates outside [0, 1]"


def test_rows_out_of_order_are_kept(step: Step, tmp_path: Path):
    batch = Recipe(((Truth("ordinary"),), (Truth("ordinary"),)), classes=3).build()
    with recording(tmp_path), contextlib.suppress(IndexError):
        step(replace(batch, annotations=batch.annotations.flip(0)))
    assert "rows out of order" in stored(tmp_path)[0].reasons


def test_mixed_dtypes_of_a_batch_that_raises_are_told(
    step: Step, adapter: UltralyticsAdapter, tmp_path: Path
):
    batch = CROWDED.build()
    call = Call(
        adapter._criterion(batch.head, batch.hyperparameters, torch.device("cpu"))[0],
        adapter._predictions(batch.feature_maps, batch.head),
        {
            "batch_idx": batch.annotations[:, 0],
            "cls": batch.annotations[:, 1],
            "bboxes": batch.annotations[:, 2:],
        },
        None,
        error=RuntimeError("dtypes"),
    )
    call.predictions["boxes"] = call.predictions["boxes"].half()
    with recording(tmp_path) as recorded:
        recorded.hear(call)
    assert stored(tmp_path)[0].dtypes == ("float16", "float32")


def test_class_weights_are_recorded(step: Step, adapter: UltralyticsAdapter, tmp_path: Path):
    """The stored head has the class weights of the official loss, and the official loss conforms on the batch."""
    batch = CROWDED.build()
    criterion, _ = adapter._new_criterion(batch.head, batch.hyperparameters, torch.device("cpu"))
    criterion.class_weights = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, -1)
    with recording(tmp_path):
        step(batch, criterion=criterion)
    (kept,) = files(tmp_path)
    assert kept.head == replace(batch.head, class_weights=(1.0, 2.0, 3.0))
    assert not judge_against_reference(Subject(find("ultralytics"), "cpu"), kept).verdict.fails


def test_progress_is_printed_at_intervals(step: Step, tmp_path: Path, monkeypatch: Any, capsys: Any):
    clock = iter([0.0, 30.0, 61.0, 90.0])  # once at the start, and once after each call
    monkeypatch.setattr(recorder, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with recording(tmp_path, every=1):
        for _ in range(3):
            step(CROWDED.build())
    (line,) = said(capsys)
    assert line.startswith("conformance recorder: 2 calls of the loss captured, 2 batches stored (0.")


def test_a_budget_that_is_too_small_is_told(step: Step, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with recording(tmp_path, limit_mb=0.001, every=1):
        step(CROWDED.build())
        step(CROWDED.build())
    (line,) = said(capsys)
    assert "more interesting batches fill the size limit" in line
    assert list(tmp_path.iterdir()) == []


def test_both_losses_of_an_end_to_end_head_are_recorded(
    step: Step, adapter: UltralyticsAdapter, tmp_path: Path
):
    batch = CROWDED.build()
    numbers = Hyperparameters(), Hyperparameters(topk=7, topk2=1)
    losses = [adapter._new_criterion(batch.head, one, torch.device("cpu"))[0] for one in numbers]
    with recording(tmp_path):
        for _ in range(2):
            for criterion in losses:
                step(batch, criterion=criterion)
    assert sorted(kept.hyperparameters.topk for kept in files(tmp_path)) == [7, 10]
    assert sum("loss 2, step 0" in kept.origin for kept in files(tmp_path)) == 1


class Trainer:
    """An object with the attributes by which the recorder recognises an Ultralytics trainer."""

    def __init__(self) -> None:
        self.epoch, self.epochs, self.train_loader = 3, 10, None
        self.args = type("Arguments", (), {"model": "somewhere/my-model.yaml"})()
        self.start_epoch, self.amp = 3, True
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)

    def train(self, run: Callable[[], object]) -> None:
        run()
        self.epoch += 1
        run()


def test_it_says_in_which_epoch_of_which_model(step: Step, tmp_path: Path):
    with recording(tmp_path, every=1):
        Trainer().train(lambda: step(CROWDED.build()))
    origins = [batch.origin for batch in files(tmp_path)]
    assert ["my-model.yaml, step 0, epoch 3: " in origins[0], "step 1, epoch 4: " in origins[1]] == [
        True,
        True,
    ]
    assert not any("somewhere" in origin for origin in origins)
    first = stored(tmp_path)[0]
    assert (first.epoch, first.learning_rates, first.amp, first.loss_scale) == (3, (0.25,), True, 512.0)
    assert (first.world_size, first.rank, first.source) == (1, 0, f"ultralytics {official_loss()[1]}")
    assert "first after resuming" in first.reasons
    assert "first after resuming" not in stored(tmp_path)[1].reasons


def test_numbers_of_a_device_are_not_waited_for(step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If a mocked CUDA event is never ready, the recorder waits for it, and stores the step, only two steps later."""
    waited: list[int] = []

    class Event:
        def query(self) -> bool:
            return False

        def synchronize(self) -> None:
            waited.append(1)

    import tal_conformance.training.recorder as room

    numbers = room._numbers
    monkeypatch.setattr(room, "_numbers", lambda call: (numbers(call)[0], Event()))
    with recording(tmp_path, every=1) as recorded:
        step(CROWDED.build())
        step(CROWDED.build())
        assert (waited, recorded.shelf.cases) == ([], [])
        step(CROWDED.build())
        assert (len(waited), [one.step for one in recorded.shelf.cases]) == (1, [0])
    assert [one.step for one in recorded.shelf.cases] == [0, 1, 2]


def test_what_waits_holds_neither_graph_nor_images(step: Step):
    heard: list[Call] = []
    with listening(lambda call: heard.append(call.detached())):
        step(CROWDED.build(), img=torch.zeros(2, 3, 32, 32))
    (call,) = heard
    assert set(call.rows) == {"batch_idx", "cls", "bboxes"}
    assert not any(level.requires_grad for level in feature_maps_of(call.predictions))
    assert {level.device.type for level in call.predictions["feats"]} == {"meta"}


@pytest.mark.parametrize("family", ["list", "(y, list)", "names", "(y, names)"])
def test_predictions_of_every_family(family: str, adapter: UltralyticsAdapter):
    batch = CROWDED.build()
    given: Any = list(batch.feature_maps)
    if "names" in family:
        given = adapter._predictions(batch.feature_maps, batch.head)
    if "y" in family:
        given = (torch.zeros(2, 7, 16), given)
    assert all(map(torch.equal, feature_maps_of(given), batch.feature_maps))


@pytest.mark.parametrize("given", [None, {"boxes": 1}, (1, None), {"one2many": {}, "one2one": {}}])
def test_other_predictions_are_refused(given: Any):
    with pytest.raises(ValueError, match="unknown structure of the head"):
        feature_maps_of(given)


def test_a_folder_of_another_recording_is_not_mixed(step: Step, tmp_path: Path):
    with recording(tmp_path):
        step(CROWDED.build())
    with pytest.raises(CannotRecord, match="already holds recorded batches"), recording(tmp_path):
        pass


@pytest.mark.parametrize(
    ("every", "limit"), [(-1, 1.0), (1, 0.0), (1, -1.0), (1, float("nan")), (1, float("inf"))]
)
def test_numbers_without_sense_are_refused(tmp_path: Path, every: int, limit: float):
    with (
        pytest.raises(CannotRecord, match=r"got every = |expected a finite size limit"),
        recording(tmp_path, every, limit),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotRecord, match="cannot create the folder"), recording(tmp_path / "file"):
        pass


def test_without_ultralytics_a_loop_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "ultralytics", None)
    with pytest.raises(CannotRecord, match="cannot import the detection loss"):
        official_loss()
    batch = CROWDED.build()
    with recording(tmp_path) as rec:
        rec(batch.feature_maps, batch.annotations, batch.head)
    (kept,) = files(tmp_path)
    assert kept.id == batch.id
    assert kept.origin.startswith("recorded: training loop, step 0: ")


def test_the_recording_is_what_the_context_manager_gives(step: Step, tmp_path: Path):
    with recording(tmp_path / "new" / "folder") as recorded:
        assert isinstance(recorded, Recording)
        step(CROWDED.build())
    assert recorded.shelf.folder == tmp_path / "new" / "folder"
    assert len(files(recorded.shelf.folder)) == 1


def test_the_loss_scale_is_that_of_the_step(step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tal_conformance.training.recorder._is_ready", lambda _: False)  # as on a busy GPU
    trainer = Trainer()
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_factor=2.0, growth_interval=1)
    parameter = trainer.optimizer.param_groups[0]["params"][0]

    def one_step() -> None:
        step(CROWDED.build())
        trainer.scaler.scale(parameter.sum()).backward()
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()  # doubles the factor, in place, before the recorder stores the batch

    with recording(tmp_path, every=1):
        for _ in range(4):
            trainer.train(one_step)
    scales = [found.loss_scale for _, found in sorted(stored(tmp_path).items())]
    assert scales == [512.0 * 2**number for number in range(8)]
