"""Tests of the stage "decode" (DEC-1, DEC-2), including the article's worked example.

The article prints a table of four distributions over the bins 0..15 and four weighted sums. The left and top rows are
distributions: they add up to 1. The right and bottom rows add up to 1.7 and 1.65, because some printed values are
misplaced (0.05 at bin 9 and 0.6 at bin 10 in both, as in the left row, and 0.05 at bin 4 in the right one). The
article's sums do not use these values; the others add up to 1. Its right sum is then correct, 12.94. Its bottom sum is
wrong: 0.4 x 4 + 0.5 x 5 + 0.06 x 6 + 0.04 x 7 is 4.74 instead of the printed 3.58, so that the box ends at y2 = 18.3 +
4.74 = 23.04 instead of 21.88.
"""

import math

import pytest
import torch
from torch import Tensor

from tal_reference import Anchors, decode
from tal_reference.decoding import boxes_around, expected_distances

# A softmax over 16 bins and a sum of 16 products are 64 float64 operations, each off by one rounding at most.
ROUNDINGS = 64 * 2**-53

LEFT = {8: 0.05, 9: 0.05, 10: 0.6, 11: 0.3}
TOP = {3: 0.03, 4: 0.2, 5: 0.7, 6: 0.07}
RIGHT = {11: 0.02, 12: 0.1, 13: 0.8, 14: 0.08}  # as its sum has it
BOTTOM = {4: 0.4, 5: 0.5, 6: 0.06, 7: 0.04}  # as its sum has it
STRAY = {9: 0.05, 10: 0.6}
RIGHT_PRINTED = {4: 0.05} | STRAY | RIGHT
BOTTOM_PRINTED = STRAY | BOTTOM


def logits(row: dict[int, float], bins: int = 16) -> list[float]:
    """Return log-probabilities, whose softmax is the distribution itself."""
    return [math.log(row[k]) if k in row else -math.inf for k in range(bins)]


def distance_logits(*rows: dict[int, float]) -> Tensor:
    return torch.tensor([logits(row) for row in rows], dtype=torch.float64).flatten()


def test_the_articles_distances():
    """DEC-1: the distances are 10.15, 4.81 and 12.94 as printed in the article, and 4.74, printed as 3.58."""
    distances = expected_distances(distance_logits(LEFT, TOP, RIGHT, BOTTOM), 16)
    assert distances.tolist() == pytest.approx([10.15, 4.81, 12.94, 4.74], rel=ROUNDINGS)


def test_the_articles_box():
    """DEC-2: the box around (20.6, 18.3) in grid units equals the article's printed box, except that y2 is 23.04."""
    anchors = Anchors(torch.tensor([[20.6, 18.3]]).double(), torch.tensor([[16.0]]).double())
    box = decode(distance_logits(LEFT, TOP, RIGHT, BOTTOM)[None, None], anchors, 16)
    assert [round(side, 2) for side in box.flatten().tolist()] == [10.45, 13.49, 33.54, 23.04]


@pytest.mark.parametrize(
    ("row", "total"),
    [(LEFT, 1), (TOP, 1), (RIGHT, 1), (BOTTOM, 1), (RIGHT_PRINTED, 1.7), (BOTTOM_PRINTED, 1.65)],
)
def test_sums_of_the_articles_rows(row: dict[int, float], total: float):
    assert math.fsum(row.values()) == pytest.approx(total, rel=ROUNDINGS)


def test_a_softmax_would_divide_the_articles_printed_rows_by_their_sums():
    """DEC-1: the softmax divides two of the article's rows, which add up to 1.7 and 1.65, by these sums."""
    distances = expected_distances(distance_logits(LEFT, TOP, RIGHT_PRINTED, BOTTOM_PRINTED), 16)
    assert distances[2:].tolist() == pytest.approx([19.59 / 1.7, 11.19 / 1.65], rel=ROUNDINGS)


def test_two_bins():
    """DEC-1: with two bins (R = 2), a distance is the probability of bin 1, here 1/4, 1/2, 3/4 and 1."""
    rows = [
        logits(row, bins=2) for row in ({0: 0.75, 1: 0.25}, {0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.75}, {1: 1.0})
    ]
    distances = expected_distances(torch.tensor(rows, dtype=torch.float64).flatten(), 2)
    assert distances.tolist() == pytest.approx([0.25, 0.5, 0.75, 1], rel=ROUNDINGS)


@pytest.mark.parametrize("bins", [2, 3, 16, 32])
def test_equal_logits_lie_in_the_middle(bins: int):
    """DEC-1: if the logits of R bins are equal, the distance is (R - 1) / 2, for any value of the logits."""
    distances = expected_distances(torch.full((4 * bins,), -7.5, dtype=torch.float64), bins)
    assert distances.tolist() == pytest.approx([(bins - 1) / 2] * 4, rel=ROUNDINGS)


def test_one_bin_is_the_distance_itself():
    """DEC-1: with one bin (R = 1), the raw value is the distance; a negative value is not clamped."""
    assert expected_distances(torch.tensor([1.5, -2.0, 40.0, 0.0]), 1).tolist() == [1.5, -2.0, 40.0, 0.0]


def test_the_sides_are_left_top_right_bottom():
    """DEC-2: left and top are subtracted from the anchor's centre, right and bottom are added."""
    box = boxes_around(torch.tensor([[10.5, 20.5]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert box.tolist() == [[9.5, 18.5, 13.5, 24.5]]


def test_every_image_and_anchor_has_its_box():
    """DEC-2: decoded boxes of all images and anchors are in grid units, for any stride."""
    anchors = Anchors(torch.tensor([[0.5, 0.5], [1.5, 0.5]]), torch.tensor([[8.0], [16.0]]))
    distances = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [1, 0, 2, 3]], [[0.0, 0, 0, 0], [-1, 0, 0, 1]]])
    boxes = decode(distances, anchors, 1)
    assert boxes.tolist() == [
        [[0, 0, 1, 1], [0.5, 0.5, 3.5, 3.5]],
        [[0.5, 0.5, 0.5, 0.5], [2.5, 0.5, 1.5, 1.5]],
    ]
