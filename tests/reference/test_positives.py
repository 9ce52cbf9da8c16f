"""Tests of the stages "conflict" to "normalisation" (TAL-CONF, TAL-NORM) and of targets, on four anchors in a row."""

from fractions import Fraction

import pytest
import torch
from tests.reference.four_anchors import (
    AWAY,
    CENTRES,
    PREFER_0_0_1,
    ROUNDINGS,
    THIRD,
    WIDE,
    Corners,
    near,
    run,
    same_box,
    taken,
    truths,
)

from tal_reference import (
    Hyperparameters,
    assign,
)
from tal_reference.assignment import (
    normalised,
    settle_contested,
)

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
