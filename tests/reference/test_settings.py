"""Tests of heads and hyperparameters."""

import pytest

from tal_reference import Head, Hyperparameters


@pytest.mark.parametrize(("classes", "reg_max", "channels"), [(2, 16, 66), (80, 16, 144), (1, 1, 5)])
def test_channels(classes: int, reg_max: int, channels: int):
    """PRE-1: a head has 4R + C channels, such as 66 for the article's 16 bins (R) and two classes (C)."""
    assert Head((8, 16, 32), classes, reg_max).channels == channels


@pytest.mark.parametrize(
    ("strides", "classes", "reg_max"),
    [((), 1, 16), ((8, 0), 1, 16), ((-8,), 1, 16), ((8,), 0, 16), ((8,), 1, 0)],
)
def test_a_head_without_levels_or_with_numbers_that_are_not_positive_is_rejected(
    strides: tuple[int, ...], classes: int, reg_max: int
):
    with pytest.raises(ValueError, match="a head needs at least one level and positive"):
        Head(strides, classes, reg_max)


def test_the_smallest_head_is_accepted():
    """A head with one level of stride 1, one class and one bin is valid."""
    assert Head((1,), 1, 1).channels == 5


def test_defaults_are_those_of_the_detection_loss():
    """TAL-MET-1, TAL-TOPK-1, LOSS-GAIN-1: default hyperparameters are those of the official detection loss.

    The defaults of the official assigner class differ.
    """
    numbers = Hyperparameters()
    assert (numbers.topk, numbers.alpha, numbers.beta, numbers.topk2) == (10, 0.5, 6.0, None)
    assert (numbers.box_gain, numbers.cls_gain, numbers.dfl_gain) == (7.5, 0.5, 1.5)
