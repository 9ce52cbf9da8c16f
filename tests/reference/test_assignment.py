"""Tests of the stages "candidates" to "normalisation" (TAL-*) on one row of four anchors, computed by hand in float64.

The anchors 0 to 3 have 8 pixels each, from x = 0 to 32: their centres are at y = 4 and x = 4, 12, 20, 28.
"""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tal_reference import (
    ARTICLE,
    NEWEST,
    Dialect,
    GroundTruths,
    Hyperparameters,
    SmallBoxFloor,
    Targets,
    assign,
)
from tal_reference.assignment import (
    AssignmentTrace,
    candidates_of,
    normalised,
    settle_contested,
    top_k,
    widened,
)

Corners = tuple[float, float, float, float]

CENTRES = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [28.0, 4.0]], dtype=torch.float64)
AWAY: Corners = (1000, 1000, 1010, 1010)  # overlaps no ground truth: CIoU is below 0, so that u = 0
FIRST = Dialect("first", SmallBoxFloor.BELOW_FIRST_STRIDE)
EPS = Fraction(1, 10**7)
# No value here takes more than 64 float64 operations, each off by at most one rounding.
ROUNDINGS = 64 * 2**-53


def near(*values: float | Fraction) -> object:
    return pytest.approx([float(value) for value in values], rel=ROUNDINGS, abs=0)


def truths(*corners: Corners, labels: list[int] | None = None) -> GroundTruths:
    """Return ground truths with the given xyxy boxes in pixels.

    Ground truth number g has class g unless labels are given.
    """
    classes = list(range(len(corners))) if labels is None else labels
    boxes = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
    return GroundTruths(torch.tensor(classes, dtype=torch.long), boxes)


def run(
    found: GroundTruths,
    boxes: list[Corners],
    scores: list[list[float]],
    strides: tuple[int, ...] = (8,),
    dialect: Dialect = NEWEST,
    **numbers: float,
) -> tuple[Targets, AssignmentTrace]:
    """Assign anchors, with predicted boxes and class scores, to the ground truths `found`.

    Return the targets, and the trace of the intermediate values.
    """
    inputs = torch.tensor(scores, dtype=torch.float64), torch.tensor(boxes, dtype=torch.float64), CENTRES
    settings = Hyperparameters(**{"topk": 4} | numbers)  # type: ignore[arg-type]
    targets = assign(*inputs, found, strides, settings, dialect, keep_trace=True)
    assert targets.trace
    return targets, targets.trace


def candidates(
    *corners: Corners, strides: tuple[int, ...] = (8,), dialect: Dialect = NEWEST, centres: Tensor = CENTRES
) -> list[list[int]]:
    """Return the indices of each ground truth's candidate anchors."""
    inside = candidates_of(truths(*corners), centres, dialect.floor(strides))
    return [row.nonzero().flatten().tolist() for row in inside]


def taken(mask: Tensor) -> list[list[int]]:
    """Return the indices of the true elements in each row of a mask."""
    return [row.nonzero().flatten().tolist() for row in mask]


def same_box(width: int, height: int) -> Fraction:
    """Return the CIoU of a w x h box with itself.

    The value is w h / (2 w (h + e) - w h + e), where e is the eps of IOU-1.
    """
    return Fraction(width * height) / (width * height + (2 * width + 1) * EPS)


# CIoU of 16 x 8 boxes 8 pixels apart: inter 64, union 2 x 16 (8 + e) - 64 + e, rho^2 64, c^2 24^2 + 8^2 + e.
HALF_OVER = 64 / (192 + 33 * EPS) - 64 / (640 + EPS)


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

WIDE: Corners = (0, 0, 32, 8)  # contains all four anchors


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


