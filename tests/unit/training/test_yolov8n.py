import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.common.commands import ENVIRONMENT

from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.registry import find
from tal_conformance.training.capture import feature_maps_of
from tal_conformance.training.yolov8n import (
    RecordedTraining,
    Schedule,
    build_model,
    head_of,
    official_criterion,
    recorded_training,
    train,
)
from tal_reference import Head, Hyperparameters

ROOT = Path(__file__).parents[3]
SMALL = Schedule(steps=30, recorded=(0, 29), sizes=((64, 96),), pool=2)


@pytest.fixture(scope="module")
def small() -> RecordedTraining:
    return recorded_training(SMALL)


def global_state() -> dict[str, object]:
    return {
        "random": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "printing": dict(vars(torch._tensor_str.PRINT_OPTS)),
    }


def test_the_model_is_the_one_described():
    model = build_model()
    assert head_of(model) == Head((8, 16, 32), 80, 16)
    assert 3.0e6 < sum(weight.numel() for weight in model.parameters()) < 3.3e6  # YOLOv8n has 3.2 million
    assert model.training


def test_the_same_seed_gives_the_same_weights():
    one, same, other = (build_model(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_torch_is_left_as_it_was():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = global_state()
        recorded_training(Schedule(steps=1, recorded=(0,), sizes=((64, 96),), pool=1, seed=5))
        assert global_state() == before
    finally:
        torch.set_num_threads(threads)


def test_a_description_in_the_working_directory_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "yolov8n.yaml").write_text("not: a model\n")
    monkeypatch.chdir(tmp_path)
    assert head_of(build_model()).classes == 80


@pytest.mark.slow
def test_nothing_is_written_and_nobody_is_called(tmp_path: Path):
    home, work, temporary = (tmp_path / name for name in ("home", "work", "temporary"))
    for folder in (home, work, temporary):
        folder.mkdir()
    code = (
        "import socket\n"
        "def refuse(*arguments):\n"
        "    print('CALLED', arguments[1:], flush=True)\n"
        "    raise OSError('no network')\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
        "socket.create_connection = socket.getaddrinfo = refuse\n"
        "from tal_conformance.training.yolov8n import *\n"
        "print(len(recorded_training(Schedule(steps=1, recorded=(0,), sizes=((64, 96),), pool=1)).batches))\n"
    )
    environment = os.environ | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": ENVIRONMENT["PYTHONPATH"],
    }
    environment = {name: value for name, value in environment.items() if not name.startswith(("YOLO", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]
    assert [path for folder in (home, work) for path in folder.rglob("*") if path.is_file()] == []


def test_feature_maps_hold_the_predictions():
    predictions = build_model()(torch.rand(2, 3, 64, 96))
    maps = feature_maps_of(predictions)
    assert [tuple(level.shape) for level in maps] == [(2, 144, 8, 12), (2, 144, 4, 6), (2, 144, 2, 3)]
    rows = torch.cat([level.flatten(2) for level in maps], dim=2)
    assert torch.equal(rows, torch.cat((predictions["boxes"], predictions["scores"]), dim=1))


def test_it_learns(small: RecordedTraining):
    first, last = small.progress
    assert sum(small.losses[-2:]) < 0.6 * sum(small.losses[:2])
    assert last.overlap > first.overlap + 0.1
    assert last.score > 100 * first.score


@pytest.mark.slow
@pytest.mark.long
def test_the_recorded_batches_are_those_of_a_model_that_learns():
    recorded = recorded_training()
    first, *_, last = recorded.progress
    assert sum(recorded.losses[-6:]) < 0.6 * sum(recorded.losses[:6])
    assert first.score < 0.001
    assert last.score > 0.2
    assert last.overlap > first.overlap + 0.15
    assert {batch.size for batch in recorded.batches} == {(192, 256), (256, 192)}
    assert {"image_without_gt", "padding", "contested", "many_candidates", "dfl_clamp"} <= set.union(
        *(set(batch.hazards) for batch in recorded.batches)
    )


def test_batches_say_where_they_come_from(small: RecordedTraining):
    for batch, progress in zip(small.batches, small.progress, strict=True):
        assert batch.origin.startswith(
            f"recorded: yolov8n in training, step {progress.step} of 30, seed 0: loss "
        )
        assert batch.hazards == hazards_of(batch)
        assert batch.hyperparameters == Hyperparameters()


def test_a_recorded_batch_survives_its_file(small: RecordedTraining, tmp_path: Path):
    small.batches[1].save(tmp_path / "case.safetensors")
    assert Batch.load(tmp_path / "case.safetensors").id == small.batches[1].id


@pytest.mark.slow
def test_the_same_schedule_records_the_same(small: RecordedTraining):
    again = recorded_training.__wrapped__(SMALL)
    assert [batch.id for batch in again.batches] == [batch.id for batch in small.batches]
    assert all(torch.equal(again.weights[name], small.weights[name]) for name in small.weights)


def test_recorded_batches_keep_nothing_of_the_model(small: RecordedTraining):
    assert not any(level.requires_grad for batch in small.batches for level in batch.feature_maps)


def test_the_models_own_loss_and_the_adapter_are_the_same(small: RecordedTraining):
    model, adapter = build_model(SMALL.seed), find("ultralytics")
    model.load_state_dict(small.weights)
    images = SMALL.images(1)
    predictions = model(images.pixels)
    maps = [level.detach().requires_grad_() for level in feature_maps_of(predictions)]
    rows = images.annotations
    own = official_criterion(model)(
        {
            "boxes": torch.cat([level[:, :64].flatten(2) for level in maps], dim=2),
            "scores": torch.cat([level[:, 64:].flatten(2) for level in maps], dim=2),
            "feats": predictions["feats"],
        },
        {"batch_idx": rows[:, 0], "cls": rows[:, 1], "bboxes": rows[:, 2:]},
    )[0].sum()
    batch = Batch(tuple(level.detach() for level in maps), rows, head_of(model))
    outcome = execute(adapter, batch)
    assert outcome.loss is not None
    assert outcome.loss.total == own.detach()
    assert all(map(torch.equal, outcome.loss.gradients, torch.autograd.grad(own, maps)))


def test_training_from_given_weights_is_the_recorded_training():
    schedule = Schedule(steps=3, recorded=(), sizes=((64, 96),), pool=2)
    recorded, adapter = recorded_training(schedule), find("ultralytics")
    begin = build_model(schedule.seed).state_dict()
    learnt = [name for name, weight in build_model().named_parameters() if weight.requires_grad]
    end = train(begin, schedule, 0, 3, lambda step, batch: execute(adapter, batch).loss.gradients)
    assert torch.equal(end, torch.cat([recorded.weights[name].flatten() for name in learnt]))


def test_the_first_step_decides_which_images_come():
    schedule = Schedule(steps=3, recorded=(), sizes=((64, 96),), pool=2)
    seen: list[Batch] = []

    def gradients(step: int, batch: Batch) -> tuple[torch.Tensor, ...]:
        seen.append(batch)
        return tuple(map(torch.zeros_like, batch.feature_maps))

    train(build_model().state_dict(), schedule, 3, 2, gradients)
    assert [len(batch.annotations) for batch in seen] == [
        len(schedule.images(number).annotations) for number in (1, 0)
    ]
    assert torch.equal(seen[0].annotations, schedule.images(1).annotations)
