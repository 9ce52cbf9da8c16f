"""Numbers of rotated boxes in plain Python, with which the tests of rotated boxes compare the reference."""

import math

import pytest
import torch
from torch import Tensor

from tal_reference import GroundTruths

E = 1e-7
QUARTER = math.pi / 2
# No value of the hand-computed tests takes more than 128 float64 operations, each off by at most one rounding.
ROUNDINGS = 128 * 2**-53


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(*values: float) -> object:
    return pytest.approx(list(values), rel=ROUNDINGS, abs=ROUNDINGS)


def truths(*boxes: tuple[float, ...], labels: list[int] | None = None) -> GroundTruths:
    """Return ground truths with the given rotated boxes (cx, cy, w, h, angle), of class 0 unless labels are given."""
    return GroundTruths(torch.tensor(labels or [0] * len(boxes)), doubles(*boxes))


CENTRES = doubles([4, 4], [12, 4], [20, 4], [28, 4])


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
