"""Faults planted in the loss of masks, in its own functions; functions of detection have faults of their own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import ENTERED, Fault, registering
from tal_conformance.mutation.planted_faults.keypoints import SHARED
from tal_reference import DetectionLoss, masks
from tal_reference.loss import Positives
from tal_reference.masks import MaskPredictions, TrueMasks, size_of

MASK_FAULTS: dict[str, Fault] = {}
"""Every fault of masks by name."""
ORIGINALS = {
    name: getattr(masks, name)
    for name in (
        *("read_masks", "split_rows", "true_masks", "with_masks", "mask_items", "mask_term", "mask_loss"),
        *("resized_prototypes", "in_mask_pixels", "inside", "loss_items"),
    )
}
"""The functions of the reference, before faults replace them."""

planted = registering(MASK_FAULTS, "tal_reference.masks")


@planted("SEG-IN-1", StageName.SEG, "read_masks")
def coefficients_from_the_next_channel(*given: Any) -> MaskPredictions:
    """Return predictions whose coefficients begin one channel late."""
    found: MaskPredictions = ORIGINALS["read_masks"](*given)
    return replace(found, coefficients=found.coefficients.roll(-1, 2))


@planted("SEG-IN-1", StageName.SEG, "read_masks")
def prototypes_of_the_first_image(*given: Any) -> MaskPredictions:
    """Return predictions in which every image has the prototypes of the first one."""
    found: MaskPredictions = ORIGINALS["read_masks"](*given)
    return replace(found, prototypes=found.prototypes[:1].expand_as(found.prototypes))


@planted("SEG-IN-2", StageName.SEG, "true_masks")
def masks_numbered_from_zero(
    pictures: Tensor, rows: Any, images: int, overlapping: bool, classes: Any
) -> Any:
    """Return true masks of pictures in which 0 is the first ground truth."""
    shifted = pictures + 1 if overlapping else pictures
    return ORIGINALS["true_masks"](shifted, rows, images, overlapping, classes)


@planted("SEG-IN-2", StageName.SEG, "true_masks")
def every_instance_is_the_first(
    pictures: Any, rows: Any, images: int, overlapping: bool, *others: Any
) -> TrueMasks:
    """Return true masks in which every ground truth of a picture has all pixels that are not background."""
    found: TrueMasks = ORIGINALS["true_masks"](pictures, rows, images, overlapping, *others)
    if not overlapping:
        return found
    whole = [
        covered.to(own).expand_as(own) for own, covered in zip(found.instances, found.covered, strict=True)
    ]
    return replace(found, instances=whole)


@planted("SEG-IN-2", StageName.SEG, "true_masks")
def soft_masks_rounded(*given: Any) -> TrueMasks:
    """Return true masks whose pixels are 0 or 1."""
    found: TrueMasks = ORIGINALS["true_masks"](*given)
    return replace(found, instances=[(own > 0.5).to(own) for own in found.instances])


@planted("SEG-1", StageName.SEG, "resized_prototypes")
def prototypes_of_the_nearest_pixel(prototypes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return prototypes resized without interpolation."""
    return functional.interpolate(prototypes, size, mode="nearest")


