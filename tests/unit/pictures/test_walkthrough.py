"""The walkthrough's data equals the reference's values and, for the comparison, YOLOv5's rules for positives."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tal_conformance.pictures.trace import ImageTrace
from tal_conformance.pictures.walkthrough import (
    fitting,
    moments,
    static_cells,
    static_choice,
    walkthrough,
    write_walkthrough,
)
from tal_conformance.training.yolov8n import RecordedTraining, Schedule, recorded_training
from tal_reference import NEWEST
from tal_reports.html.walkthrough import read_walkthrough
from tal_reports.log.schemas import fault


@pytest.fixture(scope="module")
def recorded() -> RecordedTraining:
    """Return a recorded training of seven steps, of which the first and the last have the same images."""
    return recorded_training(Schedule(steps=7, recorded=(0, 1, 6)))


@pytest.fixture(scope="module")
def data(recorded: RecordedTraining) -> dict[str, Any]:
    return walkthrough(recorded)


@pytest.fixture(scope="module")
def trace(recorded: RecordedTraining, data: dict[str, Any]) -> ImageTrace:
    return ImageTrace.of(recorded.batches[2], data["picture"]["image"], NEWEST)


@pytest.mark.slow
def test_the_report_can_draw_it(recorded: RecordedTraining, tmp_path: Path):
    write_walkthrough(tmp_path, recorded)
    found, wrong = read_walkthrough(tmp_path)
    assert wrong is None
    assert found is not None
    assert len(found.steps) == 10


def test_it_follows_the_schemas(data: dict[str, Any]):
    assert fault(json.loads(json.dumps(data)), "walkthrough") is None
    assert fault(json.loads(json.dumps(data["picture"])), "log", "picture") is None


def test_the_moments_are_fed_with_the_same_images(recorded: RecordedTraining, data: dict[str, Any]):
    assert [moment.step for moment in moments(recorded)] == [0, 6]
    assert [moment["step"] for moment in data["moments"]] == [0, 6]
    first, last = (recorded.batches[moment.place] for moment in moments(recorded))
    torch.testing.assert_close(first.annotations, last.annotations, rtol=0, atol=0)


def test_decode(data: dict[str, Any], trace: ImageTrace):
    decode, anchor = data["decode"], data["anchor"]
    expected = [sum(k * share for k, share in enumerate(side)) for side in decode["shares"]]
    assert decode["distances"] == pytest.approx(expected, abs=1e-3)
    x, y = decode["centre"]
    left, top, right, bottom = decode["distances"]
    assert decode["box"] == pytest.approx([x - left, y - top, x + right, y + bottom], rel=1e-4)
    assert [edge * decode["stride"] for edge in decode["box"]] == pytest.approx(
        trace.boxes()[anchor].tolist(), rel=1e-4
    )


def test_candidates_are_ranked(data: dict[str, Any], trace: ImageTrace):
    stages = trace.trace
    assert stages is not None
    metrics = [t for *_, t in data["candidates"]]
    assert metrics == sorted(metrics, reverse=True)
    assert len(metrics) == int(stages.candidates[data["truth"]].sum())
    assert data["anchor"] in [row[0] for row in data["candidates"][:10]]
    for _, s, u, t in data["candidates"][:10]:
        assert t == pytest.approx(s**0.5 * u**6, rel=1e-3)


def test_the_loss_adds_up(data: dict[str, Any], recorded: RecordedTraining):
    batch = recorded.batches[2]
    every = torch.zeros(3, dtype=torch.float64)
    for image in range(batch.images):
        facts = ImageTrace.of(batch, image, NEWEST).facts(range(1008))
        every += torch.tensor(
            [anchor["loss"] for anchor in facts["anchors"].values()], dtype=torch.float64
        ).sum(0)
    items = torch.tensor([facts["items"][name] for name in ("box", "cls", "dfl")], dtype=torch.float64)
    torch.testing.assert_close(every, items, rtol=1e-3, atol=1e-4)
    parts = torch.tensor([*data["loss"]["truths"], data["loss"]["background"]]).sum(0)
    assert (parts > 0).all()
    assert (parts.double() < items).all()


def test_conflicts_go_to_the_largest_overlap(data: dict[str, Any]):
    for row in data["conflict"]["anchors"]:
        assert len(row["overlaps"]) > 1
        best = max(u for _, u in row["overlaps"])
        assert dict(row["overlaps"]).get(row["owner"], best) == best
    assert max(count for _, count in data["conflict"]["counts"]) == len(data["conflict"]["anchors"])


def test_the_photograph_is_a_small_jpeg(data: dict[str, Any]):
    content = base64.b64decode(data["photo"].partition(",")[2])
    assert content.startswith(b"\xff\xd8")
    assert len(content) < 60_000


@pytest.mark.parametrize(
    ("box", "stride", "shapes"),
    [
        ((0, 0, 16, 30), 8, 3),  # 16 x 30: within a factor of 4 of all three anchor boxes
        ((0, 0, 100, 100), 8, 0),  # 100 / 23 = 4.3 is above 4
        ((0, 0, 90, 90), 8, 1),  # only the anchor box of 33 x 23 fits
        ((0, 0, 10, 13), 32, 0),
        ((0, 0, 0, 10), 8, 0),
        ((0, 0, 116, 90), 32, 3),
    ],
)
def test_which_anchor_boxes_fit(box: tuple[int, ...], stride: int, shapes: int):
    assert fitting(box, stride) == shapes


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((0, 0, 16, 16), {(1, 1), (0, 1), (1, 0)}),  # centre (8, 8) is the corner: left and up
        ((8, 8, 18, 18), {(1, 1), (2, 1), (1, 2)}),  # centre (13, 13) is past the middle: right and down
        ((0, 0, 4, 4), {(0, 0)}),  # both neighbours lie outside
        ((26, 26, 32, 32), {(3, 3)}),
    ],
)
def test_the_cell_and_its_two_neighbours(box: tuple[int, ...], cells: set[tuple[int, int]]):
    assert set(static_cells(box, 8, 4, 4)) == cells


def test_static_choice_does_not_look_at_predictions(recorded: RecordedTraining, data: dict[str, Any]):
    early = ImageTrace.of(recorded.batches[0], data["picture"]["image"], NEWEST)
    assert static_choice(early) == data["static"]
    assert data["moments"][0]["positives"] != data["moments"][1]["positives"]
