"""Masks of generated batches: those of the ground truths, prototypes, and the coefficients of every anchor (SEG-*)."""

from collections.abc import Callable

import torch
from torch import Tensor

from tal_conformance.batches.content.predictions import Scene, aims
from tal_conformance.core.names import unknown_name

Size = tuple[int, int]
"""Height and width in pixels of masks or prototypes."""
Masks = Callable[[Scene, Size], Tensor]
"""Function of a scene and a size that returns masks (B, M, h_m, w_m) with values from 0 to 1."""
MASK_KINDS: dict[str, Masks] = {}
"""The kinds of true masks by name."""
SCALES = (0.0, 0.25, 1.0, 1.0, 4.0, 64.0)
"""Scales of mask coefficients: masks of logit 0, undecided, certain and saturated ones."""
SOFT = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Pixels of soft masks."""


def mask_kind(function: Masks) -> Masks:
    """Register a function as a kind of true masks, under the function's name."""
    MASK_KINDS[function.__name__] = function
    return function


def _pixels(scene: Scene, size: Size) -> tuple[Tensor, Tensor]:
    """Return the centres of mask pixels in pixels of the input, x (w_m,) and y (h_m, 1)."""
    (height, width), (rows, columns) = scene.size, size
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) * (width / columns)
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) * (height / rows)
    return x, y[:, None]


def _ellipses(scene: Scene, size: Size, larger: float = 1.0, shift: float = 0.0) -> Tensor:
    """Return ellipses (B, M, h_m, w_m): those in the boxes, `larger` times as large, moved by `shift` box widths."""
    x, y = _pixels(scene, size)
    left, top, right, bottom = scene.boxes[..., None, None].unbind(2)  # (B, M, 1, 1) each
    half_width, half_height = larger * (right - left) / 2, larger * (bottom - top) / 2
    across = x - (left + right) / 2 - shift * (right - left)  # (B, M, 1, w_m)
    down = y - (top + bottom) / 2  # (B, M, h_m, 1)
    outside = (across * half_height) ** 2 + (down * half_width) ** 2 > (half_width * half_height) ** 2
    return (~outside).float()


@mask_kind
def ellipses(scene: Scene, size: Size) -> Tensor:
    """Return the ellipse in every ground truth's box."""
    return _ellipses(scene, size)


@mask_kind
def whole_boxes(scene: Scene, size: Size) -> Tensor:
    """Return masks of all pixels whose centre lies in the ground truth's box."""
    x, y = _pixels(scene, size)
    left, top, right, bottom = scene.boxes[..., None, None].unbind(2)  # (B, M, 1, 1) each
    return ((x >= left) & (x < right) & (y >= top) & (y < bottom)).float()


@mask_kind
def larger_than_boxes(scene: Scene, size: Size) -> Tensor:
    """Return ellipses of twice the box's width and height, of which pixels outside of the box do not count (SEG-2)."""
    return _ellipses(scene, size, larger=2.0)


@mask_kind
def beside_boxes(scene: Scene, size: Size) -> Tensor:
    """Return ellipses that lie a box's width beside the box."""
    return _ellipses(scene, size, shift=1.0)


@mask_kind
def some_empty(scene: Scene, size: Size) -> Tensor:
    """Return ellipses; about every second ground truth has no pixel."""
    return _ellipses(scene, size) * (scene.uniform(scene.boxes.shape[1], 1, 1) < 0.5)


@mask_kind
def scattered(scene: Scene, size: Size) -> Tensor:
    """Return masks of random pixels of the whole image."""
    return (scene.uniform(scene.boxes.shape[1], *size) < 0.5).float()


@mask_kind
def soft(scene: Scene, size: Size) -> Tensor:
    """Return random values of `SOFT` in every pixel; one picture for all ground truths cannot hold them."""
    return torch.tensor(SOFT)[(len(SOFT) * scene.uniform(scene.boxes.shape[1], *size)).long()]


def true_masks(scene: Scene, kind: str, size: Size, overlapping: bool) -> Tensor:
    """Return masks (B, M, h_m, w_m) of the ground truths.

    Args:
        scene: anchors and ground truths.
        kind: a key of `MASK_KINDS`.
        size: height and width of the masks.
        overlapping: True if masks are stored as one picture per image: values above 0 become 1, and a later ground
            truth covers earlier ones (SEG-IN-2).

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in MASK_KINDS:
        raise ValueError(unknown_name("kind of masks", str(kind), MASK_KINDS, "kinds of masks"))
    masks = MASK_KINDS[kind](scene, size) * scene.present[..., None, None]  # (B, M, h_m, w_m)
    if not overlapping:
        return masks
    later = masks.flip(1).cumsum(1).flip(1) - masks  # (B, M, h_m, w_m)
    return ((masks > 0) & (later == 0)).float()


def mask_columns(scene: Scene, masks: Tensor) -> Tensor:
    """Return the columns (N, h_m w_m) that follow in the annotation rows: the pixels of each mask, row by row."""
    return masks[scene.present].flatten(1)


def predicted_masks(scene: Scene, masks: Tensor, count: int, size: Size) -> tuple[Tensor, Tensor]:
    """Return coefficients (B, A, n) and prototypes (B, n, h_p, w_p).

    The first prototypes resemble the masks of the ground truths with the same index; an anchor uses the prototype of a
    close ground truth, if there is one, beside random shares of all prototypes.

    Args:
        scene: anchors and ground truths.
        masks: (B, M, h_m, w_m) true masks.
        count: number n of prototypes.
        size: height and width of the prototypes.
    """
    prototypes = scene.wobble(count, *size)  # (B, n, h_p, w_p)
    rows, columns = (
        torch.arange(own) * true // own for own, true in zip(size, masks.shape[2:], strict=True)
    )  # (h_p,), (w_p,) nearest pixels of the masks
    known = masks[:, :count, rows[:, None], columns]  # (B, min(M, n), h_p, w_p)
    prototypes[:, : known.shape[1]] += 2 * known - 1
    owner, covered = aims(scene, scene.uniform(scene.anchors))  # (B, A), (B, A)
    own = (torch.arange(count) == owner[..., None]) & covered[..., None]  # (B, A, n)
    scales = torch.tensor(SCALES)[(len(SCALES) * scene.uniform(scene.anchors, 1)).long()]  # (B, A, 1)
    return scales * (2 * own + 0.5 * scene.wobble(scene.anchors, count)), prototypes
