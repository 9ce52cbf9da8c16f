"""Faults planted in the losses of YOLO26 whose keypoints or masks take part in the assignment (P26-*, S26-*)."""

from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest.mock import patch

from torch import Tensor

from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import ENTERED, SEEN_LATER, Fault, registering
from tal_conformance.mutation.planted_faults.keypoints import POSE_FAULTS, SHARED
from tal_conformance.mutation.planted_faults.masks import MASK_FAULTS
from tal_reference import keypoints, masks
from tal_reference.assignment import assign, assign_candidates, overlaps_of

ASSIGNING_POSE_FAULTS: dict[str, Fault] = {}
"""Every fault of poses of YOLO26 by name."""
ASSIGNING_MASK_FAULTS: dict[str, Fault] = {}
"""Every fault of masks of YOLO26 by name."""
ORIGINALS = {
    name: getattr(module, name)
    for module, names in (
        (keypoints, ("similarity", "gated", "assign_with_keypoints")),
        (masks, ("mask_overlap", "ranked")),
    )
    for name in names
}
"""The functions of the reference, before faults replace them."""
OF_POSES = (
    *("keypoints_of_the_first_truth", "pose_over_all_keypoints", "pose_of_invisible_keypoints"),
    *("visible_keypoints_alone", "visibility_summed_over_keypoints", "half_the_box_loss"),
    *("gains_of_pose_and_kobj_exchanged", "keypoints_without_gradient", "total_of_poses_once"),
)
"""Faults of poses in functions that the assignment does not use."""
OF_MASKS = (
    *("prototypes_of_the_nearest_pixel", "masks_of_the_first_truth", "masks_weighted", "total_of_masks_once"),
    *("prototypes_without_gradient", "half_the_box_loss_of_masks", "semantic_item_without_semantics"),
)
"""Faults of masks in functions that the assignment does not use."""

posed = registering(ASSIGNING_POSE_FAULTS, "tal_reference.keypoints")
masked = registering(ASSIGNING_MASK_FAULTS, "tal_reference.masks")


@posed("P26-1", StageName.OVERLAP, "decode_without_factor", *SEEN_LATER)
def keypoints_with_the_factor_of_v8(raw: Tensor, centres: Tensor) -> Tensor:
    """Return points decoded as those of other heads."""
    return keypoints.decode_keypoints(raw, centres)


@posed("P26-1", StageName.OVERLAP, "decode_without_factor", *SEEN_LATER)
def keypoints_from_the_corner_of_the_cell(raw: Tensor, centres: Tensor) -> Tensor:
    """Return points whose raw 0 is the corner of the anchor's cell."""
    return raw + (centres - 0.5)[..., None, :]


@posed("P26-2", StageName.CANDIDATES, "gated")
def every_level_for_every_size(candidates: Tensor, *others: Any) -> Tensor:
    """Return all candidates, whatever their level."""
    return candidates


@posed("P26-2", StageName.CANDIDATES, "gated", check="crossings")
def gate_by_the_longer_side(candidates: Tensor, truths: Any, strides: Tensor) -> Any:
    """Return the candidates whose level fits a square with the longer side of the box."""
    longer = truths.boxes.clone()
    side = (longer[:, 2:] - longer[:, :2]).amax(1, keepdim=True)  # (M, 1)
    longer[:, 2:] = longer[:, :2] + side
    return ORIGINALS["gated"](candidates, type(truths)(truths.labels, longer), strides)


@posed("P26-3", StageName.OVERLAP, "similarity", *SEEN_LATER)
def standard_deviations_doubled_once(first: Any, second: Any, area: Any, sigmas: Tensor) -> Any:
    """Return similarities with 2 sigma^2 in place of 8 sigma^2."""
    return ORIGINALS["similarity"](first, second, area, sigmas / 2)


@posed("P26-3", StageName.OVERLAP, "assign_with_keypoints", *SEEN_LATER)
def invisible_keypoints_assign(*given: Any, **named: Any) -> Any:
    """Assign with all keypoints of ground truths that have a visible one."""
    truths = named["keypoints"].clone()  # (M, K, 3)
    truths[..., 2] = truths[..., 2].where(~(truths[..., 2] > 0).any(1, keepdim=True), 2)
    return ORIGINALS["assign_with_keypoints"](*given, **(named | {"keypoints": truths}))


