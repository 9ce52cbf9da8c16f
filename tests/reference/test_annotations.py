"""Tests of the stage "annotations": ANN-1 to ANN-4."""

import pytest
import torch

from tal_reference import GroundTruths, Hyperparameters, Targets, assign, ground_truths
from tal_reference.annotations import to_corners

# Numbers that are exact in float32: size (64, 128) pixels, quarters and eighths.
ROWS = torch.tensor(
    [
        [1, 7, 0.5, 0.25, 0.25, 0.5],  # centre (64, 16), 32 x 32 pixels
        [0, 3, 0.25, 0.5, 0.5, 0.25],  # centre (32, 32), 64 x 16 pixels
        [1, 5, 0.5, 0.5, 1.0, 1.0],  # the whole image
        [1, 7, 0.125, 0.125, 0.0625, 0.125],  # centre (16, 8), 8 x 8 pixels
    ]
)


def boxes(*corners: tuple[float, float, float, float]) -> GroundTruths:
    return GroundTruths(
        torch.zeros(len(corners), dtype=torch.long), torch.tensor(corners, dtype=torch.float32)
    )


def test_corners_in_pixels():
    """ANN-1: normalised boxes become pixels.

    X is multiplied by the width, and y by the height, of a non-square input.
    """
    assert to_corners(ROWS[:, 2:], (64, 128)).tolist() == [
        [48, 0, 80, 32],
        [0, 24, 64, 40],
        [0, 0, 128, 64],
        [12, 4, 20, 12],
    ]


def test_corners_may_lie_outside():
    """ANN-1: boxes beyond the input are not clamped."""
    assert to_corners(torch.tensor([[0.0, 1.0, 0.5, 0.5]]), (64, 128)).tolist() == [[-32, 48, 32, 80]]


def test_images_take_their_rows_in_order():
    """ANN-2: the rows of image 1 keep their order, although a row of image 0 is between them."""
    first, second = ground_truths(ROWS, 2, (64, 128))
    assert (first.labels.tolist(), first.boxes.tolist()) == ([3], [[0, 24, 64, 40]])
    assert second.labels.tolist() == [7, 5, 7]
    assert second.boxes.tolist() == [[48, 0, 80, 32], [0, 0, 128, 64], [12, 4, 20, 12]]
    assert second.labels.dtype == torch.int64


def test_images_without_rows():
    """ANN-1: images before, between and after the others may have no rows."""
    rows = torch.cat([ROWS[:1], ROWS[2:]])  # only image 1 has rows
    assert [len(truths) for truths in ground_truths(rows, 4, (64, 128))] == [0, 3, 0, 0]


def test_a_batch_without_rows():
    """ANN-1: annotations may be empty, with shape (0, 6)."""
    truths = ground_truths(torch.zeros(0, 6), 2, (64, 128))
    assert [(len(image), tuple(image.boxes.shape)) for image in truths] == [(0, (0, 4)), (0, (0, 4))]


@pytest.mark.parametrize("image", [-1, 2])
def test_a_row_of_an_image_outside_the_batch_is_rejected(image: int):
    """ANN-1: a row whose image index is not below the number of images raises an error."""
    rows = torch.tensor([[image, 0, 0.5, 0.5, 0.5, 0.5], [0, 0, 0.5, 0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match=rf"images \[.*{image}.*\], expected indices below 2"):
        ground_truths(rows, 2, (64, 64))


@pytest.mark.parametrize(
    ("corners", "real"),
    [
        ((-10, -10, 5, 5), False),  # the sum is -10, although a quarter of the box lies inside the image
        ((-5, -5, 5, 5), False),  # the sum is exactly 0
        ((-5, -5, 6, 5), True),  # the sum is 1
        ((-5, -5, 5, 5.125), True),
        ((0, 0, 0, 0), False),  # padding
        ((3, 3, 3, 3), True),  # a box without area is real
        ((-100, 0, 20, 81), True),  # the sum is decisive, not the single corners
    ],
)
def test_which_boxes_are_real(corners: tuple[float, float, float, float], real: bool):
    """ANN-3: a box is real if its four corner coordinates add up to more than zero."""
    assert boxes(corners).real.tolist() == [real]


CENTRES = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]])


def assigned(truths: GroundTruths) -> Targets:
    predicted = torch.cat((CENTRES - 6, CENTRES + 5), dim=1)  # (A, 4)
    scores = torch.tensor([[0.25], [0.5], [0.75], [0.125]])
    return assign(scores, predicted, CENTRES, truths, (8,), Hyperparameters(topk=2), keep_trace=True)


def test_a_box_that_is_not_real_takes_no_anchor():
    """ANN-3: the box (-40, -40)-(20, 20) contains all four anchors, but selects none.

    The box is not real, because its coordinates add up to -40.
    """
    assert not assigned(boxes((-40, -40, 20, 20))).foreground.any()
    assert assigned(boxes((-10, -10, 20, 20))).foreground.any()


def test_padding_changes_nothing():
    """ANN-4: any number of zero rows after an image's ground truths leaves all outputs bitwise unchanged."""
    own = ((0.0, 0.0, 15.0, 9.0), (2.0, 1.0, 16.0, 16.0))
    bare, padded = assigned(boxes(*own)), assigned(boxes(*own, *((0.0, 0.0, 0.0, 0.0),) * 3))
    assert bare.foreground.any()
    for name in ("foreground", "truth_index", "labels", "boxes", "weights"):
        assert torch.equal(getattr(bare, name), getattr(padded, name)), name
    assert bare.trace
    assert padded.trace
    for name in ("candidates", "score", "overlap", "metric", "selected", "positives"):
        stage = getattr(padded.trace, name)
        assert torch.equal(getattr(bare.trace, name), stage[:2]), name
        assert not stage[2:].any(), name
