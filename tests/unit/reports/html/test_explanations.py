"""Explanations of an anchor's assignment in words, computed from the values that a picture stores."""

from typing import Any

import pytest
from tests.common.run_logs import anchor, large_picture, picture

from tal_reports.html.explanations import anchor_lines, place, short_line, truth_lines
from tal_reports.log.schemas import fault


def text(number: int, **fields: Any) -> str:
    return "\n".join(anchor_lines(picture(**fields), number))


def explanation_of(pairs: Any, **fields: Any) -> str:
    """Return the explanation of anchor 6, given a row of values for each ground truth (`pairs`)."""
    return text(6, anchors={"6": anchor(pairs)}, **fields)


def test_a_contested_anchor():
    words = text(6)
    assert words.splitlines() == [
        "Anchor 6 of image 0: stride 8, column 2, row 1, centre (20, 12); it predicts (9.5, 2.5)-(30, 28).",
        (
            "Candidate of GT 1 (class 1): score s 0.7, overlap u 0.64, metric t 0.05, rank 2 by t; fewer "
            "than k = 10 "
            "anchors have t above 0 for GT 1: selected (TAL-TOPK-1)."
        ),
        (
            "Candidate of GT 0 (class 0): score s 0.61, overlap u 0.41, metric t 0.004, rank 4 by t; fewer "
            "than k = 10 "
            "anchors have t above 0 for GT 0: selected (TAL-TOPK-1)."
        ),
        (
            "Selected by GT 0 and GT 1: contested. GT 1 overlaps it most, u 0.64, 0.23 more than GT 0, and "
            "wins "
            "(TAL-CONF-1)."
        ),
        "Assigned to GT 1 with weight 0.7 = t 0.05 × u* 0.9 / (t* 0.4 + 1e-9) (TAL-NORM-1).",
        "It adds to the batch's loss: box 0.5 (40 % of it), cls 0.2 (10 % of it), dfl 0.05 (10 % of it).",
        "The implementation differs: GT 0 with weight 0.7.",
    ]


def test_an_anchor_in_no_ground_truth():
    assert "Its centre lies in no ground truth (TAL-CAND-1); the nearest is GT 1, 1.5 px away." in text(15)
    assert "Background: no ground truth selected it," in text(15)
    assert "The implementation: also background." in text(15)


@pytest.mark.parametrize("pixels", [0.0, -0.0])
def test_an_anchor_on_a_border(pixels: float):
    anchors = {"15": anchor([], outside=[1, pixels])}
    assert "Its centre lies in no ground truth, but on the border of GT 1" in text(15, anchors=anchors)
    assert "px away" not in text(15, anchors=anchors)


def test_an_image_without_ground_truths():
    words = explanation_of([], truths=[], facts=[], reference=[], implementation=None)
    assert "The image has no ground truth (TAL-EMPTY-1)." in words
    assert "implementation" not in words


@pytest.mark.parametrize(
    ("rank", "metric", "equal", "selected", "expected"),
    [
        (3, 0.05, 0, 1, "t is 0.04 above the 10th place's 0.01: selected"),
        (12, 0.004, 0, 0, "t is 0.006 below the 10th place's 0.01: not selected"),
        (10, 0.01, 0, 1, "it has the 10th place, the last one to be selected: selected"),
        (
            9,
            0.01,
            3,
            0,
            "3 other anchors with the same t at the 10th place: which of them is selected is not defined (T1)",
        ),
    ],
)
def test_the_gap_to_the_kth_place(rank: Any, metric: Any, equal: Any, selected: Any, expected: str):
    facts = [{"candidates": 40, "kth": 0.01}] * 2
    assert expected in explanation_of([[0, 0.5, 0.5, metric, rank, equal, selected]], facts=facts)


def test_zeros_compete():
    words = explanation_of([[0, 0.5, 0.0, 0.0, 5, 11, 0]])
    assert "the 10th place has t 0 as well, and which anchors with t 0 fill it is not defined (T1)" in words


def test_a_ground_truth_owns_an_anchor_that_it_did_not_select():
    pairs = [[1, 0.7, 0.3, 0.05, 2, 0, 1], [0, 0.6, 0.2, 0.004, 4, 0, 1], [2, 0.1, 0.9, 0.0, 30, 0, 0]]
    words = explanation_of(pairs, reference=[[6, 2, 0.1]])
    assert (
        "GT 2 overlaps it most, u 0.9, 0.6 more than GT 1, and wins, although it did not select it" in words
    )


def test_equal_and_no_overlaps():
    tie = [[1, 0.7, 0.4, 0.05, 2, 0, 1], [0, 0.6, 0.4, 0.004, 4, 0, 1]]
    assert "overlap it equally, and which of them owns it is not defined (T2): here GT 1." in explanation_of(
        tie
    )
    zeros = [[1, 0.7, 0.0, 0.0, 2, 0, 1], [0, 0.6, 0.0, 0.0, 4, 0, 1]]
    assert "with overlap 0: the image's first ground truth owns it (TAL-CONF-1)" in explanation_of(zeros)


