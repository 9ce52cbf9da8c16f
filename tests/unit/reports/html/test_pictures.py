"""Pictures of batches, drawn from the numbers in a run log."""

import math
from itertools import pairwise

import pytest
from tests.common.run_logs import picture

from tal_reports.html.drawing import Drawing
from tal_reports.html.explanations import place
from tal_reports.html.pictures import MAX_DISC, MAX_WIDTH, draw
from tal_reports.log.schemas import fault

LEVELS = [{"stride": 8, "rows": 2, "columns": 3}, {"stride": 16, "rows": 1, "columns": 2}]


def kinds(drawing: Drawing) -> dict[str, int]:
    return {kind: count for kind, _, _, count in drawing.legend}


@pytest.mark.parametrize(
    ("number", "where"),
    [
        (0, (4, 4, 8, 0, 0)),
        (2, (20, 4, 8, 2, 0)),
        (3, (4, 12, 8, 0, 1)),
        (5, (20, 12, 8, 2, 1)),
        (6, (8, 8, 16, 0, 0)),
        (7, (24, 8, 16, 1, 0)),
        (8, None),
        (10**9, None),
    ],
)
def test_anchors_are_numbered_row_by_row_and_level_by_level(number: int, where: tuple | None):
    assert place(picture(levels=LEVELS), number) == where


def test_every_anchor_has_its_dot():
    fine, coarse = draw(picture(levels=LEVELS)).levels
    assert (fine.stride, fine.width, fine.height) == (8, 24, 16)  # 3 x 2 cells
    assert (coarse.stride, coarse.width, coarse.height) == (16, 32, 16)
    assert coarse.radius > fine.radius


def test_each_kind_of_difference():
    drawing = draw(picture())
    assert kinds(drawing) == {"missing": 1, "extra": 1, "owner": 1, "weight": 1, "same": 3}
    marks = {mark.kind: mark for mark in drawing.marks if mark.kind != "same"}
    assert (marks["missing"].reference, marks["missing"].implementation) == (1, None)
    assert (marks["extra"].reference, marks["extra"].implementation) == (None, 1)
    assert (marks["owner"].reference, marks["owner"].implementation) == (1, 0)
    expected = (
        "anchor 6 (stride 8, column 2, row 1): reference GT 1 weight 0.7, implementation GT 0 weight 0.7"
    )
    assert marks["owner"].title == expected
    assert (marks["owner"].x, marks["owner"].y) == (20, 12)
    assert [view.key for view in drawing.views] == ["difference", "reference", "implementation"]
    assert [ring.title.partition(":")[0] for ring in drawing.rings] == [
        "anchor 6 (stride 8, column 2, row 1)"
    ]


def test_the_gravest_marks_are_drawn_last():
    order = ["same", "weight", "owner", "extra", "missing"]
    places = [order.index(mark.kind) for mark in draw(picture()).marks]
    assert places == sorted(places)


def test_without_an_assignment_there_is_one_view():
    drawing = draw(picture(implementation=None))
    assert [view.key for view in drawing.views] == ["reference"]
    assert drawing.legend == []
    assert len(drawing.marks) == 6
    assert "The implementation does not expose its assignment." in drawing.notes


def test_the_same_assignment_says_so():
    drawing = draw(picture(implementation=picture()["reference"]))
    assert set(kinds(drawing)) == {"same"}
    assert drawing.views[0].caption == "Both assign the same anchors, with the same weights."


def test_weights_are_compared_to_four_digits():
    same = [[0, 0, 0.41000001]]
    other = [[0, 0, 0.4101]]
    assert set(kinds(draw(picture(reference=[[0, 0, 0.41]], implementation=same)))) == {"same"}
    assert set(kinds(draw(picture(reference=[[0, 0, 0.41]], implementation=other)))) == {"weight"}
    assert set(kinds(draw(picture(reference=[[0, 0, "nan"]], implementation=[[0, 0, None]])))) == {"weight"}


def test_a_weight_in_focus_differs_however_small_the_difference():
    weights = {"reference": [[0, 0, 0.661496]], "implementation": [[0, 0, 0.661472]]}
    assert set(kinds(draw(picture(**weights, focus=[])))) == {"same"}
    drawing = draw(picture(**weights, focus=[0]))
    assert set(kinds(drawing)) == {"weight"}
    assert drawing.views[0].caption == "Differences between the two:"


def test_the_title_of_an_anchor_has_the_text_of_the_log():
    drawing = draw(picture(titles={"6": "t 0.4, rank 2 of GT 1"}))
    assert any("row 1), t 0.4, rank 2 of GT 1: reference" in mark.title for mark in drawing.marks)