# --- contested anchors


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_contested_anchor_goes_to_the_larger_overlap(order: tuple[int, int]):
    """TAL-CONF-1: the ground truth with the larger overlap (16 x 8) wins against the larger metric t (24 x 8)."""
    boxes: list[Corners] = [(0, 0, 16, 8), (0, 0, 24, 8)]
    found = truths(*(boxes[i] for i in order), labels=list(order))
    targets, trace = run(found, [boxes[0], AWAY, AWAY, AWAY], [[0.0001, 1.0]] * 4, topk=1)
    better, worse = order.index(0), order.index(1)
    assert trace.metric[better, 0] < trace.metric[worse, 0]
    assert taken(trace.selected) == [[0], [0]]
    assert (targets.truth_index[0], targets.labels[0]) == (better, 0)
    assert taken(trace.positives)[worse] == []


THIRD = truths((0, 0, 16, 8), (0, 0, 24, 8), WIDE)
PREFER_0_0_1 = [[0.81, 0.81, 0.01], [0.01, 0.01, 0.81], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_third_ground_truth_wins_an_anchor_that_it_did_not_select():
    """TAL-CONF-1: anchor 0, selected by ground truths 0 and 1, goes to ground truth 2, which overlaps it most."""
    targets, trace = run(THIRD, [WIDE] * 4, PREFER_0_0_1, topk=1)
    assert taken(trace.selected) == [[0], [0], [1]]
    assert taken(trace.positives) == [[], [], [0, 1]]
    assert targets.truth_index[:2].tolist() == [2, 2]


def test_an_anchor_that_is_not_contested_stays_where_it_is():
    """TAL-CONF-1: an anchor selected by one ground truth goes to it, even if another ground truth overlaps it more."""
    found = truths((0, 0, 16, 8), WIDE, labels=[0, 2])
    targets, trace = run(found, [WIDE] * 4, PREFER_0_0_1, topk=1)
    assert trace.overlap[1, 0] > trace.overlap[0, 0]
    assert taken(trace.positives) == [[0], [1]]
    assert targets.truth_index[:2].tolist() == [0, 1]


def test_an_overlap_off_candidates_does_not_count():
    """TAL-CONF-1: contested anchor 0 does not go to ground truth 2, whose box does not contain the anchor's centre."""
    beside: Corners = (16, 0, 32, 8)
    found = truths((0, 0, 16, 8), (0, 0, 24, 8), beside)
    targets, trace = run(found, [(8, 0, 32, 8), beside, AWAY, AWAY], [[0.5] * 3] * 4, topk=1)
    assert taken(trace.candidates)[2] == [2, 3]
    assert targets.truth_index[0] == 1


@pytest.mark.parametrize("first", [(16, 0, 32, 8), (400, 400, 500, 500), (-40, -40, 10, 10)])
def test_where_all_overlaps_are_zero_the_first_ground_truth_wins(first: Corners):
    """TAL-CONF-1: if all overlaps are zero, the first ground truth wins at any distance, even if not real (ANN-3).

    The other two ground truths select anchors 0 and 1. The winner is not defined (ambiguity T2): the test documents the
    choice of the reference and of official code. The anchor is a positive with target score 0.
    """
    found = truths(first, (0, 0, 16, 8), (0, 0, 16, 8), labels=[2, 0, 1])
    targets, trace = run(found, [AWAY] * 4, [[0.5] * 3] * 4)
    assert taken(trace.selected)[1:] == [[0, 1], [0, 1]]
    assert targets.foreground[:2].tolist() == [True, True]
    assert targets.truth_index[:2].tolist() == [0, 0]
    assert targets.labels[:2].tolist() == [2, 2]
    assert targets.scores(3).tolist() == [[0, 0, 0]] * 4


def test_every_anchor_has_one_owner_at_most():
    """TAL-CONF-1: anchors that 0, 1, 2 and 3 ground truths selected are assigned to at most one ground truth."""
    selected = torch.tensor(
        [[False, True, True, True], [False, False, True, True], [False, False, False, True]]
    )
    overlap = torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.8, 0.5, 0.4, 0.1], [0.7, 0.9, 0.1, 0.6]])
    assert taken(settle_contested(selected, overlap)) == [[1], [2], [3]]


# --- topk2