@posed("P26-3", StageName.OVERLAP, "assign_with_keypoints", *SEEN_LATER)
def mean_of_boxes_and_keypoints(
    scores: Tensor, boxes: Tensor, centres: Tensor, truths: Any, strides: Any, *others: Any, **named: Any
) -> Any:
    """Assign by the mean of CIoU and OKS, as releases before 8.4.187."""
    original = assign_candidates

    def assign_by_mean(
        scores: Any, truths: Any, candidates: Tensor, compared: Any, overlap: Tensor, *rest: Any
    ) -> Any:
        of_boxes = overlaps_of(truths.boxes, boxes, candidates)  # (M, A)
        return original(scores, truths, candidates, compared, (overlap + of_boxes) / 2, *rest)

    with patch("tal_reference.keypoints.assign_candidates", assign_by_mean):
        return ORIGINALS["assign_with_keypoints"](scores, boxes, centres, truths, strides, *others, **named)


@masked("S26-1", StageName.OVERLAP, "assign_with_masks", *SEEN_LATER)
def overlap_of_boxes_alone(*given: Any, **named: Any) -> Any:
    """Assign as other heads do, by boxes alone."""
    return assign(*given)


@masked("S26-1", StageName.OVERLAP, "mask_overlap", *SEEN_LATER)
def overlaps_added(*given: Any) -> Any:
    """Return twice the overlap of the masks, as if it counted more than that of the boxes."""
    return 2 * ORIGINALS["mask_overlap"](*given)


@masked("S26-2", StageName.OVERLAP, "ranked", *SEEN_LATER)
def masks_of_boxes_that_overlap(
    scores: Any, truths: Any, candidates: Tensor, overlap: Tensor, *others: Any
) -> Any:
    """Return the best candidates whose boxes overlap the ground truth's."""
    return ORIGINALS["ranked"](scores, truths, candidates, overlap, *others) & (overlap > 0)


@masked("S26-3", StageName.OVERLAP, "mask_overlap", *SEEN_LATER)
def predicted_masks_not_cropped(logits: Tensor, boxes: Tensor, true: Tensor) -> Any:
    """Return overlaps of predicted masks that do not end at the predicted box."""
    height, width = masks.size_of(logits)
    whole = boxes.new_tensor((0, 0, width, height)).expand_as(boxes)
    return ORIGINALS["mask_overlap"](logits, whole, true)


@masked("S26-3", StageName.OVERLAP, "mask_overlap", *SEEN_LATER)
def true_masks_cropped(logits: Tensor, boxes: Tensor, true: Tensor) -> Any:
    """Return overlaps with true masks that end at the predicted box."""
    return ORIGINALS["mask_overlap"](logits, boxes, true & masks.inside(boxes, masks.size_of(true)))


SHARED_FAULTS = tuple(name for name in SHARED if name != "width_and_height_exchanged")
"""Faults of detection. The one left out also exchanges the sides of the judged batch, from which the judge of keypoints
and masks takes their size: a unit test exchanges the sides in the annotation rows."""


def _of_constant(name: str, clauses: str, place: str, value: float, check: str = "loss") -> Fault:
    """Return a fault of the overlap that replaces a constant of the reference."""
    stage = StageName.OVERLAP
    return Fault(name, tuple(clauses.split()), stage, {f"tal_reference.{place}": value}, SEEN_LATER, check)


def _at_home(name: str, home: ModuleType) -> Fault:
    """Return a fault of detection, also planted in the names that a module imports from that of the assignment.

    Not in `top_k`, by which `masks` chooses the masks that are compared (S26-2).
    """
    fault = ENTERED[name]
    places = {place: place.rpartition(".") for place in fault.replaces}
    imported = {
        f"{home.__name__}.{last}": fault.replaces[place]
        for place, (module, _, last) in places.items()
        if module == "tal_reference.assignment" and hasattr(home, last) and last != "top_k"
    }
    return replace(fault, replaces=fault.replaces | imported)


ASSIGNING_POSE_FAULTS |= {
    **{name: _at_home(name, keypoints) for name in SHARED_FAULTS},
    **{name: POSE_FAULTS[name] for name in OF_POSES},
    "whole_area_of_the_box": _of_constant("whole_area_of_the_box", "P26-3", "keypoints.SHARE_OF_BOX", 1.0),
}
ASSIGNING_MASK_FAULTS |= {
    **{name: _at_home(name, masks) for name in SHARED_FAULTS},
    **{name: MASK_FAULTS[name] for name in OF_MASKS},
    "masks_of_k_candidates": _of_constant("masks_of_k_candidates", "S26-2", "masks.RANKED", 1),
    "any_soft_pixel_is_true": _of_constant(
        "any_soft_pixel_is_true", "S26-3", "masks.TRUE_PIXEL", 0.0, "targets"
    ),
}
