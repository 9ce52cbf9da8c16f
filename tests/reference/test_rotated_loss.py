"""Tests of the loss of rotated boxes (OBB-*) in float64.

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
from tests.reference.rotated_numbers import (
    CENTRES,
    QUARTER,
    ROUNDINGS,
    doubles,
    near,
    plain_probiou,
    truths,
)
from torch import Tensor

from tal_reference import BatchTargets, Head, Hyperparameters, Targets
from tal_reference.anchors import Anchors
from tal_reference.loss import DetectionLoss, class_factors, stacked
from tal_reference.rotated import (
    angle_loss,
    assign_rotated,
    box_loss,
    decode_rotated,
    distances_in_frame,
    read_rotated,
    rotated_items,
    rotated_loss,
)

# A loss is some 4096 operations; beta raises an overlap to the power 6, and near equality the root in probIoU makes a
# rounding of B larger by 1 / sqrt(2e), some 2200 times.
LOSS_ROUNDINGS = 6 * 4096 * 2**-53
BATCHES = 102


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
