"""Hazards of heads, hyperparameters and sizes: numbers that a counter, an index, a buffer or a constant cannot hold.

An implementation may store a count in 8 bits, an index in 11 bits (exact in float16), 16 bits or 24 bits (exact in
float32), work in chunks, or assume the head of an official model. The detectors use the
same words and read a batch in the same way as those of `detection.py`.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.hazards.registry import hazard

OVERFLOWS = 88.8
"""A number whose exponential is infinite in float32."""
VANISHES = -104.0
"""A number whose exponential is zero in float32."""

# The head and the hyperparameters


@hazard()
def strides_not_doubled(content: Content) -> bool:
    """A stride is larger than the previous stride, but not twice as large."""
    strides = content.head.strides
    return any(finer < coarser != 2 * finer for finer, coarser in pairwise(strides))


@hazard()
def unsorted_strides(content: Content) -> bool:
    """The strides do not ascend."""
    return list(content.head.strides) != sorted(content.head.strides)


@hazard()
def five_levels(content: Content) -> bool:
    """The head has five levels or more."""
    return len(content.head.strides) >= 5


@hazard()
def other_bins(content: Content) -> bool:
    """R is more than 1 and not a power of two.

    R is the number of bins of each side's distribution.
    """
    return content.head.reg_max.bit_count() > 1


@hazard("truth")
def label_above_127(content: Content) -> Tensor:
    """A GT has a class that 8 bits with a sign do not hold."""
    return (content.labels > 127).any()


@hazard("truth")
def label_above_255(content: Content) -> Tensor:
    """A GT has a class that 8 bits do not hold."""
    return (content.labels > 255).any()


@hazard("truth")
def k_above_13(content: Content) -> bool:
    """A GT selects more than 13 anchors with t > 0, the largest k of an official default (TAL-TOPK-1).

    t is the alignment metric of a GT and an anchor.
    """
    return _selects_more_than(content, 13)


@hazard("truth")
def k_above_32(content: Content) -> bool:
    """A GT selects more than 32 anchors with t > 0 (TAL-TOPK-1).

    t is the alignment metric of a GT and an anchor.
    """
    return _selects_more_than(content, 32)


@hazard()
def uneven_exponents(content: Content) -> bool:
    """Alpha or beta is not a multiple of 1/2."""
    return any((2 * number) % 1 for number in (content.alpha, content.beta))


@hazard()
def gain_not_in_float16(content: Content) -> bool:
    """Float16 does not hold a gain: it is rounded there, or becomes zero or infinite."""
    return any(float(torch.tensor(gain).half()) != gain for gain in _gains(content))


@hazard()
def gain_of_zero(content: Content) -> bool:
    """A gain is zero."""
    return 0 in _gains(content)


# Numbers of images, rows, anchors and positives


@hazard()
def images_above_8(content: Content) -> bool:
    """There are more than 8 images."""
    return len(content.logits) > 8


@hazard()
def images_above_64(content: Content) -> bool:
    """There are more than 64 images."""
    return len(content.logits) > 64


@hazard()
def rows_above_256(content: Content) -> bool:
    """An image has more than 256 rows."""
    return max(content.counts) > 256


@hazard("contested")
def claimants_above_255(content: Content) -> Tensor:
    """More than 255 GTs select one anchor (TAL-CONF-1)."""
    return (content.claims[1].sum(0) > 255).any()


@hazard("candidate")
def anchor_above_2047(content: Content) -> bool:
    """A GT selects an anchor with an index above 2,047."""
    return bool(content.selected[:, 2048:].any())


@hazard("candidate")
def anchor_above_65535(content: Content) -> bool:
    """A GT selects an anchor with an index above 65,535."""
    return bool(content.selected[:, 65536:].any())


@hazard("candidate")
def beyond_1024_px(content: Content) -> bool:
    """A GT selects an anchor more than 1,024 px from the left or top border: float16 rounds its centre."""
    return _selects_beyond(content, 1024)


@hazard("candidate")
def beyond_2048_px(content: Content) -> bool:
    """A GT selects an anchor more than 2,048 px from the left or top border: float16 rounds it to even numbers."""
    return _selects_beyond(content, 2048)


@hazard("candidate")
def candidates_above_65536(content: Content) -> bool:
    """There are more than 65,536 pairs of a GT and a candidate."""
    return len(content.candidate_pairs[0]) > 2**16


@hazard("candidate")
def positives_above_2048(content: Content) -> bool:
    """More than 2,048 anchors are selected."""
    return _positives(content) > 2**11


@hazard("candidate")
def positives_above_65536(content: Content) -> bool:
    """More than 65,536 anchors are selected."""
    return _positives(content) > 2**16


@hazard()
def logits_above_2_24(content: Content) -> bool:
    """There are more than 2^24 class logits: float32 does not hold their indices."""
    return content.logits.numel() > 2**24


# The predictions


@hazard()
def offset_distance_logits(content: Content) -> bool:
    """The exponentials of a side's distance logits overflow or all vanish, if the largest is not subtracted (DEC-1)."""
    if content.head.reg_max == 1:
        return False
    largest = content.distances.amax(-1)  # (B, A, 4)
    return bool(((largest > OVERFLOWS) | (largest < VANISHES)).any())


@hazard()
def class_logits_above_1000(content: Content) -> bool:
    """A class logit is finite and beyond 1,000 or -1,000 (LOSS-CLS-1)."""
    size = content.logits.abs()  # (B, A, C)
    return bool(((size > 1000) & (size < math.inf)).any())


def _gains(content: Content) -> tuple[float, float, float]:
    numbers = content.hyperparameters
    return numbers.box_gain, numbers.cls_gain, numbers.dfl_gain


def _selects_more_than(content: Content, number: int) -> bool:
    return content.k > number and bool(((content.metric > 0).sum(1) > number).any())


def _selects_beyond(content: Content, pixels: int) -> bool:
    return bool(content.selected[:, (content.centres > pixels).any(1)].any())


def _positives(content: Content) -> int:
    return int((content.by_image(content.selected) > 0).sum())
