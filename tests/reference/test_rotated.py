"""Tests of rotated boxes (OBB-*) in float64.

Expected values come from hand computations, from plain Python loops, and from the official loss.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from tests.reference.official import (
    Drawn,
    batch_of,
    double_precision,
    drawn,
    model_of,
    predictions_of,
    relative_difference,
)
from torch import Tensor

from tal_reference import BatchTargets, GroundTruths, Head, Hyperparameters, Targets
from tal_reference.anchors import Anchors
from tal_reference.assignment import assign
from tal_reference.boxes import ciou
from tal_reference.loss import DetectionLoss, class_factors, stacked
from tal_reference.rotated import (
    angle_loss,
    assign_rotated,
    box_loss,
    candidates_of,
    decode_rotated,
    distances_in_frame,
    overlaps_of,
    probiou,
    read_rotated,
    rotated_items,
    rotated_loss,
    rotated_truths,
    scaled,
    widened,
)

E = 1e-7
ROOT12 = math.sqrt(12)  # a side whose variance is 1
QUARTER = math.pi / 2
# No value of the hand-computed tests takes more than 128 float64 operations, each off by at most one rounding.
ROUNDINGS = 128 * 2**-53
# A loss is some 4096 operations; beta raises an overlap to the power 6, and near equality the root in probIoU makes a
# rounding of B larger by 1 / sqrt(2e), some 2200 times.
LOSS_ROUNDINGS = 6 * 4096 * 2**-53
BATCHES = 102


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(*values: float) -> object:
    return pytest.approx(list(values), rel=ROUNDINGS, abs=ROUNDINGS)


def truths(*boxes: tuple[float, ...], labels: list[int] | None = None) -> GroundTruths:
    """Return ground truths with the given rotated boxes (cx, cy, w, h, angle), of class 0 unless labels are given."""
    return GroundTruths(torch.tensor(labels or [0] * len(boxes)), doubles(*boxes))


# --- rows


def test_a_row_in_pixels():
    """OBB-ANN-1: cx and w are scaled by the input's width, cy and h by its height; the angle is unchanged."""
    rows = doubles([1, 2, 0.5, 0.25, 0.125, 0.5, QUARTER], [0, 1, 0.25, 0.75, 0.5, 0.25, -7.0])
    first, second = rotated_truths(rows, 2, (64, 128))
    assert (first.labels.tolist(), first.boxes.tolist()) == ([1], [[32, 48, 64, 16, -7.0]])
    assert (second.labels.tolist(), second.boxes.tolist()) == ([2], [[64, 16, 16, 32, QUARTER]])


def test_rows_with_a_tiny_side_are_dropped():
    """OBB-ANN-2: rows with a side below 2 pixels are dropped; the order of the others is unchanged."""
    sides = [
        (0.5, 0.5),
        (1.984375 / 128, 0.5),
        (2 / 128, 2 / 64),
        (0.5, 1.984375 / 64),
        (2 / 64, 0.25),
        (0.5, 2 / 128),
    ]
    rows = torch.tensor([[0, label, 0.5, 0.5, w, h, 0.1] for label, (w, h) in enumerate(sides)])
    (image,) = rotated_truths(rows, 1, (64, 128))
    assert image.labels.tolist() == [0, 2, 4]


def test_dropped_rows_are_not_counted():
    """OBB-ANN-2: an image whose boxes all have a side below 2 pixels has no ground truths."""
    rows = doubles([0, 0, 0.5, 0.5, 0.001, 0.5, 0], [1, 0, 0.5, 0.5, 0.5, 0.5, 0])
    assert [len(image) for image in rotated_truths(rows, 3, (64, 64))] == [0, 1, 0]


@pytest.mark.parametrize(
    ("box", "real"),
    [
        ((-20, -10, 15, 10, 5.5), True),  # the sum is 0.5, thanks to the angle
        ((-20, -10, 15, 10, 5.0), False),  # exactly 0
        ((-20, -10, 15, 15, -0.5), False),
        ((0, 0, 0, 0, 0), False),
        ((3, 3, 0, 0, -5), True),
    ],
)
def test_which_boxes_are_real(box: tuple[float, ...], real: bool):
    """OBB-ANN-3: a ground truth is real if cx + cy + w + h + angle > 0 (pixels, radians).

    Ground truths that are not real select no anchor.
    """
    assert truths(box).real.tolist() == [real]
    wide = truths((*box[:2], 100.0, 100.0, -200.0 - box[0] - box[1]))
    assert not candidates_of(wide, doubles([box[0], box[1]]), (16, 16)).any()


