"""Stage "anchors": one anchor per grid cell, and the feature maps flattened in the same order.

The article calls these steps `pred_process` and `make_anchors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tal_reference.settings import Head
from tal_reference.shapes import Float


@dataclass(frozen=True)
class Anchors:
    """All A anchors of the input: level by level, row by row (PRE-1).

    Attributes:
        centres: (A, 2) x and y in grid units of the anchor's own level.
        strides: (A, 1) pixels per grid unit.
    """

    centres: Float[Tensor, "A 2"]
    strides: Float[Tensor, "A 1"]

    @property
    def pixels(self) -> Float[Tensor, "A 2"]:
        """The centres in pixels: (A, 2) x and y (ANC-1)."""
        return self.centres * self.strides


def flatten(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]], head: Head
) -> tuple[Float[Tensor, "B A bins"], Float[Tensor, "B A C"]]:
    """Return the distance logits (B, A, 4R) and class logits (B, A, C) of all levels, one row per anchor (PRE-1).

    The result is a copy of all predictions, so that later stages do not handle levels. The copy and its gradient, which
    is as large, make up most of the memory of the loss. A loss that handled levels one by one would not need the copy,
    but would be harder to read.

    Raises:
        ValueError: the number of maps or channels does not fit the head, or the maps differ in number of images or
            dtype.
    """
    if len(feature_maps) != len(head.strides):
        maps, levels = len(feature_maps), len(head.strides)
        raise ValueError(f"got {maps} feature maps for {levels} strides, expected one per stride")
    wrong = [tuple(level.shape) for level in feature_maps if level.shape[1] != head.channels]
    if wrong:
        raise ValueError(f"feature maps have the shapes {wrong}; the head has 4R + C = {head.channels} channels")
    if len({(len(level), level.dtype) for level in feature_maps}) > 1:
        found = [(len(level), level.dtype) for level in feature_maps]
        raise ValueError(f"feature maps of one batch differ in the number of images or in dtype: {found}")
    channels = torch.cat([level.flatten(2) for level in feature_maps], dim=2)  # (B, 4R + C, A)
    distances, logits = channels.split((4 * head.reg_max, head.classes), dim=1)  # (B, 4R, A), (B, C, A)
    return distances.mT, logits.mT  # (B, A, 4R), (B, A, C)


def input_size(feature_maps: Sequence[Float[Tensor, "B _ _ _"]], head: Head) -> tuple[int, int]:
    """Return the height and width of the input in pixels: the first level's grid times its stride (PRE-2)."""
    rows, columns = feature_maps[0].shape[2:]
    return rows * head.strides[0], columns * head.strides[0]


def make_anchors(feature_maps: Sequence[Float[Tensor, "B _ _ _"]], head: Head) -> Anchors:
    """Place an anchor at the centre of every grid cell (ANC-1), in the feature maps' dtype and on their device."""
    centres, strides = [], []
    for level, stride in zip(feature_maps, head.strides, strict=True):
        rows, columns = level.shape[2:]
        cell = torch.arange(rows * columns, device=level.device)  # (H W,) row by row
        corners = torch.stack((cell % columns, cell // columns), dim=1)  # (H W, 2) x and y
        centres.append(corners.to(level.dtype) + 0.5)  # (H W, 2)
        strides.append(level.new_full((rows * columns, 1), stride))  # (H W, 1)
    return Anchors(torch.cat(centres), torch.cat(strides))
