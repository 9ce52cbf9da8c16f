"""Tests of the stages "candidates" to "top-k" (TAL-CAND, TAL-IOU, TAL-MET, TAL-TOPK) on four anchors in a row."""

import pytest
import torch
from tests.reference.four_anchors import (
    AWAY,
    FIRST,
    HALF_OVER,
    WIDE,
    Corners,
    candidates,
    near,
    run,
    same_box,
    taken,
    truths,
)

from tal_reference import (
    ARTICLE,
    NEWEST,
    Dialect,
)
from tal_reference.assignment import (
    top_k,
    widened,
)

# --- candidates


def test_centres_inside_are_candidates():
    """TAL-CAND-1: a candidate's centre lies inside all four sides; boxes above or below have no candidates."""
    assert candidates((0, 0, 16, 8), (0, 0, 32, 8), (9, 0, 27, 8), (0, 8, 32, 16), (0, -8, 32, 0)) == [
        [0, 1],
        [0, 1, 2, 3],
        [1, 2],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((4, 0, 20, 8), [1]),  # left edge on anchor 0, right edge on anchor 2
        ((3.984375, 0, 20, 8), [0, 1]),
        ((4, 0, 20.015625, 8), [1, 2]),
        ((0, 4, 32, 12), []),  # top edge on all
        ((0, 3.984375, 32, 12), [0, 1, 2, 3]),
        ((0, -4, 32, 4), []),  # bottom edge on all
        ((0, -4, 32, 4.015625), [0, 1, 2, 3]),
    ],
)
def test_a_centre_on_an_edge_is_outside(box: Corners, inside: list[int]):
    """TAL-CAND-1: a centre on an edge is outside; it is inside if the box is 1/64 pixel larger."""
    assert candidates(box) == [inside]


def test_inside_means_by_more_than_a_billionth_of_a_pixel():
    """TAL-CAND-1: a centre 2e-9 px inside the left edge is a candidate.

    Centres 1e-9 and 0.5e-9 px inside the edge are not candidates.
    """
    centres = torch.tensor([[1e-9, 4], [2e-9, 4], [5e-10, 4]], dtype=torch.float64)
    assert candidates((0, 0, 16, 16), centres=centres) == [[1]]


@pytest.mark.parametrize(
    ("strides", "dialect", "inside"),
    [
        # from x = 5 to 11, none inside; widened to 16: from 0 to 16; to 10: from 3 to 13; to 8: from 4 to 12
        ((8, 16), NEWEST, [0, 1]),
        ((8, 16, 32), NEWEST, [0, 1]),
        ((8,), NEWEST, []),  # one level: widened to 8, both centres on the edges
        ((10,), NEWEST, [0, 1]),
        ((4, 10), NEWEST, [0, 1]),
        ((8, 16), FIRST, [0, 1]),
        ((8,), FIRST, []),
        ((6, 16), FIRST, []),  # 6 is not below 6
        ((8, 16), ARTICLE, []),
    ],
)
def test_a_small_box_is_widened_to_the_floor(strides: tuple[int, ...], dialect: Dialect, inside: list[int]):
    """TAL-CAND-2: the candidates of a small box depend on the dialect and the strides."""
    assert candidates((5, 0, 11, 16), strides=strides, dialect=dialect) == [inside]


@pytest.mark.parametrize(
    ("dialect", "width", "inside"),
    [
        (NEWEST, 4, [0, 1]),
        (NEWEST, 8, [0, 1]),
        (NEWEST, 15, [0, 1]),
        (NEWEST, 16, [0, 1]),
        (FIRST, 7.9375, [0, 1]),
        (
            FIRST,
            8,
            [],
        ),  # from 4 to 12, with centres on the edges: the side is not below 8, so that it is not widened
        (FIRST, 7, [0, 1]),
        (ARTICLE, 7, []),
        (ARTICLE, 9, [0, 1]),
    ],
)
def test_where_the_dialects_differ(dialect: Dialect, width: float, inside: list[int]):
    """TAL-CAND-2: the newest dialect widens sides below 16 px, the older dialect below 8 px, the article's never."""
    assert candidates((8 - width / 2, 0, 8 + width / 2, 16), strides=(8, 16), dialect=dialect) == [inside]


def test_only_the_short_side_is_widened():
    """TAL-CAND-2: width and height are widened separately, each about the middle of its side."""
    boxes = torch.tensor([[5.0, -20, 11, 20], [-20, 3, 20, 5], [1, 2, 3, 4], [0, 0, 16, 16]])
    assert widened(boxes, (16, 16)).tolist() == [
        [0, -20, 16, 20],
        [-20, -4, 20, 12],
        [-6, -5, 10, 11],
        [0, 0, 16, 16],
    ]


def test_a_point_may_have_candidates():
    """TAL-CAND-2: a box without area is widened like any other box."""
    assert candidates((8, 4, 8, 4), strides=(8, 16)) == [[0, 1]]


def test_a_box_that_is_not_real_is_not_widened():
    """TAL-CAND-2, ANN-3: a padding row (zeros) is not widened; otherwise anchor 0 would be a candidate."""
    assert candidates((0, 0, 0, 0), (-3, -1, 2, 2), (0, 0, 1, 1), strides=(8, 16)) == [[], [], [0]]


def test_the_target_box_is_not_widened():
    """TAL-TGT-1, TAL-MET-1: target box and overlap of a 4 x 8 px ground truth use the box before widening."""
    narrow: Corners = (2, 0, 6, 8)
    targets, trace = run(truths(narrow), [narrow, AWAY, AWAY, AWAY], [[0.25]] * 4, strides=(8, 16))
    assert taken(trace.candidates) == [[0]]  # x from -4 to 12: anchor 1 on the edge
    assert trace.overlap[0].tolist() == near(same_box(4, 8), 0, 0, 0)
    assert targets.boxes[0].tolist() == [2, 0, 6, 8]