@pytest.mark.parametrize(("topk2", "kept"), [(None, [1, 2, 3]), (1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_topk2_keeps_the_best(topk2: int | None, kept: list[int]):
    """TAL-CONF-2: of three positives with scores 0.9, 0.5, 0.3, topk2 positives with the largest metric t remain."""
    scores = [[0.1], [0.9], [0.5], [0.3]]
    _, trace = run(truths(WIDE), [WIDE] * 4, scores, topk=3, topk2=topk2)  # type: ignore[arg-type]
    assert taken(trace.selected) == [[1, 2, 3]]
    assert taken(trace.positives) == [kept]


def test_topk2_comes_after_the_conflict():
    """TAL-CONF-2: with topk2 = 1, a ground truth keeps its second-best anchor if another ground truth won its best."""
    shorter: Corners = (0, 0, 24, 8)
    scores = [[0.0, 0.0001], [1.0, 1.0], [0.01, 0.0], [0.0025, 0.0]]
    targets, trace = run(truths(WIDE, shorter), [WIDE, shorter, WIDE, WIDE], scores, topk=2, topk2=1)
    assert trace.metric[0].argmax() == 1
    assert taken(trace.selected) == [[1, 2], [0, 1]]
    assert taken(trace.positives) == [[2], [1]]
    assert targets.foreground.tolist() == [False, True, True, False]


def test_topk2_never_gives_an_anchor_back():
    """TAL-CONF-2: a ground truth that lost all its anchors in the conflict has no positives after topk2."""
    _, trace = run(THIRD, [WIDE] * 4, PREFER_0_0_1, topk=1, topk2=2)
    assert taken(trace.positives) == [[], [], [0, 1]]


# --- normalisation


def test_weights():
    """TAL-NORM-1: weights are t u* / (t* + 1e-9), where t* and u* are a ground truth's largest metric t and overlap u.

    Each ground truth has its largest t and u at different anchors. Only positives count for t* and u*.
    """
    metric = torch.tensor([[0.5, 0.25, 0.75, 0, 0], [0.9, 0, 0, 0.125, 0.5]], dtype=torch.float64)
    overlap = torch.tensor([[0.5, 0.625, 0.875, 0, 0], [0.9, 0, 0, 0.75, 0.25]], dtype=torch.float64)
    positives = torch.tensor([[True, True, False, False, False], [False, False, False, True, True]])
    nano = Fraction(1, 10**9)
    first, second = Fraction(5, 8) / (Fraction(1, 2) + nano), Fraction(3, 4) / (Fraction(1, 2) + nano)
    weights = normalised(metric, overlap, positives)
    assert weights.tolist() == near(first / 2, first / 4, 0, second / 8, second / 2)


def test_a_tiny_metric_gives_half_the_weight():
    """TAL-NORM-1: a single positive with overlap u has weight u / 2 for metric t = 1e-9, and 0 for t = 0."""
    metric = torch.tensor([[1e-9, 0], [0, 0]], dtype=torch.float64)
    overlap = torch.tensor([[0.5, 0], [0, 0.75]], dtype=torch.float64)
    assert normalised(metric, overlap, torch.eye(2, dtype=torch.bool)).tolist() == near(0.25, 0)


def test_the_best_positive_learns_the_best_overlap():
    """TAL-NORM-1: positives with scores 0.81, 0.25, 0.04 and equal overlaps u have weights u, 5/9 u and 2/9 u."""
    targets, trace = run(truths(WIDE), [WIDE] * 4, [[0.81], [0.25], [0.04], [0.01]], topk=3)
    u, nano = same_box(32, 8), Fraction(1, 10**9)
    best = Fraction(9, 10) * u**6
    expected = [root * u**6 * u / (best + nano) for root in (Fraction(9, 10), Fraction(1, 2), Fraction(1, 5))]
    assert targets.weights.tolist() == near(*expected, 0)
    assert trace.metric[0, 3] > 0


def test_normalisation_follows_the_conflict():
    """TAL-NORM-1: an anchor that a ground truth lost to another does not count for its largest t and u.

    Anchor 2, the only positive left, has weight u t / (t + 1e-9), with its own metric t and overlap u.
    """
    shorter: Corners = (0, 0, 24, 8)
    scores = [[0.0, 0.0], [1.0, 1.0], [0.01, 0.0], [0.0, 0.0]]
    targets, trace = run(truths(WIDE, shorter), [AWAY, shorter, WIDE, AWAY], scores, topk=2)
    assert trace.metric[0, 1] > trace.metric[0, 2]
    assert targets.truth_index[1:3].tolist() == [1, 0]
    u = same_box(32, 8)
    t = u**6 / 10
    assert targets.weights[2].item() == pytest.approx(float(t * u / (t + Fraction(1, 10**9))), rel=ROUNDINGS)


# --- targets


def test_targets_of_positives_and_background():
    """TAL-TGT-1: a positive has index, label and box of its ground truth; all three are zero on background."""
    found = truths((16, 0, 24, 8), (0, 0, 8, 8), labels=[1, 2])
    targets, _ = run(found, [(0, 0, 8, 8), WIDE, (16, 0, 24, 8), WIDE], [[0.25] * 3] * 4)
    assert targets.foreground.tolist() == [True, False, True, False]
    assert targets.truth_index[[0, 2]].tolist() == [1, 0]
    assert targets.labels.tolist() == [2, 0, 1, 0]
    assert targets.boxes.tolist() == [[0, 0, 8, 8], [0, 0, 0, 0], [16, 0, 24, 8], [0, 0, 0, 0]]
    assert targets.weights[[1, 3]].tolist() == [0, 0]


def test_target_scores_hold_the_weight_at_the_label():
    """TAL-TGT-1: target scores are 0 except for the weight u t / (t + 1e-9) at the label's class.

    The metric is t = u^6 / 2, for the overlap u.
    """
    found = truths((16, 0, 24, 8), (0, 0, 8, 8), labels=[1, 2])
    targets, _ = run(found, [(0, 0, 8, 8), WIDE, (16, 0, 24, 8), WIDE], [[0.25] * 3] * 4)
    u = same_box(8, 8)
    w = u**6 / 2 * u / (u**6 / 2 + Fraction(1, 10**9))
    assert targets.scores(3).flatten().tolist() == near(0, 0, w, 0, 0, 0, 0, w, 0, 0, 0, 0)


def test_without_ground_truths_all_is_background():
    """TAL-EMPTY-1: without ground truths every anchor is background, even if k exceeds the number of anchors."""
    scores, boxes = torch.rand(4, 3, dtype=torch.float64), torch.rand(4, 4, dtype=torch.float64)
    targets = assign(scores, boxes, CENTRES, truths(), (8, 16), Hyperparameters(topk=5), keep_trace=True)
    assert targets.foreground.tolist() == [False] * 4
    assert targets.truth_index.tolist() == [0] * 4
    assert targets.labels.tolist() == [0] * 4
    assert targets.boxes.tolist() == [[0] * 4] * 4
    assert targets.scores(3).tolist() == [[0] * 3] * 4
    assert targets.scores(3).dtype == torch.float64


def test_no_gradient_flows_through_the_assignment():
    """TAL-TGT-1, LOSS-GRAD-1: neither targets nor stages require gradients."""
    scores = torch.full((4, 1), 0.5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([WIDE] * 4, dtype=torch.float64, requires_grad=True)
    targets = assign(scores, boxes, CENTRES, truths(WIDE), (8,), Hyperparameters(topk=2), keep_trace=True)
    assert targets.weights.sum() > 0
    assert targets.trace
    stages = targets.weights, targets.boxes, targets.trace.overlap, targets.trace.metric, targets.trace.score
    assert not any(stage.requires_grad for stage in stages)


def test_a_trace_is_stored_only_on_request():
    scores, boxes = torch.rand(4, 1, dtype=torch.float64), torch.rand(4, 4, dtype=torch.float64)
    bare = assign(scores, boxes, CENTRES, truths(WIDE), (8,), Hyperparameters(topk=2))
    assert bare.trace is None
