"""Keypoints and masks of a captured call: columns of the annotation rows, and fields of the head (POSE-IN, SEG-IN)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tal_reference import Head
from tal_reference.keypoints import sigmas_of

PARTS = ("keypoints", "masks")
"""Names in the data loader's batch of what a captured call keeps besides images, classes and boxes."""


def is_other_loss(loss: type, criterion: Any, predictions: Any) -> bool:
    """Return True if a captured call has terms that no task has.

    It is a call of a subclass, such as that for Segment26 heads, or its predictions have semantic logits beside the
    prototypes (SEG-IN-1).
    """
    named = predictions[1] if isinstance(predictions, tuple) else predictions
    semantic = isinstance(named, Mapping) and isinstance(named.get("proto"), tuple)
    derived = hasattr(criterion, "keypoint_loss") or hasattr(criterion, "overlap")
    return semantic or (derived and type(criterion) is not loss)


def kept_parts(rows: Mapping[str, Any], is_pose: bool, is_segment: bool) -> dict[str, Tensor]:
    """Return the keypoints or masks of a data loader's batch, detached, if the call's loss reads them."""
    wanted = dict(zip(PARTS, (is_pose, is_segment), strict=True))
    return {name: rows[name].detach() for name, reads in wanted.items() if reads and name in rows}


def with_keypoints(criterion: Any, given: Tensor, rows: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Return annotation rows (N, 6 + 3K) and the head of a loss of poses.

    Args:
        criterion: the official loss.
        given: (N, K, 3) x, y and visibility, or (N, K, 2), all visible.
        rows: (N, 6) annotation rows.
        head: the head without keypoints.
    """
    count, numbers = (int(number) for number in criterion.kpt_shape)
    columns = given.shape[-1] if len(rows) else 3  # without rows a loader may have no columns either
    points = given.float().cpu().reshape(len(rows), count, columns)  # (N, K, 2 or 3)
    if points.shape[2] == 2:
        points = torch.cat((points, torch.ones_like(points[..., :1])), dim=2)
    head = replace(head, keypoints=(count, numbers))
    sigmas = criterion.keypoint_loss.sigmas.detach().float().cpu().flatten()  # (K,)
    if not torch.equal(sigmas, sigmas_of(head, like=sigmas)):
        head = replace(head, keypoint_sigmas=tuple(sigmas.tolist()))
    return torch.cat((rows, points.flatten(1)), dim=1), head


def with_masks(
    criterion: Any, given: Tensor, rows: Tensor, head: Head, prototypes: int
) -> tuple[Tensor, Head]:
    """Return annotation rows (N, 6 + h_m w_m) and the head of a loss of masks.

    Args:
        criterion: the official loss.
        given: (B, h_m, w_m) picture of the numbers of each image's rows, or (N, h_m, w_m) one mask for each row.
        rows: (N, 6) annotation rows.
        head: the head without masks.
        prototypes: number of prototypes.
    """
    overlapping = bool(criterion.overlap)
    pictures = given.float().cpu().reshape(-1, *given.shape[-2:])  # (B or N, h_m, w_m)
    if overlapping:
        image = rows[:, 0].long()  # (N,)
        number = torch.tensor([int((image[:row] == own).sum()) + 1 for row, own in enumerate(image)])  # (N,)
        pictures = (pictures[image] == number.view(-1, 1, 1)).float()  # (N, h_m, w_m)
    height, width = given.shape[-2:]
    head = replace(head, prototypes=prototypes, masks=(height, width), overlapping_masks=overlapping)
    return torch.cat((rows, pictures.reshape(len(rows), height * width)), dim=1), head
