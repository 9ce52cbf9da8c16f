"""Enclosures of probIoU, of the losses of rotated boxes and of their gradients contain the results of float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tal_conformance.judgement.rounding.enclosure import Enclosure, cosine_and_sine
from tal_conformance.judgement.rounding.geometry import GEOMETRIES_BY_TASK
from tal_conformance.judgement.rounding.probiou import Probiou, TurnedBox, columns, decoded, on_distances
from tal_conformance.judgement.rounding.rotated import AngleLoss
from tal_reference import NEWEST, GroundTruths
from tal_reference.anchors import Anchors
from tal_reference.rotated import angle_loss, decode_rotated, probiou

EPS = torch.finfo(torch.float32).eps
PAIRS = 400
OPERATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Enclosure]]] = {
    "sum": (lambda a, b: a + b, lambda a, b: a + b),
    "difference": (lambda a, b: a - b, lambda a, b: a - b),
    "product": (lambda a, b: a * b, lambda a, b: a * b),
    "quotient": (lambda a, b: a / b, lambda a, b: a / b),
    "square": (lambda a, b: a.square(), lambda a, b: a.square()),
    "root": (lambda a, b: b.abs().sqrt(), lambda a, b: b.clamp(low=0.0).sqrt()),
    "logarithm": (lambda a, b: b.abs().log(), lambda a, b: b.clamp(low=0.0).log()),
    "exponential": (lambda a, b: a.exp(), lambda a, b: a.exp()),
}
"""Operations on a number of any sign and on a positive number: for tensors, and for enclosures."""


def numbers() -> tuple[Tensor, Tensor]:
    """Return float32 numbers of any sign, and positive numbers, of many orders of magnitude."""
    chance = torch.Generator().manual_seed(1)
    signed = torch.randn(PAIRS, generator=chance) * 4
    return signed, torch.rand(PAIRS, generator=chance).mul(12).sub(6).exp()


def turned_pairs(noise: float) -> tuple[Tensor, Tensor]:
    """Return float32 boxes (P, 5), elongated ones among them, and boxes that differ by `noise` of the sides."""
    chance = torch.Generator().manual_seed(2)
    centre = torch.rand(PAIRS, 2, generator=chance) * 600
    sides = torch.rand(PAIRS, 2, generator=chance).mul(4).add(1).exp()
    angle = torch.rand(PAIRS, 1, generator=chance) * 6 - 3
    boxes = torch.cat((centre, sides, angle), dim=1)
    moves = torch.randn(PAIRS, 5, generator=chance) * noise
    return boxes, boxes + moves * torch.cat((sides, sides, torch.ones_like(angle)), dim=1)


def lies_in(values: Tensor, enclosure: Enclosure) -> Tensor:
    return (enclosure.low <= values.double()) & (values.double() <= enclosure.high)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_in_float32_lies_in_its_enclosure(operation: str):
    compute, enclose = OPERATIONS[operation]
    first, second = numbers()
    enclosure = enclose(*(Enclosure.around(value.double(), 0.0, EPS) for value in (first, second)))
    value = compute(first, second)
    assert lies_in(value, enclosure).all()
    for wrong in (value * (1 + 4 * EPS), value * (1 - 4 * EPS)):
        assert not lies_in(wrong, enclosure)[value.abs() > 1e-30].any()


def test_errors_of_operands_remain_in_the_enclosure():
    first, second = (value.double() for value in numbers())
    error = second.abs() * 0.01
    enclosures = Enclosure.around(first, 0.1, EPS), Enclosure.around(second, error, EPS)
    for compute, enclose in OPERATIONS.values():
        for off in (-1, 1):
            assert lies_in(compute(first + 0.1 * off, second + error * off), enclose(*enclosures)).all()


def test_a_quotient_by_an_enclosure_of_zero_is_unbounded():
    one, around_zero = (Enclosure.around(torch.ones(1), 0.0, EPS), Enclosure.around(torch.zeros(1), 1.0, EPS))
    quotient = one / around_zero
    assert quotient.low.item() == -torch.inf
    assert quotient.high.item() == torch.inf


def test_cosine_and_sine_of_large_angles():
    angles = torch.linspace(-60, 60, 301)
    enclosed = cosine_and_sine(angles.double(), 0.0, EPS)
    for value, enclosure in zip((angles.cos(), angles.sin()), enclosed, strict=True):
        assert lies_in(value, enclosure).all()
        assert not lies_in(value + 1e-6, enclosure).any()


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.05, 0.5, 20.0])
def test_probiou_and_its_gradient_in_float32_lie_in_their_enclosures(noise: float):
    """OBB-IOU-1: float32 values of probIoU lie in their enclosures, for nearly equal boxes and for boxes far apart."""
    truth, box = turned_pairs(noise)
    enclosed = Probiou(*(TurnedBox.around(boxes.double(), 0.0, EPS) for boxes in (truth, box)))
    leaf = box.clone().requires_grad_()
    value = probiou(truth, leaf)
    (gradient,) = torch.autograd.grad((1 - value).sum(), leaf)
    assert lies_in(value.detach(), enclosed.value).all()
    # exp(-B) nears the smallest normal number of float32, 1.2e-38: enclosures of relative errors exclude underflow
    normal = (enclosed.slope.size > 1e-30) | (enclosed.slope.size == 0)
    assert normal.float().mean() > 0.3
    for column, part in enumerate(enclosed.gradient):
        assert lies_in(gradient[:, column], part)[normal].all(), column


@pytest.mark.parametrize("fault", ["variance of a tenth", "angle ignored", "root of B forgotten"])
def test_a_wrong_probiou_lies_outside_its_enclosure(fault: str):
    truth, box = turned_pairs(0.2)
    enclosed = Probiou(*(TurnedBox.around(boxes.double(), 0.0, EPS) for boxes in (truth, box)))
    right = probiou(truth, box)
    wrong = {
        "variance of a tenth": probiou(
            *(boxes * torch.tensor((1, 1, 1.2**0.5, 1.2**0.5, 1)) for boxes in (truth, box))
        ),
        "angle ignored": probiou(truth, box * torch.tensor((1, 1, 1, 1, 0.0))),
        "root of B forgotten": 1 - (1 - right).square(),
    }[fault]
    outside = ~lies_in(wrong, enclosed.value)
    assert outside.float().mean() > 0.8


def test_decoded_boxes_and_the_gradient_on_distances_lie_in_their_enclosures():
    truth, _ = turned_pairs(0.0)
    chance = torch.Generator().manual_seed(3)
    sides = (torch.rand(PAIRS, 4, generator=chance) * 9).requires_grad_()
    angle = (torch.randn(PAIRS, 1, generator=chance) * 3).requires_grad_()
    target = torch.cat((truth[:, :2] / 16, truth[:, 2:4].clamp(max=20), truth[:, 4:]), dim=1)
    centres = target[:, :2] + torch.randn(PAIRS, 2, generator=chance)
    boxes = decode_rotated(sides, angle, Anchors(centres, torch.ones(PAIRS, 1)))
    loss = 1 - probiou(boxes, target, 0.01)
    of_sides, of_angle = torch.autograd.grad(loss.sum(), (sides, angle))
    distances = Enclosure.around(sides.detach().double(), 0.0, EPS)
    turn = angle.detach()[:, 0].double()
    box = decoded(distances, turn, centres.double(), 0.01)
    for column, part in enumerate((box.x, box.y, box.w, box.h)):
        assert lies_in(boxes.detach()[:, column], part).all()
        assert not lies_in(boxes.detach()[:, column] + 0.01, part).any()
    enclosed = Probiou(TurnedBox.around(target.double(), 0.0, EPS, 0.01), box)
    on_sides, on_angle = on_distances(enclosed.gradient, distances, turn)
    for column, part in enumerate(columns(on_sides)):
        assert lies_in(of_sides[:, column], part).all()
    assert lies_in(of_angle[:, 0], on_angle).all()
    assert (~lies_in(of_angle[:, 0] * 1.01, on_angle)).float().mean() > 0.8


def test_the_angle_loss_and_its_gradient_lie_in_their_enclosures():
    target, box = turned_pairs(0.5)
    angle = box[:, 4].clone().requires_grad_()
    value = angle_loss(angle, target)
    (gradient,) = torch.autograd.grad(value.sum(), angle)
    enclosed = AngleLoss.of(
        angle.detach().double(), target.double(), torch.zeros(1, dtype=torch.float64), EPS
    )
    assert lies_in(value.detach(), enclosed.value).all()
    assert lies_in(gradient, enclosed.gradient).all()
    torch.testing.assert_close(enclosed.exact.float(), value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(enclosed.exact_gradient.float(), gradient, rtol=1e-4, atol=1e-4)
    halved = angle_loss((angle.detach() + target[:, 4]) / 2, target)  # sin(d) in place of sin(2 d)
    assert (~lies_in(halved, enclosed.value)).float().mean() > 0.8


def test_candidates_of_turned_boxes_on_an_edge():
    """An anchor on the edge of an upright box is certainly a candidate; on a turned box's edge, it may be one."""
    geometry = GEOMETRIES_BY_TASK["obb"]
    centres = torch.tensor([[8.0, 8.0], [16.0, 8.0], [24.0, 8.0], [32.0, 8.0]], dtype=torch.float64)
    boxes = torch.tensor([[16.0, 8, 16, 16, 0.0], [16.0, 8, 16, 16, torch.pi / 2]])
    small, large = (GroundTruths(torch.zeros(2, dtype=torch.long), each) for each in (boxes, boxes.double()))
    certain, possible = geometry.candidates_within(small, large, centres, (0, 0), EPS, None, NEWEST)
    assert certain.tolist() == [[True, True, True, False], [False, True, False, False]]
    assert possible.tolist() == [[True, True, True, False]] * 2
    assert (
        geometry.on_edge(boxes.double(), centres, (0, 0), EPS, None).tolist()
        == [[True, False, True, False]] * 2
    )


def test_enclosures_of_fewer_dimensions_are_broadcast_as_tensors_are():
    """Ends are stacked in front; a factor (K,) of enclosures (P, K) must not be taken for one of (2, K)."""
    few, many = torch.tensor((2.0, -3.0, 5.0)).double(), torch.arange(6.0).view(2, 3).double()  # (K,), (P, K)
    for first, second in ((few, many), (many, few)):
        ends = Enclosure.around(first, 0.5, 0.0), Enclosure.around(second, 0.25, 0.0)
        assert lies_in(first * second, ends[0] * ends[1]).all()
        assert (ends[0] - ends[1]).low.equal(first - second - 0.75)
        assert (ends[0] + ends[1]).high.equal(first + second + 0.75)
