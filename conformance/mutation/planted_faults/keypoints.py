"""Faults planted in the loss of poses, in its own functions; functions of detection have faults of their own."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import ENTERED, Fault, registering
from tal_reference import DetectionLoss, keypoints
from tal_reference.keypoints import KeypointPredictions, PositiveKeypoints
from tal_reference.loss import Positives

HOME = "tal_reference.keypoints"
SHARED = (
    *(
        "width_and_height_exchanged",
        "most_likely_distance",
        "inclusive_border",
        "iou_for_ciou",
        "alpha_of_one",
    ),
    *("beta_of_five", "nine_for_ten", "contested_by_metric", "losing_truth_keeps_its_score"),
    *("label_of_the_first", "weights_before_conflict", "not_scaled_by_overlap", "mean_cross_entropy"),
    "dfl_weights_swapped",
)
"""Faults of detection in functions that poses share (POSE-1), at least one for every stage but box and total."""
POSE_FAULTS: dict[str, Fault] = {}
"""Every fault of poses by name."""
ORIGINALS = {
    name: getattr(keypoints, name)
    for name in (
        *("read_keypoints", "true_keypoints", "sigmas_of", "with_keypoints", "decode_keypoints"),
        *("at_positives", "similarity", "pose_term", "visibility_term", "pose_items", "loss_items"),
    )
}
"""The functions of the reference, before faults replace them."""


planted = registering(POSE_FAULTS, HOME)


@planted("POSE-IN-1", StageName.POSE, "read_keypoints")
def keypoints_by_number(feature_maps: Any, head: Any) -> KeypointPredictions:
    """Return predictions whose channels are read as all x, then all y, then all visibilities."""
    given: KeypointPredictions = ORIGINALS["read_keypoints"](feature_maps, head)
    count, numbers = given.shape
    by_number = given.keypoints.unflatten(2, (numbers, count)).mT.flatten(2)  # (B, A, K D)
    return replace(given, keypoints=by_number)


@planted("POSE-IN-1", StageName.POSE, "read_keypoints")
def keypoints_from_the_next_channel(feature_maps: Any, head: Any) -> KeypointPredictions:
    """Return predictions whose keypoints begin one channel late."""
    given: KeypointPredictions = ORIGINALS["read_keypoints"](feature_maps, head)
    return replace(given, keypoints=given.keypoints.roll(-1, 2))


@planted("POSE-IN-2", StageName.POSE, "true_keypoints")
def occluded_keypoints_are_invisible(*given: Any) -> list[Tensor]:
    """Return true keypoints of which only those with a visibility above 1 are visible."""
    return [
        torch.cat((image[..., :2], image[..., 2:] * (image[..., 2:] > 1)), dim=-1)
        for image in ORIGINALS["true_keypoints"](*given)
    ]


@planted("POSE-IN-2", StageName.POSE, "true_keypoints")
def keypoints_exchange_width_and_height(rows: Any, annotations: Any, images: int, size: Any) -> Any:
    """Return true keypoints whose x is scaled by the input's height, and y by its width."""
    return ORIGINALS["true_keypoints"](rows, annotations, images, (size[1], size[0]))


@planted("POSE-IN-3", StageName.POSE, "sigmas_of")
def equal_sigmas_for_coco(head: Any, like: Tensor) -> Tensor:
    """Return 1 / K for every keypoint, also for COCO's."""
    if head.keypoint_sigmas is None:
        return like.new_full((head.keypoints[0],), 1 / head.keypoints[0])
    own: Tensor = ORIGINALS["sigmas_of"](head, like)
    return own


@planted("POSE-IN-3", StageName.POSE, "sigmas_of")
def own_sigmas_unread(head: Any, like: Tensor) -> Any:
    """Return the sigmas of the head's shape, although the head has its own."""
    return ORIGINALS["sigmas_of"](replace(head, keypoint_sigmas=None), like)


@planted("POSE-1", StageName.POSE, "with_keypoints")
def keypoints_of_the_first_truth(positives: Positives, owners: Tensor, truths: Any) -> Any:
    """Return positives with the keypoints of the first ground truth of their image."""
    return ORIGINALS["with_keypoints"](positives, torch.zeros_like(owners), truths)


@planted("POSE-1", StageName.POSE, "with_keypoints")
def keypoints_numbered_over_the_batch(positives: Positives, owners: Tensor, truths: Any) -> Positives:
    """Return positives with the keypoints of the batch's row `owners`, whatever their image."""
    return replace(positives, keypoints=torch.cat(list(truths))[owners])


@planted("POSE-2", StageName.POSE, "decode_keypoints")
def keypoints_from_the_centre(raw: Tensor, centres: Tensor) -> Tensor:
    """Return points whose raw 0 is the centre of the cell."""
    return 2 * raw + centres[..., None, :]


