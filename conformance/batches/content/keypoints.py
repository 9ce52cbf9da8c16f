"""Keypoints of generated batches: those of the ground truths, and the predictions of every anchor (POSE-*)."""

from collections.abc import Callable

import torch
from torch import Tensor

from tal_conformance.batches.content.predictions import Scene, aims
from tal_conformance.core.names import unknown_name

Numbers = Callable[[Scene, int], tuple[Tensor, Tensor]]
"""Function of a scene and K that returns points (B, M, K, 2) in pixels and visibilities (B, M, K)."""
KEYPOINT_KINDS: dict[str, Numbers] = {}
"""The kinds of true keypoints by name."""
ERRORS = (0.0, 0.0, 0.02, 0.1, 0.5, 4.0)
"""Errors of predicted keypoints, in square roots of the ground truth's area: exact hits, OKS from 1 to nearly 0, misses
so wide that the similarity is 0 in float32."""
LOGITS = (0.0, 1.0, -1.0, 3.0, -3.0, 40.0, -40.0)
"""Visibility logits, to which random numbers from (-1, 1) are added; the last two are saturated."""


def keypoint_kind(function: Numbers) -> Numbers:
    """Register a function as a kind of true keypoints, under the function's name."""
    KEYPOINT_KINDS[function.__name__] = function
    return function


def _within(scene: Scene, count: int) -> Tensor:
    """Return points (B, M, K, 2) in pixels, in or a tenth of a side beside the ground truths' boxes."""
    left_top, right_bottom = scene.boxes[:, :, None].chunk(2, dim=-1)  # (B, M, 1, 2) twice
    place = 1.2 * scene.uniform(scene.boxes.shape[1], count, 2) - 0.1  # (B, M, K, 2)
    return left_top + place * (right_bottom - left_top)


@keypoint_kind
def labelled(scene: Scene, count: int) -> tuple[Tensor, Tensor]:
    """Return keypoints in and beside their boxes, with visibilities 0, 1 and 2 (POSE-IN-2)."""
    return _within(scene, count), (3 * scene.uniform(scene.boxes.shape[1], count)).floor()


@keypoint_kind
def none_in_some(scene: Scene, count: int) -> tuple[Tensor, Tensor]:
    """Return keypoints as `labelled` does; every second ground truth has no visible keypoint."""
    points, visibilities = labelled(scene, count)
    return points, visibilities * (scene.uniform(scene.boxes.shape[1], 1) < 0.5)


@keypoint_kind
def invisible(scene: Scene, count: int) -> tuple[Tensor, Tensor]:
    """Return keypoints of which none is visible."""
    points = _within(scene, count)
    return points, torch.zeros_like(points[..., 0])


@keypoint_kind
def one_visible(scene: Scene, count: int) -> tuple[Tensor, Tensor]:
    """Return keypoints of which one of each ground truth is visible."""
    points = _within(scene, count)
    chosen = (count * scene.uniform(scene.boxes.shape[1], 1)).floor()  # (B, M, 1)
    return points, 2.0 * (torch.arange(count) == chosen)


@keypoint_kind
def other_visibilities(scene: Scene, count: int) -> tuple[Tensor, Tensor]:
    """Return keypoints with visibilities -1, 0, 0.5 and 2: all but 0 are visible in the loss (POSE-IN-2)."""
    points, lots = _within(scene, count), scene.uniform(scene.boxes.shape[1], count)
    return points, torch.tensor([-1.0, 0.0, 0.5, 2.0])[(4 * lots).long()]


@keypoint_kind
def far_outside(scene: Scene, count: int) -> tuple[Tensor, Tensor]:
    """Return visible keypoints that lie anywhere up to a whole input beside the input."""
    height, width = scene.size
    place = 3 * scene.uniform(scene.boxes.shape[1], count, 2) - 1  # (B, M, K, 2)
    points = place * torch.tensor((width, height), dtype=torch.float32)
    return points, torch.ones_like(points[..., 0])


def true_keypoints(scene: Scene, kind: str, count: int) -> Tensor:
    """Return keypoints (B, M, K, 3) of the ground truths: x and y in pixels, and visibility.

    Args:
        scene: anchors and ground truths.
        kind: a key of `KEYPOINT_KINDS`.
        count: number K of keypoints.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KEYPOINT_KINDS:
        raise ValueError(unknown_name("kind of keypoints", str(kind), KEYPOINT_KINDS, "kinds of keypoints"))
    points, visibilities = KEYPOINT_KINDS[kind](scene, count)
    return torch.cat((points, visibilities[..., None]), dim=-1)


def keypoint_columns(scene: Scene, keypoints: Tensor) -> Tensor:
    """Return the columns (N, 3K) that follow in the annotation rows, points normalised by the input's size."""
    height, width = scene.size
    normalised = keypoints / torch.tensor((width, height, 1.0))  # (B, M, K, 3)
    return normalised[scene.present].flatten(1)


def predicted_keypoints(scene: Scene, keypoints: Tensor, numbers: int) -> Tensor:
    """Return raw keypoints (B, A, K D): an anchor predicts a close ground truth's keypoints, with errors.

    Raw numbers are those of the head's decoding (POSE-2, P26-1).

    Args:
        scene: anchors and ground truths.
        keypoints: (B, M, K, 3) true keypoints in pixels.
        numbers: D, 2 or 3.
    """
    count = keypoints.shape[2]
    owner, _ = aims(scene, scene.uniform(scene.anchors))  # (B, A)
    image = torch.arange(len(owner))[:, None]  # (B, 1)
    aim, strides = keypoints[image, owner, :, :2], scene.strides[:, None, None]  # (B, A, K, 2), (A, 1, 1)
    sides = scene.boxes[..., 2:] - scene.boxes[..., :2]  # (B, M, 2)
    extent = sides.prod(-1).clamp(min=0).sqrt()[image, owner]  # (B, A)
    sizes = torch.tensor(ERRORS)[(len(ERRORS) * scene.uniform(scene.anchors)).long()]  # (B, A)
    error = (sizes * extent)[..., None, None] * scene.wobble(scene.anchors, count, 2)  # (B, A, K, 2)
    places, centres = (
        (aim + error) / strides,
        scene.centres[:, None] / strides,
    )  # (B, A, K, 2), (A, 1, 2) grid units
    raw = places - centres if scene.head.parts_assign else (places - (centres - 0.5)) / 2  # (B, A, K, 2)
    if numbers == 2:
        return raw.flatten(2)
    lots = (len(LOGITS) * scene.uniform(scene.anchors, count)).long()  # (B, A, K)
    logits = torch.tensor(LOGITS)[lots] + scene.wobble(scene.anchors, count)  # (B, A, K)
    return torch.cat((raw, logits[..., None]), dim=-1).flatten(2)