def test_a_row_of_an_image_outside_the_batch_is_refused():
    """OBB-ANN-1: a row whose image index is not below the number of images raises an error."""
    with pytest.raises(ValueError, match=r"images \[3\], expected indices below 2"):
        rotated_truths(doubles([3, 0, 0.5, 0.5, 0.5, 0.5, 0]), 2, (64, 64))


# --- predictions


def test_the_angle_is_the_last_channel():
    """OBB-DEC-1: the last channel is the angle, which is not wrapped to a period.

    The other channels are read as in detection.
    """
    level = torch.arange(7.0).reshape(1, 7, 1, 1).repeat(1, 1, 1, 2)
    predictions = read_rotated([level, level + 10], Head((8, 16), 2, 1))
    assert predictions.distances[0].tolist() == [[0, 1, 2, 3]] * 2 + [[10, 11, 12, 13]] * 2
    assert predictions.logits[0].tolist() == [[4, 5]] * 2 + [[14, 15]] * 2
    assert predictions.angles[0].tolist() == [[6]] * 2 + [[16]] * 2


def test_maps_without_an_angle_are_refused():
    """OBB-DEC-1: a feature map without 4R + C + 1 channels (R bins, C classes) raises an error."""
    with pytest.raises(ValueError, match=r"\(1, 6, 1, 1\).*4R \+ C \+ 1 = 7 channels"):
        read_rotated([torch.zeros(1, 6, 1, 1)], Head((8,), 2, 1))


@pytest.mark.parametrize(
    ("angle", "centre"),
    [
        (0.0, (7, 6.5)),  # f = ((4 - 1) / 2 + 1/2, ..): half the difference of opposite distances
        (QUARTER, (3.5, 7)),  # (f_x, f_y) becomes (-f_y, f_x)
        (math.pi, (3, 3.5)),
        (-QUARTER, (6.5, 3)),
    ],
)
def test_a_decoded_box(angle: float, centre: tuple[float, float]):
    """OBB-DEC-2: distances 1, 2, 5, 5 at anchor (5, 5) give a 6 x 7 box; its centre turns with the angle."""
    box = decode_rotated(doubles([1, 2, 5, 5]), doubles([angle]), Anchors(doubles([5, 5]), doubles([8])))
    assert box[0].tolist() == near(*centre, 6, 7, angle)


def test_bins_are_decoded_first():
    """OBB-DEC-2: with three bins and equal logits, a distance is the mean of 0, 1, 2: 1 (DEC-1)."""
    box = decode_rotated(torch.zeros(1, 12).double(), doubles([0.3]), Anchors(doubles([5, 5]), doubles([8])))
    assert box[0].tolist() == near(5, 5, 2, 2, 0.3)


def test_the_centre_hands_its_gradient_to_the_angle():
    """OBB-DEC-2: at angle 0, the derivative of the centre by the angle is (-f_y, f_x), with f = centre - anchor."""
    angle = doubles([0.0]).requires_grad_()
    box = decode_rotated(doubles([1, 2, 5, 5]), angle, Anchors(doubles([5, 5]), doubles([8])))
    x, y = (torch.autograd.grad(box[0, i], angle, retain_graph=True)[0].item() for i in (0, 1))
    assert [x, y] == near(-1.5, 2)


def test_the_angle_has_no_unit_of_length():
    """OBB-DEC-2: for boxes in pixels, centre and sides are multiplied by the stride, but not the angle."""
    assert scaled(doubles([1, 2, 3, 4, 5]), doubles([8])).tolist() == [[8, 16, 24, 32, 5]]


# --- overlap


def gaussian(box: list[float], floor: float) -> tuple[list[list[float]], float]:
    """Return the covariance matrix of a box's Gaussian and its determinant, in plain Python.

    `floor` is added to the variances.
    """
    _, _, w, h, angle = box
    rotation = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    diagonal = w**2 / 12 + floor, h**2 / 12 + floor
    entries = [
        [sum(rotation[i][k] * diagonal[k] * rotation[j][k] for k in (0, 1)) for j in (0, 1)] for i in (0, 1)
    ]
    return entries, entries[0][0] * entries[1][1] - entries[0][1] ** 2


def plain_probiou(box1: list[float], box2: list[float], floor: float = 0.0) -> float:
    """Return the probIoU of two boxes in Python floats (OBB-IOU-1); `floor` is added to the variances."""
    (first, det1), (second, det2) = gaussian(box1, floor), gaussian(box2, floor)
    s = [[first[i][j] + second[i][j] for j in (0, 1)] for i in (0, 1)]
    d = box1[0] - box2[0], box1[1] - box2[1]
    determinant = s[0][0] * s[1][1] - s[0][1] ** 2
    adjugate = [[s[1][1], -s[0][1]], [-s[1][0], s[0][0]]]
    form = sum(d[i] * adjugate[i][j] * d[j] for i in (0, 1) for j in (0, 1))
    spread = determinant / (4 * math.sqrt(max(0, det1) * max(0, det2)) + E) + E
    distance = min(max(form / (4 * (determinant + E)) + math.log(spread) / 2, E), 100)
    return 1 - math.sqrt(1 - math.exp(-distance) + E)