# --- overlap and metric

SCORES = [[0.36, 0.25], [0.16, 0.04], [0.49, 0.81], [1.0, 1.0]]
TWO = truths((0, 0, 16, 8), (8, 0, 24, 8), labels=[1, 0])
BOXES: list[Corners] = [(0, 0, 16, 8), (8, 0, 24, 8), AWAY, (0, 0, 16, 8)]


def test_each_ground_truth_sees_the_score_of_its_own_class():
    """TAL-MET-1: the score s is the anchor's score of the ground truth's class; zero for non-candidates."""
    _, trace = run(TWO, BOXES, SCORES)
    assert trace.score.tolist() == [[0.25, 0.04, 0, 0], [0, 0.16, 0.49, 0]]


def test_the_overlap_is_ciou_on_candidates():
    """TAL-MET-1, IOU-3: overlap u is CIoU in pixels; 0 if negative (anchor 2) and for non-candidates (anchor 3)."""
    _, trace = run(TWO, BOXES, SCORES)
    assert trace.overlap[0].tolist() == near(same_box(16, 8), HALF_OVER, 0, 0)
    assert trace.overlap[1].tolist() == near(0, same_box(16, 8), 0, 0)


def test_the_metric_is_the_root_of_the_score_times_the_overlap_to_the_sixth():
    """TAL-MET-1: by default the alignment metric is t = s^(1/2) u^6, for score s and overlap u."""
    _, trace = run(TWO, BOXES, SCORES)
    assert trace.metric[0].tolist() == near(0.5 * same_box(16, 8) ** 6, 0.2 * HALF_OVER**6, 0, 0)
    assert trace.metric[1].tolist() == near(0, 0.4 * same_box(16, 8) ** 6, 0, 0)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 2.0), (2.0, 1.0)])
def test_other_exponents(alpha: float, beta: float):
    """TAL-MET-1: alpha is the exponent of the score, beta that of the overlap."""
    _, trace = run(TWO, BOXES, SCORES, alpha=alpha, beta=beta)
    expected = 0.25**alpha * float(same_box(16, 8)) ** beta, 0.04**alpha * float(HALF_OVER) ** beta
    assert trace.metric[0].tolist() == near(*expected, 0, 0)


# --- top-k


@pytest.mark.parametrize(("k", "selected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [0, 1, 2, 3])])
def test_the_k_best_are_selected(k: int, selected: list[int]):
    """TAL-TOPK-1: of four anchors with equal boxes and scores 0.1, 0.9, 0.5, 0.3, the k highest scores are selected."""
    targets, trace = run(truths(WIDE), [WIDE] * 4, [[0.1], [0.9], [0.5], [0.3]], topk=k)
    assert taken(trace.selected) == [selected]
    assert targets.foreground.nonzero().flatten().tolist() == selected


def test_fewer_candidates_than_k():
    """TAL-TOPK-1: of the k = 3 largest metrics, only the two candidates are selected; the third is not replaced."""
    _, trace = run(truths((0, 0, 16, 8)), [(0, 0, 16, 8)] * 4, [[0.5]] * 4, topk=3)
    assert taken(trace.selected) == [[0, 1]]


def test_only_candidates_are_selected_even_if_k_takes_all_anchors():
    """TAL-TOPK-1: if k is the number of anchors, exactly the candidates are selected, even those with metric t = 0."""
    _, trace = run(truths((0, 0, 16, 8)), [(0, 0, 16, 8), AWAY, AWAY, AWAY], [[0.5]] * 4, topk=4)
    assert trace.metric[0, 1:].tolist() == [0, 0, 0]
    assert taken(trace.selected) == [[0, 1]]


def test_a_ground_truth_without_candidates_selects_nothing():
    """TAL-TOPK-1: a ground truth between two anchor centres, or outside the grid, selects no anchor."""
    targets, trace = run(truths((4, 0, 12, 8), (40, 0, 60, 8)), [WIDE] * 4, [[0.5, 0.5]] * 4)
    assert taken(trace.selected) == [[], []]
    assert not targets.foreground.any()


def test_zeros_compete_with_all_other_zeros():
    """TAL-TOPK-1: each of four ground truths has one candidate, and every metric t is 0.

    With k = 1 each ground truth selects one of its four zeros. The rows of zeros are equal, so that all ground truths
    select the same anchor (any anchor, by ambiguity T1). This anchor is a candidate of only one ground truth.
    """
    each = [(8.0 * i, 0.0, 8.0 * i + 8, 8.0) for i in range(4)]
    targets, trace = run(truths(*each), [AWAY] * 4, [[0.5] * 4] * 4, topk=1)
    assert trace.candidates.sum(1).tolist() == [1, 1, 1, 1]
    assert trace.selected.sum() == 1
    assert targets.weights.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_takes_exactly_k(k: int):
    """TAL-TOPK-1: exactly k different anchors are selected, even if metrics are equal."""
    metric = torch.tensor([[0.0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0.5, 0, 0.5, 0]])
    assert top_k(metric, k).sum(1).tolist() == [k, k, k]


def test_fewer_anchors_than_k_are_rejected():
    """TAL-TOPK-2: fewer anchors than k are an error; the message contains both numbers."""
    with pytest.raises(ValueError, match="cannot select k = 5 of 4 anchors"):
        run(truths(WIDE), [WIDE] * 4, [[0.5]] * 4, topk=5)
