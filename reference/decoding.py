"""Stage "decode": convert distributions over distance bins to boxes; the article's `decode`."""

import torch
from torch import Tensor

from tal_reference.anchors import Anchors
from tal_reference.shapes import Float


def expected_distances(distances: Float[Tensor, "*rows bins"], reg_max: int) -> Float[Tensor, "*rows 4"]:
    """Return (.., 4) the distances of the left, top, right and bottom side from the anchor, in grid units.

    Each side's R logits are a distribution over the distances 0, 1, .. R - 1, whose expectation is the distance; a
    single bin is the distance itself (DEC-1; Li et al., Generalized Focal Loss, 2020).
    """
    sides = distances.unflatten(-1, (4, reg_max))  # (.., 4, R)
    if reg_max == 1:
        return sides.squeeze(-1)  # (.., 4)
    bins = torch.arange(reg_max, dtype=distances.dtype, device=distances.device)  # (R,)
    return sides.softmax(-1) @ bins  # (.., 4)


def boxes_around(centres: Float[Tensor, "*rows 2"], distances: Float[Tensor, "*rows 4"]) -> Float[Tensor, "*rows 4"]:
    """Return xyxy boxes whose sides lie at the given distances from the centres, in the same units (DEC-2)."""
    left_top, right_bottom = distances.chunk(2, dim=-1)
    return torch.cat((centres - left_top, centres + right_bottom), dim=-1)


def decode(distances: Float[Tensor, "*B A bins"], anchors: Anchors, reg_max: int) -> Float[Tensor, "*B A 4"]:
    """Return the predicted box of every anchor, xyxy in grid units of its level (DEC-1, DEC-2)."""
    sides = expected_distances(distances, reg_max)  # (.., A, 4)
    return boxes_around(anchors.centres.expand(*sides.shape[:-1], 2), sides)
