"""Geometry of generated batches: anchors, predicted boxes, ground truths and their overlap, for a whole batch at once.

The reference computes the same geometry, one image at a time. It is implemented a second time here because batches
must be made and described by code that is independent of the reference: a fault in the reference must not change the
batches that should expose it. Operations whose results become part of a batch round identically on every machine, so
that a recipe gives the same bytes everywhere.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tal_reference import Head

EPS = 1e-7
"""The constant eps in the denominators of the CIoU (IOU-1)."""
INSIDE = 1e-9
"""Pixels by which the centre of a candidate lies inside its box (TAL-CAND-1)."""
NO_WEIGHT = -100.0
"""Logit of a bin without weight: e^-100 vanishes beside 1 in every dtype, yet losses stay finite."""

Grid = tuple[int, int]
"""Rows and columns of one level."""


@lru_cache(maxsize=256)
def anchors(grids: tuple[Grid, ...], strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return anchor centres (A, 2), x and y in pixels, and strides (A,), by level and row (ANC-1).

    The tensors are float32, on the CPU, and shared between calls: they must not be written to.
    """
    centres, steps = [], []
    for (rows, columns), stride in zip(grids, strides, strict=True):
        ys = (torch.arange(rows, dtype=torch.float32) + 0.5) * stride  # (H,)
        xs = (torch.arange(columns, dtype=torch.float32) + 0.5) * stride  # (W,)
        centres.append(torch.stack((xs.repeat(rows), ys.repeat_interleave(columns)), dim=1))  # (H W, 2)
        steps.append(torch.full((rows * columns,), stride, dtype=torch.float32))  # (H W,)
    return torch.cat(centres), torch.cat(steps)


def flatten(feature_maps: Sequence[Tensor], head: Head) -> tuple[Tensor, Tensor]:
    """Return the distance logits (B, A, 4, R) and class logits (B, A, C) of all levels (PRE-1).

    Channels after the class logits, and maps after those of the levels, belong to further head fields and are left out.
    """
    maps = [level[:, : head.channels] for level in feature_maps[: len(head.strides)]]
    rows = torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)  # (B, A, 4R + C)
    distances, classes = rows.split((4 * head.reg_max, head.classes), dim=2)
    return distances.unflatten(2, (4, head.reg_max)), classes


def other_fields(feature_maps: Sequence[Tensor], head: Head) -> Tensor:
    """Return the values (B, A, others) of the channels after the class logits, such as angles; (B, A, 0) if none.

    Maps after those of the levels are left out.
    """
    levels = feature_maps[: len(head.strides)]
    return torch.cat([level[:, head.channels :].flatten(2) for level in levels], dim=2).transpose(1, 2)


def fold(distances: Tensor, classes: Tensor, grids: Sequence[Grid], *others: Tensor) -> tuple[Tensor, ...]:
    """Return the feature maps (B, 4R + C, H, W) of distance and class logits, the inverse of `flatten` (PRE-1).

    The channels of further head fields, `others`, (B, A, width) each, follow the class logits.
    """
    rows = torch.cat((distances.flatten(2), classes, *others), dim=2).transpose(1, 2)  # (B, 4R + C, A)
    levels = rows.split([height * width for height, width in grids], dim=2)
    maps = (level.unflatten(2, grid) for level, grid in zip(levels, grids, strict=True))
    return tuple(level.clone(memory_format=torch.contiguous_format) for level in maps)


