"""Four anchors in a row, with which tests of the assignment compute by hand in float64.

The anchors 0 to 3 have 8 pixels each, from x = 0 to 32: their centres are at y = 4 and x = 4, 12, 20, 28.
"""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tal_reference import (
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
)

Corners = tuple[float, float, float, float]

CENTRES = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [28.0, 4.0]], dtype=torch.float64)
WIDE: Corners = (0, 0, 32, 8)  # contains all four anchors
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

THIRD = truths((0, 0, 16, 8), (0, 0, 24, 8), WIDE)
PREFER_0_0_1 = [[0.81, 0.81, 0.01], [0.01, 0.01, 0.81], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