@planted("SEG-1", StageName.SEG, "resized_prototypes")
def prototypes_with_aligned_corners(prototypes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return prototypes resized with aligned corners."""
    return functional.interpolate(prototypes, size, mode="bilinear", align_corners=True)


@planted("SEG-2", StageName.SEG, "in_mask_pixels")
def crop_with_rounded_edges(*given: Any) -> Tensor:
    """Return boxes in whole pixels of the masks."""
    boxes: Tensor = ORIGINALS["in_mask_pixels"](*given)
    return boxes.round()


@planted("SEG-2", StageName.SEG, "inside")
def crop_with_the_last_pixel(boxes: Tensor, size: tuple[int, int]) -> Any:
    """Return the pixels of boxes that are one pixel wider and higher."""
    return ORIGINALS["inside"](boxes + boxes.new_tensor((0, 0, 1, 1)), size)


@planted("SEG-2", StageName.SEG, "inside")
def masks_not_cropped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return all pixels."""
    return boxes.new_ones(len(boxes), *size, dtype=torch.bool)


@planted("SEG-2", StageName.SEG, "mask_loss")
def mask_loss_per_counted_pixel(logits: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
    """Return the mean over the pixels of the box, counted, in place of the sum divided by the area."""
    losses = functional.binary_cross_entropy_with_logits(logits, true, reduction="none")  # (P, h, w)
    kept = masks.inside(boxes, size_of(true))  # (P, h, w)
    return (losses * kept).sum((1, 2)) / kept.sum((1, 2)).clamp(min=1)


@planted("SEG-2", StageName.SEG, "mask_loss")
def masks_compared_after_sigmoid(logits: Tensor, *others: Any) -> Any:
    """Return the mask loss of logits to which the sigmoid is applied twice."""
    return ORIGINALS["mask_loss"](logits.sigmoid(), *others)


def _weighted(given: MaskPredictions, positives: Positives, weights: Tensor) -> Tensor:
    """Return the mask loss in which every positive has a factor (P,): a mean over single positives."""
    parts = [ORIGINALS["mask_term"](given, _some(positives, [index])) for index in range(len(weights))]
    if not parts:
        nothing: Tensor = ORIGINALS["mask_term"](given, positives)
        return nothing
    return (torch.stack(parts) * weights).sum()


def _some(positives: Positives, kept: Any) -> Positives:
    """Return some of the positives."""
    fields: dict[str, Any] = {
        name: value[kept] if isinstance(value, Tensor) else value for name, value in vars(positives).items()
    }
    return Positives(**fields)


@planted("SEG-3", StageName.SEG, "mask_term")
def mask_loss_by_image(given: MaskPredictions, positives: Positives) -> Tensor:
    """Return the mean over the images of the mean of each image's positives."""
    counts = positives.image.bincount(minlength=len(given.prototypes))  # (B,)
    return _weighted(given, positives, 1 / counts[positives.image] / len(counts))


@planted("SEG-3", StageName.SEG, "mask_items")
def mask_loss_with_gain_of_dfl(given: Any, targets: Any, head: Any, numbers: Any, *others: Any) -> Tensor:
    """Return items whose mask loss has the gain of the DFL loss."""
    items: Tensor = ORIGINALS["mask_items"](given, targets, head, numbers, *others)
    factor = numbers.dfl_gain / max(numbers.box_gain, 1e-6)
    return items * items.new_tensor((1, factor, 1, 1, 1))


@planted("SEG-3 COR-2", StageName.SEG, "mask_term")
def masks_weighted(given: MaskPredictions, positives: Positives) -> Tensor:
    """Return the mask loss in which positives count with their weight, divided by the sum of the weights."""
    weights = positives.weights / positives.weights.sum().clamp(min=1e-9)
    return _weighted(given, positives, weights.to(given.coefficients))


@planted("SEG-3 COR-2", StageName.SEG, "mask_term", check="zeros_compete")
def masks_without_weight_left_out(given: MaskPredictions, positives: Positives) -> Any:
    """Return the mask loss of positives with a weight above 0."""
    return ORIGINALS["mask_term"](given, _some(positives, positives.weights > 0))


@planted("SEG-2 TAL-TGT-1", StageName.SEG, "with_masks")
def masks_of_the_first_truth(positives: Positives, owners: Tensor, instances: Sequence[Tensor]) -> Any:
    """Return positives with the mask of the first ground truth of their image."""
    return ORIGINALS["with_masks"](positives, torch.zeros_like(owners), instances)


@planted("SEG-4 LOSS-GRAD-1", StageName.GRADIENTS, "resized_prototypes")
def prototypes_without_gradient(prototypes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return resized prototypes that learn nothing."""
    resized: Tensor = ORIGINALS["resized_prototypes"](prototypes, size)
    return resized.detach() + 0 * resized


@planted("SEG-4 LOSS-GRAD-1", StageName.GRADIENTS, "read_masks")
def coefficients_without_gradient(*given: Any) -> MaskPredictions:
    """Return predictions whose coefficients learn nothing."""
    found: MaskPredictions = ORIGINALS["read_masks"](*given)
    return replace(found, coefficients=found.coefficients.detach() + 0 * found.coefficients)


@planted("SEG-4 LOSS-GRAD-1", StageName.GRADIENTS, "mask_items")
def masks_move_scores(given: MaskPredictions, *others: Any) -> Tensor:
    """Return items in which the mask loss has a gradient on the class logits of every anchor."""
    items: Tensor = ORIGINALS["mask_items"](given, *others)
    moving = given.logits.sum() - given.logits.sum().detach()
    return items + 0.1 * moving * items.new_tensor((0, 1, 0, 0, 0))


@planted("SEG-SUM-1 LOSS-BOX-1", StageName.BOX, "loss_items")
def half_the_box_loss_of_masks(*given: Any) -> Tensor:
    """Return box, cls and dfl with half of the box loss."""
    items: Tensor = ORIGINALS["loss_items"](*given)
    return items * items.new_tensor((0.5, 1, 1))


@planted("SEG-SUM-1", StageName.SEM, "mask_items")
def semantic_item_without_semantics(*given: Any) -> Tensor:
    """Return items whose last one repeats the mask loss, although the head has no semantic logits."""
    items: Tensor = ORIGINALS["mask_items"](*given)
    return torch.cat((items[:4], items[1:2]))


@planted("SEG-SUM-1 LOSS-GAIN-1", StageName.TOTAL, "DetectionLoss")
def total_of_masks_once(terms: Tensor, items: Tensor, *others: Any) -> DetectionLoss:
    """Return a loss whose total is not multiplied by the number of images."""
    return DetectionLoss(terms / len(others[0]), items, *others)


MASK_FAULTS.update({name: ENTERED[name] for name in SHARED})