def decode(distances: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Return the boxes (.., A, 4), xyxy in pixels, of distance logits (.., A, 4, R) (DEC-1, DEC-2)."""
    reg_max = distances.shape[-1]
    if reg_max == 1:
        sides = distances.squeeze(-1)  # (.., A, 4)
    else:
        bins = torch.arange(reg_max, dtype=distances.dtype)  # (R,)
        sides = distances.softmax(-1) @ bins  # (.., A, 4)
    return boxes_around(centres, sides * strides[:, None])


def boxes_around(centres: Tensor, sides: Tensor) -> Tensor:
    """Return the boxes (.., A, 4) whose edges are `sides` (.., A, 4) away from `centres` (A, 2)."""
    left_top, right_bottom = sides.chunk(2, dim=-1)
    return torch.cat((centres - left_top, centres + right_bottom), dim=-1)


def sides_to(boxes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Return the distances (.., A, 4) in grid units from `centres` (A, 2) to the edges of `boxes` (.., A, 4)."""
    left_top, right_bottom = boxes.chunk(2, dim=-1)
    return torch.cat((centres - left_top, right_bottom - centres), dim=-1) / strides[:, None]


def encode(sides: Tensor, reg_max: int, noise: Tensor | None = None) -> Tensor:
    """Return distance logits (.., R) that decode to `sides` (..) in grid units, as nearly as the bins allow.

    Args:
        sides: desired distances; clamped to [0, R - 1] if R > 1.
        reg_max: bins R. With one bin the logit is the distance.
        noise: None to give probability only to the two bins around the distance, which is exact for multiples of 0.5.
            A tensor (.., R) is added to bell-shaped logits around the distance, as in the distributions of a trained
            network; the decoded distance is then wrong by some tenths.
    """
    if reg_max == 1:
        return sides.unsqueeze(-1)  # (.., 1)
    bins = torch.arange(reg_max, dtype=torch.float32)  # (R,)
    away = (bins - sides.clamp(0, reg_max - 1).unsqueeze(-1)).abs()  # (.., R)
    if noise is not None:
        return noise - 1.5 * away.square()
    # In float64, so that rounding to float32 hides the last bit of the logarithm, which differs by machine.
    return (1 - away.double()).clamp(min=0).log().clamp(min=NO_WEIGHT).float()


def pixel_boxes(annotations: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (N, 4), xyxy in pixels, of annotation rows; `size` is the input's height and width (ANN-1)."""
    height, width = size
    scaled = annotations[:, 2:6] * annotations.new_tensor((width, height, width, height))  # (N, 4)
    centre, half = scaled[:, :2], scaled[:, 2:] / 2
    return torch.cat((centre - half, centre + half), dim=1)


def widened(boxes: Tensor, floor: int) -> Tensor:
    """Return `boxes` (N, 4) with sides shorter than `floor` pixels widened to `floor` about the centre (TAL-CAND-2)."""
    left_top, right_bottom = boxes.chunk(2, dim=1)  # (N, 2), (N, 2)
    centre, sides = (left_top + right_bottom) / 2, right_bottom - left_top  # (N, 2), (N, 2)
    grown = torch.cat((centre - floor / 2, centre + floor / 2), dim=1)  # (N, 4)
    return torch.where((sides < floor).repeat(1, 2), grown, boxes)


def depth(centres: Tensor, boxes: Tensor) -> Tensor:
    """Return the distance (.., A) in pixels of `centres` (A, 2) to the nearest edge of `boxes`; negative outside."""
    x, y = centres.unbind(1)  # (A,), (A,)
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(-2)  # (.., 1) each
    across, down = torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y)  # (.., A), (.., A)
    return torch.minimum(across, down)


def inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """Return (.., A) bool: True where an anchor of `centres` (A, 2) is a candidate of `boxes` (.., 4) (TAL-CAND-1)."""
    return depth(centres, boxes) > INSIDE


def ciou(first: Tensor, second: Tensor) -> Tensor:
    """Return the elementwise CIoU (..) of two tensors of boxes (.., 4), xyxy (IOU-1)."""
    (left_top1, right_bottom1), (left_top2, right_bottom2) = first.chunk(2, -1), second.chunk(2, -1)
    w1, h1 = (right_bottom1 - left_top1).unbind(-1)
    w2, h2 = (right_bottom2 - left_top2).unbind(-1)
    h1, h2 = h1 + EPS, h2 + EPS
    shared = torch.minimum(right_bottom1, right_bottom2) - torch.maximum(left_top1, left_top2)  # (.., 2)
    shared = shared.clamp(min=0).prod(-1)
    iou = shared / (w1 * h1 + w2 * h2 - shared + EPS)
    around = torch.maximum(right_bottom1, right_bottom2) - torch.minimum(left_top1, left_top2)  # (.., 2)
    apart = (left_top1 + right_bottom1 - left_top2 - right_bottom2) / 2  # (.., 2)
    # rho^2 / c^2: squared centre distance over squared diagonal
    distance = apart.square().sum(-1) / (around.square().sum(-1) + EPS)
    v = 4 / math.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square()
    return iou - distance - v * v / (1 - iou + v + EPS)


def in_frame(vectors: Tensor, angles: Tensor) -> Tensor:
    """Return vectors (.., 2) in the axes of boxes that are turned by `angles` (..).

    Cosines are taken in float64, so that rounding to float32 hides their last bit, which differs by machine.
    """
    x, y = vectors.double().unbind(-1)
    cos, sin = angles.double().cos(), angles.double().sin()
    return torch.stack((x * cos + y * sin, y * cos - x * sin), dim=-1).float()


def joined_angles(where: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return (B, A) angles: `first` where the mask `where` is True, else `second`; None for upright boxes."""
    return None if first is None or second is None else torch.where(where, first, second)
