"""The report's walkthrough (assigner and loss on one photograph), drawn from walkthrough.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory
from tests.common.run_logs import HOSTILE, walkthrough

from tal_reports import render
from tal_reports.html.walkthrough import NAME, Step, read_walkthrough, walk
from tal_reports.log.schemas import fault


def steps(**fields: Any) -> dict[str, Step]:
    return {step.id: step for step in walk(walkthrough(**fields)).steps}


def text(step: Step) -> str:
    return " ".join(step.text)


def test_the_numbers_follow_the_schema():
    assert fault(walkthrough(), "walkthrough") is None
    assert fault(walkthrough()["picture"], "log", "picture") is None


def test_every_stage_stands_beside_its_clauses():
    facts = [(step.id, step.clauses) for step in walk(walkthrough()).steps]
    assert facts == [
        ("image", "ANN-1, ANC-1"),
        ("decode", "DEC-1, DEC-2"),
        ("candidates", "TAL-CAND-1"),
        ("metric", "TAL-MET-1"),
        ("top-k", "TAL-TOPK-1"),
        ("conflict", "TAL-CONF-1"),
        ("targets", "TAL-TGT-1"),
        ("weights", "TAL-NORM-1"),
        ("loss", "LOSS-SUM-1, LOSS-CLS-1, LOSS-BOX-1, LOSS-DFL-1, LOSS-GAIN-1"),
        ("static", ""),
    ]


def test_decode():
    step = steps()["decode"]
    assert "(2.5 − 0.75, 2.5 − 0.75) to (2.5 + 0.75, 2.5 + 0.75); times the stride, 8" in text(step)
    assert [chart.caption.partition(":")[0] for chart in step.bars] == ["left", "top", "right", "bottom"]
    assert [height for height, *_ in step.bars[0].heights] == [1.0, 0.5, 0.5, 0.0]
    assert step.bars[0].mark == 0.25
    (predicted,) = [shape for shape in step.scenes[0].shapes if shape.kind == "predicted"]
    assert predicted.numbers == [14.0, 14.0, 12.0, 12.0]
    assert sum(shape.kind == "line" for shape in step.scenes[0].shapes) == 4


def test_candidates_and_metric():
    facts = steps()
    assert "4 candidates, 4 at stride 8" in text(facts["candidates"])
    assert [scene.caption for scene in facts["metric"].scenes] == [
        "Area: score s of its class, up to 0.8",
        "Area: overlap u, up to 0.9",
        "Area: metric t, up to 0.4",
    ]
    radii = [shape.numbers[2] for shape in facts["metric"].scenes[2].shapes if shape.kind == "disc"]
    assert len(radii) == 3  # a metric t of 0 is not drawn
    assert (radii[1] / radii[0]) ** 2 == pytest.approx(0.05 / 0.4)


@pytest.mark.parametrize(
    ("k", "dark", "says"), [(2, 2, "the next one has 0.004"), (10, 4, "has only 4 candidates")]
)
def test_top_k(k: int, dark: int, says: str):
    drawn = factory.picture(implementation=None, k=k)
    step = steps(picture=drawn)["top-k"]
    assert says in text(step)
    assert [is_dark for _, is_dark, _ in step.bars[0].heights] == [True] * dark + [False] * (4 - dark)


def test_conflict():
    step = steps()["conflict"]
    assert "1 at step 0 and 0 at step 6. The picture has those of step 0." in text(step)
    assert step.rows == [["6", "GT 0 (cat): u 0.41 and GT 1 (dog): u 0.64", "GT 1 (dog)"]]
    none = steps(conflict={"step": 0, "anchors": [], "counts": [[0, 0]]})["conflict"]
    assert "no anchor was selected twice" in text(none)
    assert (none.scenes, none.rows) == ([], [])


def test_targets_weights_and_loss():
    facts = steps()
    assert "6 anchors of 16 are positive" in text(facts["targets"])
    assert "GT 0 (cat) has 3 and GT 1 (dog) has 3" in text(facts["targets"])
    assert facts["weights"].rows[0] == ["10", "0.8", "0.9", "0.4", "0.9"]
    assert facts["loss"].rows[-1] == ["this image", "0.5", "1.4", "0.9", "2.8"]
    assert "here 3.73" in text(facts["loss"])


def test_static():
    step = steps()["static"]
    assert [scene.caption for scene in step.scenes] == [
        "YOLOv5, at every step",
        "YOLOv8 at step 0",
        "YOLOv8 at step 6",
    ]
    assert step.rows == [["GT 0 (cat)", "4", "2", "1"], ["GT 1 (dog)", "3", "0", "1"]]
    assert "from 0.2 to 0.5; of 2 positives on this image 2 are the same" in text(step)
    assert "static" not in steps(static=None)


def test_a_run_without_a_walkthrough(tmp_path: Path):
    assert read_walkthrough(tmp_path) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": 2},
        {"truth": 2},
        {"anchor": 16},
        {"names": ["cat"]},
        {"candidates": [[99, 0.1, 0.1, 0.1]]},
        {"photo": "https://example.org/photo.jpg"},
        {"photo": "data:image/svg+xml;base64,AAAA"},
        {"photo": 'data:image/jpeg;base64,AA"><script>'},
        {
            "conflict": {
                "step": 0,
                "anchors": [{"anchor": 6, "overlaps": [[5, 0.4]], "owner": 1}],
                "counts": [],
            }
        },
        {"moments": [{"step": 0, "steps": 7, "overlap": 0.2, "score": 0.01, "positives": [[5, 9, 0.3]]}]},
        {"static": {"ratio": 4.0, "boxes": [], "cells": [[0, 1, 1, 1, 2]]}},
        {"picture": {"width": -1}},
        {"loss": {"truths": [[0, 0, 0]], "background": [0, 0, 0], "score_sum": 1}},
        {"candidates": [[5, 10**400, 0.1, 0.1], [6, 0.1, 0.1, 0.1]]},
        {"loss": {"truths": [[10**400, 0.5, 0], [0, 0, 0]], "background": [0.5, 0, 0], "score_sum": 1}},
    ],
)
def test_a_walkthrough_with_wrong_indices_is_reported_and_left_out(run_dir: Path, fields: dict[str, Any]):
    folder = factory.write(run_dir, factory.passing())
    (folder / NAME).write_text(json.dumps(walkthrough(**fields)))
    page = render(folder).read_text()
    assert 'id="walkthrough"' not in page
    assert NAME in page.split('class="notice"')[1].split("</ul>")[0]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b"\xff", b"[" * 100_000, b"{}"])
def test_an_unreadable_walkthrough_is_reported(tmp_path: Path, content: bytes):
    (tmp_path / NAME).write_bytes(content)
    found, wrong = read_walkthrough(tmp_path)
    assert found is None
    assert NAME in str(wrong)


def test_in_the_report(run_dir: Path):
    folder = factory.write(run_dir, factory.passing())
    (folder / NAME).write_text(json.dumps(walkthrough()))
    page = render(folder).read_text()
    # the photograph is stored once, and used by all figures
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count('href="#photo"') > 5
    assert page.count('class="fold step"') == 10
    assert '<a href="#walkthrough">Walkthrough</a>' in page


def test_names_are_escaped(run_dir: Path):
    folder = factory.write(run_dir, factory.passing())
    facts = walkthrough(names=[HOSTILE, HOSTILE], origin=HOSTILE, batch=HOSTILE)
    (folder / NAME).write_text(json.dumps(facts))
    page = render(folder).read_text()
    assert 'id="walkthrough"' in page
    assert "<script>alert" not in page
    assert "<img" not in page