def test_probiou_of_boxes_apart():
    """OBB-IOU-1: probIoU of Gaussians with variances 1 at distance 3 along x; covariances add up to S = 2 I, D = 4."""
    one, other = doubles(0, 0, ROOT12, ROOT12, 0), doubles(3, 0, ROOT12, ROOT12, 0)
    distance = 2 * 9 / (4 * (4 + E)) + math.log(4 / (4 + E) + E) / 2
    expected = 1 - math.sqrt(1 - math.exp(-distance) + E)
    assert probiou(one, other).item() == pytest.approx(expected, rel=ROUNDINGS)


def test_probiou_of_boxes_of_two_sizes():
    """OBB-IOU-1: probIoU of concentric Gaussians with variances (1, 1) and (4, 1), sum S = diag(5, 2)."""
    one, other = doubles(0, 0, ROOT12, ROOT12, 0), doubles(0, 0, 2 * ROOT12, ROOT12, 0)
    expected = 1 - math.sqrt(1 - 1 / math.sqrt(10 / (8 + E) + E) + E)
    assert probiou(one, other).item() == pytest.approx(expected, rel=ROUNDINGS)


def test_probiou_of_crossing_boxes():
    """OBB-IOU-1: probIoU of a box and its copy turned by 90 degrees, variances (4, 1) and (1, 4)."""
    one, other = doubles(0, 0, 2 * ROOT12, ROOT12, 0), doubles(0, 0, 2 * ROOT12, ROOT12, QUARTER)
    expected = 1 - math.sqrt(1 - 1 / math.sqrt(25 / (16 + E) + E) + E)
    assert probiou(one, other).item() == pytest.approx(expected, rel=ROUNDINGS)


def test_the_floor_is_added_to_every_variance():
    """OBB-IOU-1: with `variance` = 1, probIoU of two points equals probIoU of two Gaussians with variances 1."""
    distance = 2 * 9 / (4 * (4 + E)) + math.log(4 / (4 + E) + E) / 2
    expected = 1 - math.sqrt(1 - math.exp(-distance) + E)
    assert probiou(doubles(0, 0, 0, 0, 0.7), doubles(0, 3, 0, 0, 2), 1.0).item() == pytest.approx(
        expected, rel=ROUNDINGS
    )


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_probiou_of_random_boxes(floor: float):
    """OBB-IOU-1: probIoU equals a plain Python computation for all pairs of 12 and 12 random boxes."""
    generator = torch.Generator().manual_seed(3)
    boxes = torch.randn(24, 5, generator=generator, dtype=torch.float64) * 4
    found = probiou(boxes[:12, None], boxes[12:], floor)
    expected = [
        [plain_probiou(one, other, floor) for other in boxes[12:].tolist()] for one in boxes[:12].tolist()
    ]
    torch.testing.assert_close(found, doubles(*expected), rtol=1e-11, atol=1e-12)


def test_equal_boxes_overlap_by_less_than_one():
    """OBB-IOU-2: probIoU of equal boxes is 1 - sqrt(2e), because of the lower clamp, and its gradient is zero."""
    box = doubles(3, 4, 5, 6, 0.7).requires_grad_()
    overlap = probiou(box, box.detach())
    assert overlap.item() == pytest.approx(1 - math.sqrt(2e-7), abs=1e-10)
    assert not torch.autograd.grad(overlap, box)[0].any()


def test_boxes_far_apart_have_no_gradient():
    """OBB-IOU-2: probIoU of boxes 1000 apart is 1 - sqrt(1 + e), below zero, and its gradient is exactly zero."""
    box = doubles(1000, 0, 2, 2, 0.7).requires_grad_()
    overlap = probiou(doubles(0, 0, 2, 2, 0.1), box)
    assert overlap.item() == pytest.approx(1 - math.sqrt(1 + E), rel=1e-8)
    assert overlap.item() < 0
    assert not torch.autograd.grad(overlap, box)[0].any()


@pytest.mark.parametrize(
    "form", [(2, 1, 6, -3, 0.4), (2, 1, 3, 6, 0.4 + QUARTER), (2, 1, 6, 3, 0.4 + math.pi), (2, 1, 6, 3, 0.4)]
)
def test_boxes_that_are_one_gaussian(form: tuple[float, ...]):
    """OBB-IOU-2: boxes with a negative side, exchanged sides at 90 degrees, or turned by 180 have the same probIoU."""
    other = doubles(3, 3, 5, 4, 1.0)
    expected = plain_probiou([2, 1, 6, 3, 0.4], other.tolist())
    assert [probiou(doubles(*form), other).item(), probiou(other, doubles(*form)).item()] == near(
        expected, expected
    )


