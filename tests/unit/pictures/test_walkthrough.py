"""What the walkthrough tells of a photograph: the reference's numbers, and YOLOv5's choice by its rules."""

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
    """Seven steps: the first and the last of them are fed with the same images."""
    return recorded_training(Schedule(steps=7, recorded=(0, 1, 6)))


@pytest.fixture(scope="module")
def told(recorded: RecordedTraining) -> dict[str, Any]:
    return walkthrough(recorded)


@pytest.fixture(scope="module")
def explained(recorded: RecordedTraining, told: dict[str, Any]) -> ImageTrace:
    return ImageTrace.of(recorded.batches[2], told["picture"]["image"], NEWEST)


def test_the_report_can_draw_it(recorded: RecordedTraining, tmp_path: Path):
    write_walkthrough(tmp_path, recorded)
    found, wrong = read_walkthrough(tmp_path)
    assert wrong is None
    assert found is not None
    assert len(found.steps) == 10


def test_it_follows_the_schemas(told: dict[str, Any]):
    assert fault(json.loads(json.dumps(told)), "walkthrough") is None
    assert fault(json.loads(json.dumps(told["picture"])), "log", "picture") is None


def test_the_moments_are_fed_with_the_same_images(recorded: RecordedTraining, told: dict[str, Any]):
    assert [moment.step for moment in moments(recorded)] == [0, 6]
    assert [moment["step"] for moment in told["moments"]] == [0, 6]
    first, last = (recorded.batches[moment.place] for moment in moments(recorded))
    torch.testing.assert_close(first.annotations, last.annotations, rtol=0, atol=0)


def test_decode(told: dict[str, Any], explained: ImageTrace):
    decode, anchor = told["decode"], told["anchor"]
    expected = [sum(k * share for k, share in enumerate(side)) for side in decode["shares"]]
    assert decode["distances"] == pytest.approx(expected, abs=1e-3)
    x, y = decode["centre"]
    left, top, right, bottom = decode["distances"]
    assert decode["box"] == pytest.approx([x - left, y - top, x + right, y + bottom], rel=1e-4)
    assert [edge * decode["stride"] for edge in decode["box"]] == pytest.approx(
        explained.boxes()[anchor].tolist(), rel=1e-4
    )


def test_candidates_are_ranked(told: dict[str, Any], explained: ImageTrace):
    trace = explained.trace
    assert trace is not None
    metrics = [t for *_, t in told["candidates"]]
    assert metrics == sorted(metrics, reverse=True)
    assert len(metrics) == int(trace.candidates[told["truth"]].sum())
    assert told["anchor"] in [row[0] for row in told["candidates"][:10]]
    for _, s, u, t in told["candidates"][:10]:
        assert t == pytest.approx(s**0.5 * u**6, rel=1e-3)


def test_the_loss_adds_up(told: dict[str, Any], recorded: RecordedTraining):
    batch = recorded.batches[2]
    every = torch.zeros(3, dtype=torch.float64)
    for image in range(batch.images):
        facts = ImageTrace.of(batch, image, NEWEST).facts(range(1008))
        every += torch.tensor(
            [anchor["loss"] for anchor in facts["anchors"].values()], dtype=torch.float64
        ).sum(0)
    items = torch.tensor([facts["items"][name] for name in ("box", "cls", "dfl")], dtype=torch.float64)
    torch.testing.assert_close(every, items, rtol=1e-3, atol=1e-4)
    parts = torch.tensor([*told["loss"]["truths"], told["loss"]["background"]]).sum(0)
    assert (parts > 0).all()
    assert (parts.double() < items).all()


def test_conflicts_go_to_the_largest_overlap(told: dict[str, Any]):
    for row in told["conflict"]["anchors"]:
        assert len(row["overlaps"]) > 1
        best = max(u for _, u in row["overlaps"])
        assert dict(row["overlaps"]).get(row["owner"], best) == best
    assert max(count for _, count in told["conflict"]["counts"]) == len(told["conflict"]["anchors"])


def test_the_photograph_is_a_small_jpeg(told: dict[str, Any]):
    content = base64.b64decode(told["photo"].partition(",")[2])
    assert content.startswith(b"\xff\xd8")
    assert len(content) < 60_000


@pytest.mark.parametrize(
    ("box", "stride", "shapes"),
    [
        ((0, 0, 16, 30), 8, 3),  # 16 x 30: within 4 times of all three
        ((0, 0, 100, 100), 8, 0),  # 100 / 23 is 4.3
        ((0, 0, 90, 90), 8, 1),  # 33 x 23 alone
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


def test_static_choice_does_not_look_at_predictions(recorded: RecordedTraining, told: dict[str, Any]):
    early = ImageTrace.of(recorded.batches[0], told["picture"]["image"], NEWEST)
    assert static_choice(early) == told["static"]
    assert told["moments"][0]["positives"] != told["moments"][1]["positives"]