def test_topk2_drops():
    words = explanation_of([[0, 0.5, 0.5, 0.01, 3, 0, 1]], kept=1, reference=[])
    assert "Its ground truth keeps the best topk2 = 1 of its anchors, not this one (TAL-CONF-2)" in words


def test_a_widened_ground_truth():
    facts = [{"candidates": 4, "kth": 0.0, "widened": [1, 2, 17, 18]}]
    assert "GT 0 (class 0), widened to (1, 2)-(17, 18) (TAL-CAND-2): score" in explanation_of(
        [[0, 0.5, 0.5, 0.01, 3, 0, 1]], facts=facts
    )


def test_a_differing_implementation():
    assert "The implementation: GT 0 with weight 0.85." in text(5)
    assert "The implementation differs: background." in text(5, implementation=[])


def test_a_ground_truth():
    lines = truth_lines(picture(), 1)
    assert lines == [
        "GT 1 (class 1) of image 0: (10, 3)-(31, 29).",
        (
            "6 candidates (TAL-CAND-1), fewer than k = 10 of them with t above 0: these are selected, and "
            "anchors with t 0 fill up (T1) (TAL-TOPK-1):"
        ),
        "     2. anchor 6 (stride 8, column 2, row 1): s 0.7, u 0.64, t 0.05: weight 0.7",
        "3 positives in the end: best t* 0.4, best u* 0.9 (TAL-NORM-1).",
    ]
    assert (
        "     4. anchor 6 (stride 8, column 2, row 1): s 0.61, u 0.41, t 0.004: "
        "lost to GT 1, whose u is 0.64 (TAL-CONF-1)" in truth_lines(picture(), 0)
    )


def test_a_dropped_ground_truth():
    dropped = {"box": [-9.0, -9.0, -1.0, -1.0], "label": 0, "real": False}
    assert truth_lines(picture(truths=[dropped]), 0) == [
        (
            "GT 0 (class 0) of image 0: (-9, -9)-(-1, -1). The sum of its corner coordinates is not above 0: "
            "it is dropped (ANN-3)."
        )
    ]


def test_a_picture_without_numbers_of_an_anchor():
    assert anchor_lines(picture(), 3) == []
    assert anchor_lines(picture(anchors={"99": anchor([])}), 99) == []
    old = picture()
    for key in ("k", "kept", "items", "facts", "anchors"):
        del old[key]
    assert anchor_lines(old, 6) == []
    assert "of image 0" in truth_lines(old, 0)[0]


def test_non_finite_numbers():
    pairs = [[0, "nan", "inf", None, 3, 0, 1]]
    words = "\n".join(
        anchor_lines(picture(anchors={"6": anchor(pairs, box=["nan"] * 4, loss=["nan", None, "inf"])}), 6)
    )
    assert "score s nan, overlap u inf" in words
    assert "cls" not in words


def test_the_short_line():
    assert short_line(picture(), 6) == (
        "GT 1: s 0.7, u 0.64, t 0.05, rank 2; GT 0: s 0.61, u 0.41, t 0.004, rank 4"
    )
    assert short_line(picture(), 15) == "in no ground truth"


@pytest.mark.parametrize("drawn", [picture(), large_picture()])
def test_these_pictures_follow_the_schema(drawn: Any):
    assert fault(drawn, "log", "picture") is None


@pytest.mark.parametrize(
    "anchors",
    [
        {"x": anchor([])},
        {"6": anchor([[0, 0.5, 0.5, 0.01, 3, 0]])},
        {"6": anchor([["<b>", 0.5, 0.5, 0.01, 3, 0, 1]])},
        {"6": {"box": [1, 2, 3, 4], "pairs": []}},
        {"6": anchor([], loss=["<b>", 0, 0])},
    ],
)
def test_pictures_that_the_schema_rejects(anchors: dict[str, Any]):
    assert fault(picture(anchors=anchors), "log", "picture") is not None


def test_places_level_by_level():
    drawn = large_picture()
    assert place(drawn, 6399)[:3] == (636.0, 636.0, 8)
    assert place(drawn, 6400)[:3] == (8.0, 8.0, 16)
    assert place(drawn, 8400) is None


def test_an_overlap_that_was_clamped_is_shown():
    values = picture()
    values["anchors"]["6"]["unclamped"] = [-0.25 for _ in values["anchors"]["6"]["pairs"]]
    (line,) = [line for line in truth_lines(values, 1) if "anchor 6 " in line]
    assert "u 0.64 (-0.25 before the clamp), t" in line
