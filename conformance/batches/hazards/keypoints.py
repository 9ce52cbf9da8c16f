"""Hazards of poses, found in a batch's content (specification section 20).

"GT" refers to real ground truths; a keypoint is visible if its visibility is not 0 (POSE-IN-2).
"""

from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.batches.hazards.content import Content
from tal_conformance.batches.hazards.registry import hazard
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import POSE, POSE26

POSES = (POSE.name, POSE26.name)


class PosedContent(Content):
    """The properties of a batch of poses that the detectors need: those of detection, and the GTs' keypoints."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        rows = batch.annotations.detach().cpu()  # (N, 6 + 3K)
        height, width = batch.size
        box = rows[:, 2:6] * torch.tensor((width, height, width, height))  # (N, 4)
        real = (
            torch.cat((box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2), 1).sum(1) > 0
        )  # (N,) ANN-3
        keypoints = rows[real, 6:].unflatten(1, (-1, 3))  # (n, K, 3)
        self.points = keypoints[..., :2] * torch.tensor((width, height))  # (n, K, 2) pixels
        self.visibilities = keypoints[..., 2]  # (n, K)
        self.shape = batch.head.keypoints or (0, 0)
        self.own_sigmas = batch.head.keypoint_sigmas

    @cached_property
    def visible(self) -> Tensor:
        """(n,) number of visible keypoints of each GT."""
        return (self.visibilities != 0).sum(1)

    @cached_property
    def sides(self) -> Tensor:
        """(n,) side of a square with the area of each GT's box, in pixels."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1).clamp(min=0).sqrt()


@hazard("truth", POSES)
def no_visible_keypoint(content: PosedContent) -> bool | Tensor:
    """No keypoint of a GT is visible: its loss is 0, but kobj counts it (POSE-4, POSE-5)."""
    return (content.visible == 0).any()


@hazard("truth", POSES)
def no_visible_keypoint_in_batch(content: PosedContent) -> bool | Tensor:
    """No keypoint of any GT is visible."""
    return (content.visible == 0).all()


@hazard("truth", POSES)
def one_visible_keypoint(content: PosedContent) -> bool | Tensor:
    """One keypoint of a GT is visible, of several."""
    return (content.visible == 1).any() and content.shape[0] > 1


@hazard("truth", POSES)
def some_keypoints_invisible(content: PosedContent) -> bool | Tensor:
    """A GT has both visible and invisible keypoints."""
    return ((content.visible > 0) & (content.visible < content.shape[0])).any()


@hazard("truth", POSES)
def odd_visibility(content: PosedContent) -> bool | Tensor:
    """A visibility is not 0, 1 or 2: it is visible in the loss (POSE-IN-2)."""
    return ((content.visibilities != 0) & (content.visibilities != 1) & (content.visibilities != 2)).any()


@hazard("truth", POSES)
def keypoint_outside_input(content: PosedContent) -> bool | Tensor:
    """A visible keypoint lies outside the input."""
    height, width = content.size
    inside = (content.points >= 0) & (content.points <= torch.tensor((width, height)))  # (n, K, 2)
    return (~inside.all(-1) & (content.visibilities != 0)).any()


@hazard("truth", POSES)
def keypoints_of_tiny_gt(content: PosedContent) -> bool | Tensor:
    """A GT with visible keypoints has an area below 1 square pixel: the similarity is nearly always 0 or 1 (POSE-3)."""
    sides = content.boxes[:, 2:] - content.boxes[:, :2]  # (n, 2)
    return ((sides.prod(1) < 1) & (content.visible > 0)).any()


@hazard("", POSES)
def two_numbers_per_keypoint(content: PosedContent) -> bool:
    """The head predicts no visibilities (D = 2): kobj is 0 (POSE-5)."""
    return content.shape[1] == 2


@hazard("", POSES)
def one_keypoint(content: PosedContent) -> bool:
    """The head has one keypoint (K = 1)."""
    return content.shape[0] == 1


@hazard("", POSES)
def coco_keypoints(content: PosedContent) -> bool:
    """The head has COCO's keypoints and sigmas (POSE-IN-3)."""
    return content.shape == (17, 3) and content.own_sigmas is None


@hazard("", POSES)
def own_keypoint_sigmas(content: PosedContent) -> bool:
    """The head has keypoint sigmas of its own (POSE-IN-3)."""
    return content.own_sigmas is not None


@hazard("truth", (POSE26.name,))
def level_gate_at_its_limit(content: PosedContent) -> bool | Tensor:
    """A GT's size is exactly 2 or 12 strides of a level: the level fits, rounding apart (P26-2, T6)."""
    limits = torch.tensor(
        [factor * stride for stride in content.head.strides for factor in (2, 12)]
    )  # (2 L,)
    return (content.sides[:, None] == limits).any()


@hazard("candidate", (POSE26.name,))
def level_gate_empties(content: PosedContent) -> bool | Tensor:
    """No candidate of a GT lies on a level that fits the GT's size: the GT keeps all candidates (P26-2)."""
    truth, anchor = content.candidate_pairs  # (P,) twice
    side, strides = content.sides[truth], content.strides  # (P,), (A,)
    own = strides[anchor]  # (P,)
    fits = ((side >= 2 * own) | (own == strides.min())) & ((side <= 12 * own) | (own == strides.max()))
    return len(set(truth.tolist())) > len(set(truth[fits].tolist()))


@hazard("candidate", POSES)
def different_gt_counts(content: PosedContent) -> bool:
    """Images have different numbers of GTs, at least one each: a mean by image is not the mean over positives."""
    counts = {count for count in content.counts if count}
    return len(counts) > 1
