"""Tests of CIoU (IOU-1 to IOU-3) in float64. Expected values are fractions or formulas; e is IOU-1's eps."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tal_reference import ciou, iou
from tal_reference.boxes import centre_penalty, intersection, shape_penalty

EPS = Fraction(1, 10**7)
ROOT3 = math.sqrt(3)  # the aspect ratio whose arc tangent is 60 degrees
LOW = 1 - 1e-7  # a height that becomes 1 when eps is added
# No value here takes more than 32 float64 operations, each off by at most one rounding.
ROUNDINGS = 32 * 2**-53


def box(*corners: float) -> Tensor:
    return torch.tensor(corners, dtype=torch.float64)


def near(value: float | Fraction) -> object:
    return pytest.approx(float(value), rel=ROUNDINGS, abs=ROUNDINGS)


def test_intersection():
    """IOU-1: area of the intersection of a 4 x 2 box with an overlapping, a touching and two distant boxes."""
    others = torch.stack([box(2, 0, 6, 2), box(3, 1, 5, 9), box(4, 0, 8, 2), box(5, 3, 6, 4)])
    assert intersection(box(0, 0, 4, 2), others).tolist() == [4, 1, 0, 0]


def test_iou_counts_eps_once_a_height_and_once_in_the_union():
    """IOU-1: e is added to the height of each box, and to the union.

    The union of two 4 x 2 boxes whose intersection is 4 is 2 x 4 (2 + e) - 4 + e = 12 + 9 e.
    """
    assert iou(box(0, 0, 4, 2), box(2, 0, 6, 2)).item() == near(4 / (12 + 9 * EPS))


def test_iou_of_upright_boxes():
    """IOU-1: two 2 x 4 boxes, with an intersection of 4, have the union 2 x 2 (4 + e) - 4 + e = 12 + 5 e."""
    assert iou(box(0, 0, 2, 4), box(0, 2, 2, 6)).item() == near(4 / (12 + 5 * EPS))


def test_centre_penalty():
    """IOU-1: the centre penalty is rho^2 / c^2; for centres (2, 1) and (4, 4), rho^2 = 13.

    The enclosing box is 6 x 6, so that c^2 = 72 + e.
    """
    assert centre_penalty(box(0, 0, 4, 2), box(2, 2, 6, 6)).item() == near(13 / (72 + EPS))


def test_ciou_of_boxes_of_one_shape():
    """IOU-1: CIoU of two 4 x 2 boxes, without shape penalty: IoU = 4 / (12 + 9 e), rho^2 = 4, c^2 = 6^2 + 2^2 + e."""
    assert ciou(box(0, 0, 4, 2), box(2, 0, 6, 2)).item() == near(4 / (12 + 9 * EPS) - 4 / (40 + EPS))


def test_shape_penalty():
    """IOU-1: shape penalty for aspect ratios 1 and sqrt(3): v = 4 / pi^2 (pi / 12)^2 = 1 / 36, times its weight."""
    one, other, overlap = box(0, 0, 1, LOW), box(0, 0, ROOT3, LOW), torch.tensor(0.5, dtype=torch.float64)
    expected = Fraction(1, 36) ** 2 / (Fraction(1, 2) + Fraction(1, 36) + EPS)
    assert shape_penalty(one, other, overlap).item() == near(expected)


def test_ciou_of_boxes_of_two_shapes():
    """IOU-1: CIoU of 1 x h and W x h boxes: intersection h, rho = (W - 1) / 2, c^2 = W^2 + h^2 + e, v = 1 / 36."""
    overlap = LOW / (1 + ROOT3 - LOW + 1e-7)
    distance = ((ROOT3 - 1) / 2) ** 2 / (3 + LOW**2 + 1e-7)
    shape = (1 / 36) ** 2 / (1 - overlap + 1 / 36 + 1e-7)
    assert ciou(box(0, 0, 1, LOW), box(0, 0, ROOT3, LOW)).item() == near(overlap - distance - shape)


def test_ciou_of_a_box_with_itself():
    """IOU-1: CIoU of a 4 x 2 box with itself is 8 / (8 + 9 e), below 1, because eps is added in the union."""
    assert ciou(box(0, 0, 4, 2), box(0, 0, 4, 2)).item() == near(8 / (8 + 9 * EPS))


def test_a_flat_box_has_the_height_eps():
    """IOU-1: CIoU of a square and a box of 2 x 0 pixels, whose aspect ratio is 2 / e."""
    v = 4 / math.pi**2 * (math.atan(2e7) - math.pi / 4) ** 2
    # from (1, 1 - e / 2) to (1, 0), around both the square
    distance = (1 - 0.5e-7) ** 2 / (4 + (2 - 1e-7) ** 2 + 1e-7)
    assert ciou(box(0, 0, 2, 2 - 1e-7), box(0, 0, 2, 0)).item() == near(-distance - v**2 / (1 + v + 1e-7))


def test_a_thin_box_has_the_width_zero():
    """IOU-1: a box of 0 x 2 pixels has the aspect ratio 0; its CIoU with itself is 0."""
    assert ciou(box(1, 0, 1, 2), box(1, 0, 1, 2)).item() == 0
    v = Fraction(1, 4)  # with a square, v = 4 / pi^2 (pi / 4)^2
    distance = (EPS / 2) ** 2 / (8 + EPS)
    assert ciou(box(0, 0, 2, 2 - 1e-7), box(1, 0, 1, 2)).item() == near(-distance - v**2 / (1 + v + EPS))


def test_a_point_is_no_division_by_zero():
    """IOU-1: CIoU is finite for boxes without width and height: 0 with itself, -4 / (4 + e) two pixels apart."""
    assert ciou(box(3, 3, 3, 3), box(3, 3, 3, 3)).item() == 0
    assert ciou(box(3, 3, 3, 3), box(5, 3, 5, 3)).item() == near(-4 / (4 + EPS))


def test_boxes_far_apart():
    """IOU-1: CIoU of two unit squares 999 pixels apart is -999^2 / (1000^2 + 1 + e), near -1."""
    value = ciou(box(0, 0, 1, 1), box(999, 0, 1000, 1)).item()
    assert value == near(-Fraction(999**2) / (1000**2 + 1 + EPS))


def test_ciou_does_not_depend_on_the_order():
    """IOU-1: on random boxes, exchanging the two arguments of CIoU changes the value by rounding only."""
    boxes = torch.rand(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 8
    one, other = boxes[:10].sort(-1).values, boxes[10:].sort(-1).values
    torch.testing.assert_close(ciou(one, other), ciou(other, one), rtol=ROUNDINGS, atol=ROUNDINGS)


def test_ciou_broadcasts():
    """TAL-MET-1: CIoU of boxes (M, 1, 4) and (A, 4) broadcasts to (M, A) values of all pairs."""
    truths = torch.stack([box(0, 0, 4, 2), box(2, 0, 6, 2)])
    boxes = torch.stack([box(0, 0, 1, 1), box(0, 0, 4, 2), box(3, 1, 9, 9)])
    together = ciou(truths[:, None], boxes)
    assert together.tolist() == [[ciou(truth, other).item() for other in boxes] for truth in truths]


def test_the_shape_weight_is_a_constant_for_the_gradient():
    """IOU-2: the gradient of CIoU on x2 treats the weight of the shape penalty as a constant; computed by hand.

    Boxes are (0, 0)-(1, h) and (0, 0)-(W, h) with h + e = 1, so that the intersection h does not depend on W. Then
    IoU = h / (W + 1 - h + e), rho^2 = ((W - 1) / 2)^2, c^2 = W^2 + h^2 + e, and the derivative of v by W is
    8 / pi^2 x pi / 12 / (1 + W^2) = 1 / (6 pi).
    """
    predicted = box(0, 0, ROOT3, LOW).requires_grad_()
    (gradient,) = torch.autograd.grad(ciou(box(0, 0, 1, LOW), predicted), predicted)
    union, apart, diagonal = ROOT3 + 1 - LOW + 1e-7, (ROOT3 - 1) / 2, 3 + LOW**2 + 1e-7
    d_overlap = -LOW / union**2
    d_distance = apart / diagonal - apart**2 * 2 * ROOT3 / diagonal**2
    weight = (1 / 36) / (1 - LOW / union + 1 / 36 + 1e-7)
    assert gradient[2].item() == near(d_overlap - d_distance - weight / (6 * math.pi))


def test_ciou_depends_on_the_scale():
    """IOU-3: CIoU in pixels and CIoU in grid units differ, because e does not scale with the boxes.

    For boxes k times as large, the union is 12 k^2 + 8 e k + e.
    """
    values = []
    for k in (Fraction(8), Fraction(1), Fraction(1, 8)):
        scale = float(k)
        value = ciou(box(0, 0, 4, 2) * scale, box(2, 0, 6, 2) * scale).item()
        overlap = 4 * k**2 / (12 * k**2 + 8 * EPS * k + EPS)
        assert value == near(overlap - 4 * k**2 / (40 * k**2 + EPS))
        values.append(value)
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3