def test_probiou_depends_on_the_scale():
    """OBB-IOU-2: probIoU of two boxes differs slightly from probIoU of the boxes scaled by 8, because of e."""
    one, other = doubles(0, 0, 1, 0.5, 0.2), doubles(0.25, 0, 1, 1, 0.9)
    small, large = (
        probiou(one, other),
        probiou(scaled(one[None], doubles([8])), scaled(other[None], doubles([8]))),
    )
    assert 1e-9 < abs(small.item() - large.item()) < 1e-3


# --- assignment

CENTRES = doubles([4, 4], [12, 4], [20, 4], [28, 4])


def taken(mask: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in mask]


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((16, 4, 16, 8, 0), [1, 2]),  # from 8 to 24
        ((16, 4, 24, 8, 0), [0, 1, 2, 3]),  # both ends on a centre: edges are included
        ((16, 4, 23.984375, 8, 0), [1, 2]),
        ((16, 8, 64, 8, 0), [0, 1, 2, 3]),  # the upper edge on all centres
        ((16, 8.015625, 64, 8, 0), []),
        ((16, 4, 8, 24.000001, QUARTER), [0, 1, 2, 3]),  # upright, turned by 90 degrees
        ((16, 4, 64, 7.9, QUARTER), []),
        ((16, 4, 64, 8, math.pi / 4), [1, 2]),  # the band |x - 16| < 4 sqrt 2
        ((16, 4, 64, 32, math.pi / 4), [0, 1, 2, 3]),
        ((16, 4, 64, 16, -math.pi / 4), [1, 2]),  # |x - 16| < 8 sqrt 2 = 11.3
        ((-16, 4, 16, 16, 0), []),  # not real: the sum is above zero, but far away
    ],
)
def test_candidates_in_the_own_frame(box: tuple[float, ...], inside: list[int]):
    """OBB-CAND-1: an anchor is a candidate if its centre lies in the rotated box or on its edge.

    Nothing is widened.
    """
    assert taken(candidates_of(truths(box), CENTRES, (0, 0))) == [inside]


def test_small_sides_are_widened():
    """OBB-CAND-1: each side below the floor is widened; the centre and angle of the box are unchanged."""
    boxes = doubles([10, 4, 3, 20, 0.5], [10, 4, 20, 15.9, 0], [10, 4, 16, 3, 2])
    assert widened(boxes, (16, 16)).tolist() == [[10, 4, 16, 20, 0.5], [10, 4, 20, 16, 0], [10, 4, 16, 16, 2]]
    assert taken(candidates_of(truths((8, 4, 3, 3, 0)), CENTRES, (0, 0))) == [[]]
    assert taken(candidates_of(truths((8, 4, 3, 3, 0)), CENTRES, (16, 16))) == [[0, 1]]


@pytest.mark.parametrize(("strides", "inside"), [((8, 16), [0, 1]), ((8,), [0, 1]), ((4,), [])])
def test_the_floor_is_the_second_stride(strides: tuple[int, ...], inside: list[int]):
    """OBB-CAND-1: a 3 x 3 box is widened to the second stride or, if the head has only one stride, to this stride."""
    inputs = torch.ones(4, 1).double(), torch.tensor([[8.0, 4, 8, 8, 0]] * 4).double(), CENTRES
    targets = assign_rotated(
        *inputs, truths((8, 4, 3, 3, 0)), strides, Hyperparameters(topk=4), keep_trace=True
    )
    assert targets.trace
    assert taken(targets.trace.candidates) == [inside]
    assert (targets.boxes[targets.foreground] == doubles(8, 4, 3, 3, 0)).all()


def test_u_is_probiou_on_candidates():
    """OBB-MET-1: the overlap of a candidate is probIoU with the unwidened box, at least 0.

    The overlap of a non-candidate is 0.
    """
    found = truths((8, 4, 3, 3, 0.3), (16, 4, 24, 8, 0))
    boxes = doubles([8, 4, 4, 3, 0.1], [9, 4, 3, 3, 0], [20, 4, 20, 8, 0.2], [900, 4, 1, 1, 0])
    candidates = candidates_of(found, CENTRES, (16, 16))
    expected = [
        [
            max(0.0, plain_probiou(g, b)) if inside else 0.0
            for b, inside in zip(boxes.tolist(), row, strict=True)
        ]
        for g, row in zip(found.boxes.tolist(), candidates.tolist(), strict=True)
    ]
    assert expected[1][3] == 0  # a candidate so far away that probIoU is below zero
    torch.testing.assert_close(
        overlaps_of(found.boxes, boxes, candidates), doubles(*expected), rtol=1e-12, atol=0
    )