@planted("POSE-2", StageName.POSE, "decode_keypoints")
def keypoints_without_a_factor(raw: Tensor, centres: Tensor) -> Tensor:
    """Return points whose raw numbers are not doubled."""
    return raw + (centres - 0.5)[..., None, :]


@planted("POSE-3", StageName.POSE, "similarity")
def half_the_area(first: Any, second: Any, area: Tensor, sigmas: Any) -> Any:
    """Return similarities for an object of 0.53 of the box's area."""
    return ORIGINALS["similarity"](first, second, 0.53 * area, sigmas)


@planted("POSE-3", StageName.POSE, "similarity")
def variance_counted_once(first: Any, second: Any, area: Tensor, sigmas: Any) -> Any:
    """Return similarities with 2 sigma^2 in place of 8 sigma^2."""
    return ORIGINALS["similarity"](first, second, area, sigmas / 2)


@planted("POSE-4", StageName.POSE, "pose_term")
def pose_over_all_keypoints(found: PositiveKeypoints, sigmas: Tensor) -> Tensor:
    """Return the keypoint loss divided by all keypoints, invisible ones included."""
    missed = (
        1 - keypoints.similarity(found.predicted, found.wanted, found.area, sigmas)
    ) * found.visible  # (P, K)
    return missed.sum() / max(missed.numel(), 1)


@planted("POSE-4", StageName.POSE, "pose_term")
def pose_of_invisible_keypoints(found: PositiveKeypoints, sigmas: Tensor) -> Any:
    """Return the keypoint loss of all keypoints, as if all were visible."""
    return ORIGINALS["pose_term"](replace(found, visible=torch.ones_like(found.visible)), sigmas)


@planted("POSE-4 COR-2", StageName.POSE, "at_positives", check="zeros_compete")
def positives_without_weight_left_out(given: Any, positives: Positives, decode: Any) -> PositiveKeypoints:
    """Return the keypoints of positives with a weight above 0."""
    kept = positives.weights > 0  # (P,)
    fields: dict[str, Any] = {
        name: None if value is None else value[kept] for name, value in vars(positives).items()
    }
    found: PositiveKeypoints = ORIGINALS["at_positives"](given, Positives(**fields), decode)
    return found


@planted("POSE-4 COR-2", StageName.POSE, "at_positives")
def keypoints_weighted(given: Any, positives: Positives, decode: Any) -> PositiveKeypoints:
    """Return keypoints whose positives count with their weight: the area is larger for small weights."""
    found: PositiveKeypoints = ORIGINALS["at_positives"](given, positives, decode)
    return replace(found, area=found.area / positives.weights.clamp(min=1e-3))


@planted("POSE-5", StageName.KOBJ, "visibility_term")
def visible_keypoints_alone(found: PositiveKeypoints) -> Any:
    """Return the visibility loss of visible keypoints, divided by all."""
    term: Tensor = ORIGINALS["visibility_term"](found)
    return term * found.visible.double().mean() if found.visible.numel() else term


@planted("POSE-5", StageName.KOBJ, "visibility_term")
def visibility_summed_over_keypoints(found: PositiveKeypoints) -> Any:
    """Return the visibility loss summed over the keypoints, divided by the positives alone."""
    return ORIGINALS["visibility_term"](found) * found.visible.shape[1]


@planted("POSE-1 LOSS-BOX-1", StageName.BOX, "loss_items")
def half_the_box_loss(*given: Any) -> Tensor:
    """Return box, cls and dfl with half of the box loss."""
    items: Tensor = ORIGINALS["loss_items"](*given)
    return items * items.new_tensor((0.5, 1, 1))


@planted("POSE-SUM-1", StageName.POSE, "pose_items")
def gains_of_pose_and_kobj_exchanged(
    given: Any, targets: Any, head: Any, numbers: Any, *others: Any
) -> Tensor:
    """Return items with the gains of pose and kobj exchanged."""
    exchanged = replace(numbers, pose_gain=numbers.kobj_gain, kobj_gain=numbers.pose_gain)
    items: Tensor = ORIGINALS["pose_items"](given, targets, head, exchanged, *others)
    return items


@planted("POSE-SUM-1 LOSS-GRAD-1", StageName.GRADIENTS, "at_positives")
def keypoints_without_gradient(given: Any, positives: Any, decode: Any) -> PositiveKeypoints:
    """Return keypoints whose visibility has no gradient."""
    found: PositiveKeypoints = ORIGINALS["at_positives"](given, positives, decode)
    if found.logits is None:
        return found
    return replace(found, logits=found.logits.detach() + 0 * found.logits)


@planted("POSE-SUM-1 LOSS-GAIN-1", StageName.TOTAL, "DetectionLoss")
def total_of_poses_once(terms: Tensor, items: Tensor, *others: Any) -> DetectionLoss:
    """Return a loss whose total is not multiplied by the number of images."""
    return DetectionLoss(terms / len(others[0]), items, *others)


POSE_FAULTS.update({name: ENTERED[name] for name in SHARED})
