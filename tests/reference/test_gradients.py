"""Gradients of every differentiable stage, compared with numeric derivatives in float64, for a fixed assignment.

IOU-2 makes CIoU's weight a constant for the gradient, so that the gradient is not the derivative. The gradient is
compared with the numeric derivative of a CIoU, implemented here without torch, whose weight is constant.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tal_reference import Head, Hyperparameters, detection_loss
from tal_reference.anchors import make_anchors
from tal_reference.boxes import centre_penalty, ciou, iou
from tal_reference.decoding import decode
from tal_reference.loss import (
    DetectionLoss,
    box_loss,
    cls_loss,
    dfl_loss,
    l1_loss,
    loss_items,
    read_predictions,
    stacked,
)

# gradcheck's own step and tolerances
STEP, ABSOLUTE, RELATIVE = 1e-6, 1e-5, 1e-3


def drawn(*shape: int, seed: int = 0, times: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * times).requires_grad_()


def drawn_boxes(count: int, seed: int) -> Tensor:
    """Return random boxes (count, 4) around (10, 10) with sides of 1 to 9: all overlap, and all edges differ."""
    sides = (
        torch.rand((count, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4 + 0.5
    )
    return torch.cat((10 - sides[:, :2], 10 + sides[:, 2:]), dim=1)


def frozen_weight(g: list[float], b: list[float]) -> float:
    """Return the weight of the shape penalty in CIoU for two xyxy boxes (IOU-1)."""
    overlap, _, v = ciou_parts(g, b)
    return v / (1 - overlap + v + 1e-7)


def ciou_parts(g: list[float], b: list[float]) -> tuple[float, float, float]:
    """Return IoU, centre penalty rho^2 / c^2 and aspect ratio term v of two xyxy boxes (IOU-1)."""
    w1, h1, w2, h2 = g[2] - g[0], g[3] - g[1] + 1e-7, b[2] - b[0], b[3] - b[1] + 1e-7
    shared = max(0, min(g[2], b[2]) - max(g[0], b[0])) * max(0, min(g[3], b[3]) - max(g[1], b[1]))
    wide, high = max(g[2], b[2]) - min(g[0], b[0]), max(g[3], b[3]) - min(g[1], b[1])
    rho2 = ((g[0] + g[2] - b[0] - b[2]) ** 2 + (g[1] + g[3] - b[1] - b[3]) ** 2) / 4
    v = 4 / math.pi**2 * (math.atan(w2 / h2) - math.atan(w1 / h1)) ** 2
    return shared / (w1 * h1 + w2 * h2 - shared + 1e-7), rho2 / (wide**2 + high**2 + 1e-7), v


def slope(function: Callable[[list[float]], float], at: list[float], axis: int) -> float:
    """Return the central difference of a function in the direction of one coordinate."""
    up, down = list(at), list(at)
    up[axis] += STEP
    down[axis] -= STEP
    return (function(up) - function(down)) / (2 * STEP)


def ciou_slopes(truth: list[float], box: list[float]) -> list[float]:
    """Return the numeric derivative of CIoU by the box's four coordinates, with constant weight (IOU-2)."""
    weight = frozen_weight(truth, box)

    def frozen(moved: list[float]) -> float:
        overlap, distance, v = ciou_parts(truth, moved)
        return overlap - distance - weight * v

    return [slope(frozen, box, axis) for axis in range(4)]


def agrees(gradient: Tensor, slopes: Tensor) -> None:
    torch.testing.assert_close(gradient, slopes, atol=ABSOLUTE, rtol=RELATIVE)