def test_the_rest_of_the_assignment_is_detections(monkeypatch: pytest.MonkeyPatch):
    """OBB-MET-1, COR-4: if CIoU replaces probIoU, boxes with angle 0 are assigned like axis-aligned boxes."""

    def corners(boxes: Tensor) -> Tensor:
        return torch.cat((boxes[..., :2] - boxes[..., 2:4] / 2, boxes[..., :2] + boxes[..., 2:4] / 2), dim=-1)

    monkeypatch.setattr(
        "tal_reference.rotated.probiou", lambda one, other: ciou(corners(one), corners(other))
    )
    generator = torch.Generator().manual_seed(1)
    boxes = torch.cat(
        (CENTRES, torch.rand(4, 2, generator=generator) * 16 + 8, torch.zeros(4, 1)), dim=1
    ).double()
    found = torch.cat(
        (torch.rand(5, 2, generator=generator) * 16, torch.rand(5, 2, generator=generator) * 24), dim=1
    )
    found = torch.cat((found, torch.zeros(5, 1)), dim=1).double()
    scores, labels, numbers = (
        torch.rand(4, 3, generator=generator).double(),
        torch.arange(5) % 3,
        Hyperparameters(topk=2),
    )
    turned = assign_rotated(scores, boxes, CENTRES, GroundTruths(labels, found), (8, 16), numbers)
    plain = assign(scores, corners(boxes), CENTRES, GroundTruths(labels, corners(found)), (8, 16), numbers)
    assert turned.foreground.any()
    for name in ("foreground", "truth_index", "labels", "weights"):
        torch.testing.assert_close(getattr(turned, name), getattr(plain, name))


def test_no_ground_truths():
    """OBB-SUM-1, TAL-EMPTY-1: without ground truths all anchors are background, and target boxes have five columns."""
    none = GroundTruths(torch.zeros(0).long(), torch.zeros(0, 5).double())
    targets = assign_rotated(torch.rand(4, 3).double(), torch.rand(4, 5).double(), CENTRES, none, (8, 16))
    assert not targets.foreground.any()
    assert targets.boxes.shape == (4, 5)


# --- terms


def test_the_box_loss_has_a_floor():
    """OBB-BOX-1: the box loss is 1 - probIoU with 0.01 added to variances, for boxes without area too."""
    boxes = doubles([0, 0, 0, 0, 0], [2, 1, 6, 3, 0.4])
    predicted = doubles([0.3, 0, 0, 0, 0], [3, 3, 5, 4, 1.0])
    expected = [
        1 - plain_probiou(p, b, 0.01) for p, b in zip(predicted.tolist(), boxes.tolist(), strict=True)
    ]
    torch.testing.assert_close(box_loss(predicted, boxes), doubles(*expected), rtol=1e-11, atol=0)


def test_the_box_loss_may_exceed_one():
    """OBB-BOX-1: for boxes 1000 px apart, the loss exceeds 1: a negative probIoU is not clamped."""
    assert box_loss(doubles([1000, 0, 2, 2, 0]), doubles([0, 0, 2, 2, 0])).item() > 1


@pytest.mark.parametrize(
    ("angle", "sides"),
    [
        (0.0, (2, 3.5, 4, 0.5)),
        (QUARTER, (4.5, 3, 1.5, 1)),
        (math.pi, (4, 0.5, 2, 3.5)),
        (-QUARTER, (1.5, 1, 4.5, 3)),
    ],
)
def test_target_distances_are_along_the_targets_axes(angle: float, sides: tuple[float, ...]):
    """OBB-DFL-1: target distances from an anchor to a 6 x 4 box are measured along the box's axes, for four angles."""
    assert distances_in_frame(doubles([8, 3.5, 6, 4, angle]), doubles([7, 5]))[0].tolist() == near(*sides)


