"""Tests of rotated boxes (OBB-*) in float64: rows, predictions, overlap and assignment.

Expected values come from hand computations and from plain Python loops.
"""

import math

import pytest
import torch
from tests.reference.rotated_numbers import (
    CENTRES,
    QUARTER,
    ROUNDINGS,
    E,
    doubles,
    near,
    plain_probiou,
    truths,
)
from torch import Tensor

from tal_reference import GroundTruths, Head, Hyperparameters
from tal_reference.anchors import Anchors
from tal_reference.assignment import assign
from tal_reference.boxes import ciou
from tal_reference.rotated import (
    assign_rotated,
    candidates_of,
    decode_rotated,
    overlaps_of,
    probiou,
    read_rotated,
    rotated_truths,
    scaled,
    widened,
)

ROOT12 = math.sqrt(12)  # a side whose variance is 1


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
