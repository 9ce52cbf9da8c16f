from pathlib import Path

import pytest
import torch

from tal_conformance.training import cache as kept
from tal_conformance.training.cache import (
    cached_controls,
    cached_reference,
    cached_training,
    fingerprint,
    read_training,
    write_training,
)
from tal_conformance.training.compare import Ended
from tal_conformance.training.yolov8n import RecordedTraining, Schedule, recorded_training
from tal_reference import ARTICLE, NEWEST

SMALL = Schedule(steps=2, recorded=(0, 1), sizes=((64, 96),), pool=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAL_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def recorded() -> RecordedTraining:
    return recorded_training(SMALL)


def same(one: RecordedTraining, other: RecordedTraining) -> bool:
    facts = [(each.schedule, each.head, each.progress, each.losses) for each in (one, other)]
    batches = [[(batch.id, batch.origin, batch.hazards) for batch in each.batches] for each in (one, other)]
    weights = one.weights.keys() == other.weights.keys() and all(
        torch.equal(value, other.weights[name]) and value.dtype == other.weights[name].dtype
        for name, value in one.weights.items()
    )
    return facts[0] == facts[1] and batches[0] == batches[1] and weights


def not_again(*arguments: object, **named: object) -> None:
    raise AssertionError("it was computed again")


def test_a_training_survives_its_files(recorded: RecordedTraining, tmp_path: Path):
    write_training(recorded, tmp_path)
    assert same(read_training(tmp_path), recorded)


def test_the_second_run_computes_nothing(recorded: RecordedTraining, monkeypatch: pytest.MonkeyPatch):
    assert cached_training(SMALL) is recorded
    monkeypatch.setattr(kept, "recorded_training", not_again)
    assert same(cached_training(SMALL), recorded)


def test_controls_are_kept(recorded: RecordedTraining, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "rms_of_controls", lambda recorded, device: 0.1 + 0.2)
    assert cached_controls(recorded, "cpu") == 0.1 + 0.2
    monkeypatch.setattr(kept, "rms_of_controls", not_again)
    assert cached_controls(recorded, "cpu") == 0.1 + 0.2
    with pytest.raises(AssertionError, match="again"):
        cached_controls(recorded, "cuda")


def test_the_end_of_the_references_training_is_kept(
    recorded: RecordedTraining, monkeypatch: pytest.MonkeyPatch
):
    """The cache returns the reference's final weights, and the positives of its 11 training steps."""
    choices = [[torch.rand(3, 4) < image / 4 for image in range(2)] for _ in range(11)]
    ended = Ended(torch.rand(7), choices)
    monkeypatch.setattr(kept, "reference_training", lambda *arguments, **named: ended)
    assert cached_reference(recorded, NEWEST, "cpu") is ended
    monkeypatch.setattr(kept, "reference_training", not_again)
    read = cached_reference(recorded, NEWEST, "cpu")
    assert torch.equal(read.weights, ended.weights)
    assert all(
        torch.equal(mine, theirs)
        for ours, others in zip(read.choices, choices, strict=True)
        for mine, theirs in zip(ours, others, strict=True)
    )
    for dialect, device in ((ARTICLE, "cpu"), (NEWEST, "cuda")):
        with pytest.raises(AssertionError, match="again"):
            cached_reference(recorded, dialect, device)


def test_what_is_damaged_is_computed_again(recorded: RecordedTraining, cache: Path):
    cached_training(SMALL)
    (weights,) = cache.glob("kept-*/files/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert cached_training(SMALL) is recorded
    assert weights.read_bytes() != bytes(content)


def test_without_a_folder_it_is_computed(
    recorded: RecordedTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TAL_CONFORMANCE_CACHE", str(tmp_path / "file"))
    assert cached_training(SMALL) is recorded


def test_the_fingerprint_changes_with_what_it_stands_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    before = fingerprint("a")
    assert before == fingerprint("a") != fingerprint("b")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "another")
        assert fingerprint("a") != before
    house = tmp_path / "house"
    for room in kept.ROOMS:
        (house / room).mkdir(parents=True)
    monkeypatch.setattr(kept, "PACKAGES", house)
    (house / "tal_reference" / "loss.py").write_text("one = 1\n")
    one = fingerprint("a")
    (house / "tal_reference" / "loss.py").write_text("one = 2\n")
    assert fingerprint("a") != one