def test_target_distances_are_those_that_decode_to_the_target():
    """OBB-DFL-1, OBB-DEC-2: target distances are decoded to the target box, also if the anchor is outside."""
    boxes = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs() * 3
    anchors = Anchors(torch.rand(50, 2).double() * 6, torch.full((50, 1), 8.0).double())
    distances = distances_in_frame(boxes, anchors.centres)
    assert (distances < 0).any()
    torch.testing.assert_close(
        decode_rotated(distances, boxes[:, 4:], anchors), boxes, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize(
    ("sides", "degrees", "expected"),
    [
        ((10, 1), 45, math.exp(-(math.log(10) ** 2) / 9)),  # 0.5548
        ((1, 10), 45, math.exp(-(math.log(10) ** 2) / 9)),
        ((1, 1), 45, 1.0),
        ((1, 1), 15, 0.25),
        ((10, 1), 90, 0.0),
        ((10, 1), 180, 0.0),
        ((2, 1), -15, math.exp(-(math.log(2) ** 2) / 9) / 4),
        ((2, 1), 75 + 360, math.exp(-(math.log(2) ** 2) / 9) / 4),
    ],
)
def test_the_angle_loss(sides: tuple[float, float], degrees: float, expected: float):
    """OBB-ANG-1: the angle loss repeats every 90 degrees, and is largest for square targets."""
    loss = angle_loss(doubles(0.3 + math.radians(degrees)), doubles([0, 0, *sides, 0.3]))
    assert loss.item() == pytest.approx(expected, rel=1e-8, abs=1e-25)


def test_the_angle_loss_of_a_target_without_area():
    """OBB-ANG-1: the angle loss is finite for a target without area, because 1e-9 is added to the sides."""
    loss = angle_loss(doubles(math.pi / 4, math.pi / 4), doubles([0, 0, 0, 0, 0], [0, 0, 0, 1, 0]))
    assert loss.tolist() == pytest.approx([1, math.exp(-(math.log(1e-9) ** 2) / 9)], rel=1e-6)


# --- the whole loss, image by image in plain numbers


@dataclass(frozen=True)
class Cell:
    """The prediction of one cell, in grid units."""

    anchor: tuple[float, float]
    stride: int
    sides: list[list[float]]
    logits: list[float]
    box: list[float]

    @property
    def pixels(self) -> list[float]:
        return [*(value * self.stride for value in self.box[:4]), self.box[4]]


def turn(x: float, y: float, angle: float) -> tuple[float, float]:
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def cells_of(image: int, maps: list[Tensor], head: Head) -> list[Cell]:
    """Return the decoded predictions of all cells of an image (PRE-1, ANC-1, DEC-1, OBB-DEC-1, OBB-DEC-2)."""
    cells = []
    for level, stride in zip(maps, head.strides, strict=True):
        values = level[image].tolist()
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                channels = [channel[y][x] for channel in values]
                sides = [channels[side * head.reg_max :][: head.reg_max] for side in range(4)]
                left, top, right, bottom = (mean_bin(side) for side in sides)
                angle = channels[-1]
                dx, dy = turn((right - left) / 2, (bottom - top) / 2, angle)
                box = [x + 0.5 + dx, y + 0.5 + dy, left + right, top + bottom, angle]
                cells.append(Cell((x + 0.5, y + 0.5), stride, sides, channels[4 * head.reg_max : -1], box))
    return cells


def mean_bin(logits: list[float]) -> float:
    if len(logits) == 1:
        return logits[0]
    shares = [math.exp(logit) for logit in logits]
    return sum(k * share for k, share in enumerate(shares)) / sum(shares)


def holds(box: list[float], cell: Cell, floor: float) -> bool:
    """Return True if the cell is a candidate of the box, with widened sides (OBB-CAND-1, OBB-ANN-3)."""
    x, y = turn(cell.anchor[0] * cell.stride - box[0], cell.anchor[1] * cell.stride - box[1], -box[4])
    half_w, half_h = (max(side, floor) / 2 for side in box[2:4])
    return sum(box) > 0 and abs(x) <= half_w and abs(y) <= half_h


def plain_assignment(
    cells: list[Cell], found: list[tuple[int, list[float]]], floor: float, topk: int, topk2: int
) -> dict[int, tuple[int, float]]:
    """Return a dict from a positive anchor to its ground truth and weight, computed in plain Python (OBB-MET-1)."""
    anchors, own = range(len(cells)), range(len(found))
    inside = {(g, a) for g in own for a in anchors if holds(found[g][1], cells[a], floor)}
    u = {(g, a): max(0.0, plain_probiou(found[g][1], cells[a].pixels)) for g, a in inside}
    t = {(g, a): (1 / (1 + math.exp(-cells[a].logits[found[g][0]]))) ** 0.5 * u[g, a] ** 6 for g, a in inside}
    selected = set()
    for g in own:
        best = sorted(anchors, key=lambda a, g=g: -t.get((g, a), 0))[:topk]  # type: ignore[misc]
        selected |= {(g, a) for a in best if (g, a) in inside}
    owner = {}
    for a in anchors:
        takers = [g for g in own if (g, a) in selected]
        if takers:
            owner[a] = max(own, key=lambda g, a=a: u.get((g, a), 0)) if len(takers) > 1 else takers[0]  # type: ignore[misc]
    positives = {}
    for g in own:
        mine = [a for a in anchors if owner.get(a) == g]
        if topk2 != topk:
            mine = sorted(mine, key=lambda a, g=g: -t.get((g, a), 0))[:topk2]  # type: ignore[misc]
        best_t, best_u = (max([values.get((g, a), 0) for a in mine], default=0.0) for values in (t, u))
        positives |= {a: (g, t.get((g, a), 0) * best_u / (best_t + 1e-9)) for a in mine}
    return positives


def plain_loss(batch: Drawn, topk: int, topk2: int) -> list[float]:
    """Return the four loss items, computed in Python floats (OBB-BOX-1, OBB-CLS-1, OBB-DFL-1, OBB-ANG-1, OBB-SUM-1)."""
    head, maps = batch.head, batch.maps
    height, width = (side * head.strides[0] for side in maps[0].shape[2:])
    factors = head.class_weights or [1.0] * head.classes
    box = cls = side = angle = total = 0.0
    for image in range(len(maps[0])):
        found = [
            (int(label), [cx * width, cy * height, w * width, h * height, r])
            for index, label, cx, cy, w, h, r in batch.rows.tolist()
            if int(index) == image and w * width >= 2 and h * height >= 2
        ]
        cells = cells_of(image, maps, head)
        positives = plain_assignment(cells, found, head.strides[1], topk, topk2)
        for a, cell in enumerate(cells):
            g, weight = positives.get(a, (-1, 0.0))
            for label, logit in enumerate(cell.logits):
                wanted = weight if g >= 0 and label == found[g][0] else 0.0
                cls += factors[label] * (math.log1p(math.exp(logit)) - wanted * logit)
            if g < 0:
                continue
            target = [*(value / cell.stride for value in found[g][1][:4]), found[g][1][4]]
            total += weight
            box += weight * (1 - plain_probiou(cell.box, target, 0.01))
            side += weight * plain_side(cell, target, (height, width))
            elongation = math.exp(-(math.log((target[2] + 1e-9) / (target[3] + 1e-9)) ** 2) / 9)
            angle += weight * elongation * math.sin(2 * (cell.box[4] - target[4])) ** 2
    total = max(1.0, total)
    return [7.5 * box / total, 0.5 * cls / total, 1.5 * side / total, angle / total]


def plain_side(cell: Cell, target: list[float], size: tuple[int, int]) -> float:
    """Return the mean loss of a cell's four distances (OBB-DFL-1, with LOSS-DFL-1 or COR-1)."""
    x, y = turn(target[0] - cell.anchor[0], target[1] - cell.anchor[1], -target[4])
    wanted = target[2] / 2 - x, target[3] / 2 - y, target[2] / 2 + x, target[3] / 2 + y
    reg_max, loss = len(cell.sides[0]), 0.0
    for logits, distance, length in zip(cell.sides, wanted, size[::-1] * 2, strict=True):
        if reg_max == 1:
            loss += abs(logits[0] - distance) * cell.stride / length
        else:
            clamped = min(max(distance, 0), reg_max - 1.01)
            lower = math.floor(clamped)
            norm = math.log(sum(math.exp(logit) for logit in logits))
            loss += (lower + 1 - clamped) * (norm - logits[lower]) + (clamped - lower) * (
                norm - logits[lower + 1]
            )
    return loss / 4


SETTINGS = [(16, 10, 10), (1, 10, 10), (1, 7, 1)]
"""(number of bins R, topk, topk2) of the random batches, in turn."""


def reference_of(batch: Drawn, topk: int, topk2: int | None) -> DetectionLoss:
    numbers = Hyperparameters(topk=topk, topk2=topk2)
    return rotated_loss(batch.maps, batch.rows, batch.head, numbers)


def test_the_loss_in_plain_numbers():
    """OBB-SUM-1, OBB-CLS-1: items equal plain Python on 30 random batches, with 16 and 1 bins, topk2, class weights."""
    positives = 0
    for seed in range(500, 530):
        reg_max, topk, topk2 = SETTINGS[seed % 3]
        batch = drawn(seed, reg_max, rotated=True)
        loss = reference_of(batch, topk, topk2)
        positives += sum(int(image.foreground.sum()) for image in loss.targets)
        assert loss.items.tolist() == pytest.approx(plain_loss(batch, topk, topk2), rel=1e-10, abs=1e-20), (
            seed
        )
    assert positives > 100


def test_what_is_differentiated():
    """OBB-SUM-1: the differentiated total is the items times the number of images.

    The box term has gradients on distances and angles, the angle term on angles only.
    """
    batch = next(b for b in (drawn(seed, 1, rotated=True) for seed in range(1, 99)) if len(b.maps[0]) == 3)
    loss = reference_of(batch, 10, None)
    assert loss.terms.tolist() == [3 * item for item in loss.items.tolist()]
    assert not loss.items.requires_grad
    expected = {
        0: (True, False, True),
        1: (False, True, False),
        2: (True, False, False),
        3: (False, False, True),
    }
    for term, reached in expected.items():
        gradients = torch.autograd.grad(loss.terms[term], batch.maps, retain_graph=True)
        parts = torch.cat([g.flatten(2) for g in gradients], dim=2).split((4, batch.head.classes, 1), dim=1)
        assert tuple(bool(part.any()) for part in parts) == reached, term


@pytest.mark.parametrize("reg_max", [1, 16])
def test_a_batch_without_positives(reg_max: int):
    """OBB-SUM-1: without positives, all terms except cls are zero, and all gradients exist and are zero."""
    batch = drawn(0, reg_max, rotated=True)
    assert not len(batch.rows)
    loss = reference_of(batch, 10, None)
    assert loss.items[[0, 2, 3]].tolist() == [0, 0, 0]
    assert loss.items[1] > 0
    for term in (0, 2, 3):
        for gradient in torch.autograd.grad(loss.terms[term], batch.maps, retain_graph=True):
            assert not gradient.any()


def test_targets_of_another_assigner_give_the_same_items():
    """OBB-SUM-1: items are the same if targets are passed in the format of an assigner's result."""
    batch = drawn(3, 16, rotated=True)
    loss = reference_of(batch, 10, None)
    given = stacked(loss.targets, batch.head.classes)
    assert isinstance(given, BatchTargets)
    predictions = read_rotated(batch.maps, batch.head)
    numbers = Hyperparameters(box_gain=1.0, cls_gain=1.0, dfl_gain=1.0, angle_gain=4.0)
    factors = class_factors(batch.head, predictions.logits)
    items = rotated_items(predictions, given, numbers, class_weights=factors)
    torch.testing.assert_close(items * doubles(7.5, 0.5, 1.5, 0.25), loss.items, rtol=ROUNDINGS, atol=0)


def test_a_class_that_the_head_does_not_have_is_refused():
    """OBB-ANN-1: a row whose class is not below the head's number of classes raises an error."""
    batch = drawn(3, 16, rotated=True)
    row = doubles([0, batch.head.classes, 0.5, 0.5, 0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="expected indices below"):
        rotated_loss(batch.maps, row, batch.head)


def test_more_anchors_asked_for_than_there_are():
    """OBB-MET-1, TAL-TOPK-2: topk above the number of anchors raises ValueError."""
    batch = drawn(3, 16, rotated=True)
    with pytest.raises(ValueError, match="k = 500"):
        reference_of(batch, 500, None)


def test_targets_hold_the_annotated_box():
    """OBB-MET-1, TAL-TGT-1: target boxes have five columns and are not widened."""
    found = truths((8, 4, 3, 3, 0.25), labels=[1])
    boxes = torch.tensor([[8.0, 4, 4, 4, 0]] * 4).double()
    targets = assign_rotated(
        torch.ones(4, 2).double(), boxes, CENTRES, found, (8, 16), Hyperparameters(topk=1)
    )
    assert isinstance(targets, Targets)
    assert targets.boxes[targets.foreground].tolist() == [[8, 4, 3, 3, 0.25]]


# --- the official loss


def test_the_official_loss():
    """OBB-SUM-1: items, total and gradients equal those of the official loss on random batches in float64."""
    losses = pytest.importorskip("ultralytics.utils.loss")
    values, gradients, positives = 0.0, 0.0, 0
    with double_precision():
        for seed in range(BATCHES):
            reg_max, topk, topk2 = SETTINGS[seed % 3]
            batch = drawn(seed, reg_max, rotated=True)
            criterion = losses.v8OBBLoss(model_of(batch.head), topk, topk2)
            total, items = criterion(predictions_of(batch.maps, batch.head), batch_of(batch.rows))
            expected = torch.autograd.grad(total.sum(), batch.maps)
            loss = reference_of(batch, topk, topk2)
            found = torch.autograd.grad(loss.total, batch.maps)
            positives += sum(int(image.foreground.sum()) for image in loss.targets)
            values = max(
                values,
                relative_difference(loss.items, torch.stack(list(items.values()))),
                relative_difference(loss.terms.detach(), total.detach()),
            )
            gradients = max(gradients, *map(relative_difference, found, expected))
    assert positives > BATCHES
    assert values < LOSS_ROUNDINGS
    assert gradients < 16 * LOSS_ROUNDINGS  # divided by sqrt(B + e)