def test_ground_truths_outside_are_drawn_and_dropped_ones_marked():
    truths = [
        {"box": [-10, -8, 12, 12], "label": 3, "real": True},
        {"box": [-9, -9, 4, 4], "label": 0, "real": False},
    ]
    drawing = draw(picture(truths=truths, reference=[], implementation=[]))
    assert drawing.box[0] < -10
    assert drawing.box[1] < -8
    assert {(truth.name, truth.real) for truth in drawing.truths} == {("GT 0", True), ("GT 1 dropped", False)}
    assert drawing.views[1].caption == "No positive: all anchors are background."


def test_names_of_identical_boxes_stand_beside_each_other():
    truths = [{"box": [2, 8, 20, 20], "label": label} for label in range(4)]
    tags = sorted(truth.tag for truth in draw(picture(truths=truths)).truths)
    assert all(left[0] + left[2] <= right[0] + 1e-9 for left, right in pairwise(tags))


def test_small_boxes_are_drawn_over_large_ones():
    truths = [{"box": [4, 4, 6, 6]}, {"box": [0, 0, 32, 32]}]
    assert [truth.name for truth in draw(picture(truths=truths)).truths] == ["GT 1", "GT 0"]


def large(**fields: object) -> dict:
    levels = [{"stride": s, "rows": 640 // s, "columns": 640 // s} for s in (8, 16, 32)]
    truths = [{"box": [40 * n, 300, 40 * n + 30, 330], "label": n} for n in range(15)]
    return picture(width=640, height=640, levels=levels, truths=truths) | fields


def test_a_large_image_is_cropped_to_its_important_part():
    positives = [[80 * 39 + 41, 8, 0.5]]  # at (332, 316)
    drawing = draw(large(reference=positives, implementation=[], focus=[80 * 39 + 41]))
    x, y, width, height = drawing.box
    assert width < 320
    assert x < 320
    assert y < 300
    assert x + width > 350
    assert y + height > 330
    assert any(note.startswith("Cropped to") for note in drawing.notes)
    assert [truth.name for truth in drawing.truths if truth.name] == ["GT 8"]


def test_a_small_image_is_never_cropped():
    drawing = draw(
        picture(truths=[{"box": [0, 0, 8, 8]}], reference=[[0, 0, 1]], implementation=[], focus=[0])
    )
    assert drawing.box[2] > 32
    assert not drawing.notes


@pytest.mark.parametrize(
    "drawn", [picture(), large(), picture(levels=LEVELS, width=24, height=16), picture(width=3000, height=8)]
)
def test_everything_has_a_legible_size(drawn: dict):
    drawing = draw(drawn)
    assert 1 <= drawing.display_size[0] <= MAX_WIDTH
    assert 1 <= drawing.display_size[1] <= MAX_WIDTH
    assert all(mark.radius <= MAX_DISC * drawing.unit * 1.0001 for mark in drawing.marks)
    assert drawing.box[2] / drawing.display_size[0] == pytest.approx(drawing.unit)


def test_anchors_that_do_not_exist_are_left_out():
    drawing = draw(picture(reference=[[99, 0, 1]], implementation=[[3, 77, 1]], focus=[1000]))
    assert [mark.implementation for mark in drawing.marks] == [77]
    assert drawing.rings == []


EXTREMES = [
    picture(levels=[]),
    picture(levels=[{"stride": 1e9, "rows": 10**6, "columns": 10**6}]),
    picture(levels=[{"stride": 1e-3, "rows": 0, "columns": 5}, {"stride": 8, "rows": 3, "columns": 0}]),
    picture(width=1e-3, height=1e9),
    picture(width=1e9, height=1e-3),
    picture(truths=[{"box": [1e9, 1e9, -1e9, -1e9], "label": None}]),
    picture(truths=[], reference=[], implementation=[], focus=[]),
    picture(truths=[{"box": [0, 0, 0, 0], "label": -5}] * 1000),
    picture(reference=[[0, 0, "inf"]] * 5000, implementation=[[n % 16, n, None] for n in range(5000)]),
    picture(focus=list(range(9000)), levels=[{"stride": 1, "rows": 100, "columns": 100}]),
]


@pytest.mark.parametrize("drawn", EXTREMES, ids=range(len(EXTREMES)))
def test_every_valid_picture_can_be_drawn(drawn: dict):
    assert fault(drawn, "log", "picture") is None
    drawing = draw(drawn)
    assert len(drawing.marks) <= 500
    assert len(drawing.truths) <= 300
    assert all(math.isfinite(value) for value in (*drawing.box, drawing.unit))