def test_ciou():
    """IOU-1, IOU-2: the gradient of CIoU is the derivative with a constant weight, not the true derivative."""
    truths, boxes = drawn_boxes(12, seed=1), drawn_boxes(12, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(ciou(truths, boxes).sum(), boxes)
    pairs = list(zip(truths.tolist(), boxes.tolist(), strict=True))
    agrees(gradient, torch.tensor([ciou_slopes(*pair) for pair in pairs], dtype=torch.float64))
    assert not gradcheck(lambda moved: ciou(truths, moved), boxes, raise_exception=False)


def test_ciou_of_boxes_apart():
    """IOU-1, IOU-2: without overlap, CIoU's gradient equals the numeric derivative, and is not 0."""
    truths, boxes = drawn_boxes(6, seed=3), (drawn_boxes(6, seed=4) + 20).requires_grad_()
    (gradient,) = torch.autograd.grad(ciou(truths, boxes).sum(), boxes)
    pairs = zip(truths.tolist(), boxes.tolist(), strict=True)
    agrees(gradient, torch.tensor([ciou_slopes(*pair) for pair in pairs], dtype=torch.float64))
    assert gradient.any(1).all()


@pytest.mark.parametrize("part", [iou, centre_penalty])
def test_the_other_parts_of_ciou(part: Callable[[Tensor, Tensor], Tensor]):
    """IOU-1: the gradients of IoU and of the centre penalty equal their numeric derivatives."""
    truths = drawn_boxes(6, seed=5)
    assert gradcheck(lambda moved: part(truths, moved), drawn_boxes(6, seed=6).requires_grad_())


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_decode(bins: int):
    """DEC-1, DEC-2: gradients of decoded boxes on the distance logits equal numeric derivatives."""
    anchors = make_anchors([torch.zeros(2, 1, 1, 2).double()], Head((8,), 1))
    assert gradcheck(lambda logits: decode(logits, anchors, bins), drawn(2, 2, 4 * bins))


def test_cls():
    """LOSS-CLS-1: gradients of the cross-entropy on the class logits equal numeric derivatives."""
    scores = drawn(2, 3, 2, seed=1).sigmoid().detach()
    at = scores.nonzero(as_tuple=True)
    assert gradcheck(lambda logits: cls_loss(logits, at, scores[at]), drawn(2, 3, 2, times=3))


@pytest.mark.parametrize("bins", [2, 4, 16])
def test_dfl(bins: int):
    """LOSS-DFL-1: gradients of DFL equal numeric derivatives, for clamped and integer target distances too."""
    target = torch.tensor([[0.25, -1, 40, 1], [bins - 1, bins - 1.01, 0, 0.75]], dtype=torch.float64)
    assert gradcheck(lambda logits: dfl_loss(logits, target, bins), drawn(2, 4 * bins))


def test_l1():
    """LOSS-DFL-1 with R = 1: gradients of the L1 loss equal numeric derivatives."""
    strides = torch.tensor([[8.0], [16.0], [16.0]], dtype=torch.float64)
    target = drawn(3, 4, seed=1, times=5).detach()
    assert gradcheck(lambda distances: l1_loss(distances, target, strides, (64, 96)), drawn(3, 4, times=5))


def test_box():
    """LOSS-BOX-1, IOU-2: the gradient of the box loss is the negative numeric derivative of CIoU."""
    truths, boxes = drawn_boxes(6, seed=7), drawn_boxes(6, seed=8).requires_grad_()
    (gradient,) = torch.autograd.grad(box_loss(boxes, truths).sum(), boxes)
    pairs = zip(truths.tolist(), boxes.tolist(), strict=True)
    agrees(-gradient, torch.tensor([ciou_slopes(*pair) for pair in pairs], dtype=torch.float64))


# --- from the feature maps on

ROWS = torch.tensor([[0, 1, 0.5, 0.5, 0.7, 0.8], [0, 0, 0.3, 0.4, 0.4, 0.5], [1, 0, 0.6, 0.6, 0.6, 0.6]])
NUMBERS = Hyperparameters(topk=4)


def example(reg_max: int) -> tuple[list[Tensor], Head, DetectionLoss]:
    head = Head((8, 16), 2, reg_max)
    feature_maps = [drawn(2, head.channels, 2, 3, seed=11), drawn(2, head.channels, 1, 2, seed=12)]
    loss = detection_loss(feature_maps, ROWS, head, NUMBERS)
    assert sum(int(image.foreground.sum()) for image in loss.targets) >= 4
    return feature_maps, head, loss


@pytest.mark.parametrize("reg_max", [1, 3])
def test_cls_and_dfl_from_the_feature_maps(reg_max: int):
    """Gradients of cls and dfl on the feature maps equal numeric derivatives.

    LOSS-CLS-1, LOSS-DFL-1, LOSS-SUM-1, LOSS-GAIN-1, LOSS-GRAD-1.
    """
    feature_maps, head, loss = example(reg_max)
    targets = stacked(loss.targets, head.classes)

    def cls_and_dfl(*levels: Tensor) -> Tensor:
        return loss_items(read_predictions(levels, head), targets, head, NUMBERS)[1:]

    assert gradcheck(cls_and_dfl, feature_maps)


def numeric_box(feature_maps: list[Tensor], head: Head, loss: DetectionLoss, weights: list[float]) -> float:
    """Return the box term of the loss, computed with a constant CIoU weight for each positive (`weights`)."""
    predictions = read_predictions(feature_maps, head)
    total, frozen = 0.0, iter(weights)
    for i, image in enumerate(loss.targets):
        for a in image.foreground.nonzero().flatten().tolist():
            truth = (image.boxes[a] / predictions.anchors.strides[a]).tolist()
            overlap, distance, v = ciou_parts(truth, predictions.boxes[i, a].tolist())
            total += image.weights[a].item() * (1 - overlap + distance + next(frozen) * v)
    score_sum = sum(image.weights.sum().item() for image in loss.targets)
    return NUMBERS.box_gain * total / max(1, score_sum) * len(loss.targets)


def frozen_weights(loss: DetectionLoss) -> list[float]:
    return [
        frozen_weight(
            (image.boxes[a] / loss.predictions.anchors.strides[a]).tolist(),
            loss.predictions.boxes[i, a].tolist(),
        )
        for i, image in enumerate(loss.targets)
        for a in image.foreground.nonzero().flatten().tolist()
    ]


@pytest.mark.parametrize("reg_max", [1, 3])
def test_box_from_the_feature_maps(reg_max: int):
    """The box term's gradient equals numeric derivatives along random directions of the feature maps.

    LOSS-BOX-1, LOSS-SUM-1, LOSS-GAIN-1, IOU-2.
    """
    feature_maps, head, loss = example(reg_max)
    weights = frozen_weights(loss)
    assert numeric_box(feature_maps, head, loss, weights) == pytest.approx(loss.terms[0].item(), rel=RELATIVE)
    gradients = torch.autograd.grad(loss.terms[0], feature_maps)
    for seed in range(8):
        directions = [
            drawn(*level.shape, seed=100 + 2 * seed + i).detach() for i, level in enumerate(feature_maps)
        ]
        moved = [
            [level.detach() + sign * STEP * way for level, way in zip(feature_maps, directions, strict=True)]
            for sign in (1, -1)
        ]
        up, down = (numeric_box(each, head, loss, weights) for each in moved)
        along = sum(
            (gradient * way).sum().item() for gradient, way in zip(gradients, directions, strict=True)
        )
        assert along == pytest.approx((up - down) / (2 * STEP), rel=RELATIVE, abs=ABSOLUTE)
