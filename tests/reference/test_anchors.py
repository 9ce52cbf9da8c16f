"""Tests of the stage "anchors": PRE-1, PRE-2, ANC-1."""

import pytest
import torch
from torch import Tensor

from tal_reference import Anchors, Head, flatten, input_size, make_anchors


def numbered_map(rows: int, columns: int, channels: int = 6, image_offset: int = 0) -> Tensor:
    """Return a map (1, channels, rows, columns) whose values are 100 channel + 10 row + column."""
    values = [[[100 * c + 10 * y + x for x in range(columns)] for y in range(rows)] for c in range(channels)]
    return torch.tensor([values]).double() + image_offset


def test_rows_of_a_level_run_along_x_first():
    """PRE-1: the cells of a map are flattened row by row: a 2 x 3 map gives (y, x) = 00 01 02 10 11 12."""
    distances, logits = flatten([numbered_map(2, 3)], Head((8,), 2, 1))
    assert distances[0, :, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert logits[0, :, 0].tolist() == [400, 401, 402, 410, 411, 412]


def test_levels_follow_each_other():
    """PRE-1: the rows of the second level come after all rows of the first level."""
    distances, _ = flatten([numbered_map(2, 2), numbered_map(1, 2) + 5000], Head((8, 16), 2, 1))
    assert distances[0, :, 0].tolist() == [0, 1, 10, 11, 5000, 5001]


def test_channels_are_four_sides_of_bins_and_then_the_classes():
    """PRE-1: with 2 bins and 3 classes, channels are bins of left, top, right, bottom, then the classes."""
    distances, logits = flatten([numbered_map(1, 1, channels=11)], Head((8,), 3, 2))
    assert distances.tolist() == [[[0, 100, 200, 300, 400, 500, 600, 700]]]
    assert logits.tolist() == [[[800, 900, 1000]]]


def test_images_stay_apart():
    """PRE-1: the rows of image i come from the feature maps of image i."""
    maps = torch.cat([numbered_map(1, 2), numbered_map(1, 2, image_offset=7000)])
    distances, logits = flatten([maps], Head((8,), 2, 1))
    assert distances[:, :, 0].tolist() == [[0, 1], [7000, 7001]]
    assert logits[:, :, 1].tolist() == [[500, 501], [7500, 7501]]


def test_flatten_passes_gradients_to_the_maps():
    """LOSS-GRAD-1: the gradient of the sum of all rows is 1 at every channel and cell."""
    level = torch.zeros(1, 6, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in flatten([level], Head((8,), 2, 1))), level)
    assert torch.equal(gradient, torch.ones_like(level))


def test_another_number_of_maps_is_rejected():
    """PRE-1: one feature map for a head with two strides raises ValueError."""
    with pytest.raises(ValueError, match="got 1 feature maps for 2 strides"):
        flatten([numbered_map(1, 1)], Head((8, 16), 2, 1))


@pytest.mark.parametrize("channels", [5, 7])
def test_another_number_of_channels_is_rejected(channels: int):
    """PRE-1: a map with other than 4R + C channels (R bins, C classes) raises ValueError."""
    with pytest.raises(ValueError, match=rf"\(1, {channels}, 1, 1\).*4R \+ C = 6 channels"):
        flatten([numbered_map(2, 2), numbered_map(1, 1, channels)], Head((8, 16), 2, 1))


@pytest.mark.parametrize(("stride", "size"), [(8, (16, 24)), (5, (10, 15)), (32, (64, 96))])
def test_input_size_is_the_first_grid_in_pixels(stride: int, size: tuple[int, int]):
    """PRE-2: the input's (height, width) is the first map's grid, 2 x 3, times its stride."""
    assert input_size([numbered_map(2, 3), numbered_map(7, 9)], Head((stride, 100), 2, 1)) == size


def test_centres_of_one_level():
    """ANC-1: centres are (x, y), half a cell from the corner, in the order of `flatten`."""
    anchors = make_anchors([numbered_map(2, 3)], Head((8,), 2, 1))
    assert anchors.centres.tolist() == [
        [0.5, 0.5],
        [1.5, 0.5],
        [2.5, 0.5],
        [0.5, 1.5],
        [1.5, 1.5],
        [2.5, 1.5],
    ]
    assert anchors.strides.tolist() == [[8]] * 6


def test_centres_of_several_levels():
    """ANC-1: every level's centres start half a cell from the corner, for odd grid sizes and any strides."""
    anchors = make_anchors(
        [numbered_map(1, 3), numbered_map(1, 2), numbered_map(1, 1)], Head((4, 10, 30), 2, 1)
    )
    assert anchors.centres.tolist() == [
        [0.5, 0.5],
        [1.5, 0.5],
        [2.5, 0.5],
        [0.5, 0.5],
        [1.5, 0.5],
        [0.5, 0.5],
    ]
    assert anchors.strides.tolist() == [[4], [4], [4], [10], [10], [30]]


def test_centres_in_pixels():
    """ANC-1: centres in pixels are centres in grid units times the anchor's own stride."""
    anchors = make_anchors([numbered_map(1, 3), numbered_map(2, 1)], Head((4, 10), 2, 1))
    assert anchors.pixels.tolist() == [[2, 2], [6, 2], [10, 2], [5, 5], [5, 15]]


def test_the_articles_8400_anchors():
    """ANC-1: 8400 anchors on 80 x 80, 40 x 40 and 20 x 20 cells, with the centres of the first and the last cell."""
    maps = [torch.zeros(1, 66, side, side) for side in (80, 40, 20)]
    pixels = make_anchors(maps, Head((8, 16, 32), 2)).pixels
    assert pixels.shape == (8400, 2)
    assert pixels[[0, 6399, 6400, 8399]].tolist() == [[4, 4], [636, 636], [8, 8], [624, 624]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_anchors_have_the_maps_dtype(dtype: torch.dtype):
    """ANC-1: anchors have the dtype of the feature maps."""
    anchors = make_anchors([numbered_map(1, 2).to(dtype)], Head((8,), 2, 1))
    assert isinstance(anchors, Anchors)
    assert (anchors.centres.dtype, anchors.strides.dtype) == (dtype, dtype)
