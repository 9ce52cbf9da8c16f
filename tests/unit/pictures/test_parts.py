"""`explain` says how well keypoints and masks fit, and their rank."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import main
from tal_conformance.core.reference_inputs import keypoints_of
from tal_conformance.core.task import POSE, SEGMENT
from tal_conformance.pictures.parts import FITS, parts_as_text
from tal_conformance.pictures.trace import ImageTrace
from tal_reference import NEWEST

TRUTHS = (Truth("ordinary", 0, (4, 4), (8, 8)), Truth("ordinary", 0, (11, 11), (8, 8)))
PARTS: dict[str, dict[str, Any]] = {
    POSE.name: {"keypoints": (4, 3), "keypoint_kind": "labelled"},
    SEGMENT.name: {"prototypes": 4, "mask_ratio": 4, "prototype_ratio": 4, "overlapping_masks": False},
}


def batch_of(task: str, **changed: Any) -> Any:
    numbers = PARTS[task] | {"task": task} | changed
    return Recipe(images=(TRUTHS, ()), cells=(8, 8), strides=(8, 16), predictions="near", **numbers).build()


def trace_of(batch: Any) -> ImageTrace:
    return ImageTrace.of(batch, 0, NEWEST)


def test_oks_is_one_minus_the_loss():
    """The mean of 1 - OKS over the positives is the term pose, without its gain (POSE-4)."""
    batch = batch_of(POSE.name, keypoint_kind="far_outside")  # every keypoint is visible
    trace = trace_of(batch)
    assert trace.trace is not None
    fits = torch.stack([FITS[POSE.name].values(trace, truth) for truth in range(2)])  # (M, A)
    missed = (1 - fits)[trace.trace.positives].mean()
    term = trace.loss.items[1] / batch.hyperparameters.pose_gain
    torch.testing.assert_close(missed, term.double(), rtol=1e-4, atol=1e-6)


def test_a_true_mask_predicted_exactly_has_a_mask_iou_of_one():
    batch = batch_of(SEGMENT.name)
    *levels, prototypes = batch.feature_maps
    height, width = batch.head.masks
    mask = batch.annotations[0, 6:].view(height, width)
    prototypes = torch.zeros_like(prototypes)
    prototypes[0, 0] = 2 * mask - 1
    first = levels[0].clone()
    first[:, batch.head.channels :] = 0
    first[:, batch.head.channels] = 5
    trace = trace_of(replace(batch, feature_maps=(first, *levels[1:], prototypes)))
    values = FITS[SEGMENT.name].values(trace, 0)
    assert values[:64].eq(1).all()
    assert not FITS[SEGMENT.name].values(trace, 1)[:64].eq(1).any()


@pytest.mark.parametrize("task", PARTS)
def test_ranks_follow_the_measure(task: str):
    trace = trace_of(batch_of(task))
    lines = parts_as_text(trace, None, 0)
    assert lines[-1] == f"{FITS[task].note}."
    found = [re.search(r" ([\d.]+), rank (\d+) of (\d+) candidates", line) for line in lines[:-1]]
    numbers = sorted((int(match[2]), -float(match[1])) for match in found if match)
    assert numbers
    assert [value for _, value in numbers] == sorted(value for _, value in numbers)


def test_a_truth_without_a_visible_keypoint_has_no_oks():
    batch = batch_of(POSE.name, keypoint_kind="invisible")
    assert not keypoints_of(batch)[0][..., 2].any()
    assert "no OKS" in parts_as_text(trace_of(batch), None, 0)[0]


@pytest.mark.parametrize("task", PARTS)
def test_the_command_prints_the_lines(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "case.safetensors"
    batch_of(task).save(path)
    assert main(["explain", str(path), "--gt", "0"]) == 0
    assert FITS[task].note in capsys.readouterr().out
