"""Segmentation: the differences from the detection loss (SEG-*, SEM-*, S26-*).

A head for segmentation also predicts n prototypes, masks of the whole image, and at every anchor n coefficients. The
mask of an anchor is the sum of the prototypes times its coefficients. Read `loss` and `assignment` first. The
assignment and the terms box, cls and dfl are those of detection. New are:

    true_masks           masks of the data loader in either encoding: one mask per ground truth
    with_masks           the masks of the positives' ground truths
    mask_term            the second term, seg: cross-entropy in the ground truth's box
    semantic_term        the fifth term, sem: a class for every pixel, only for heads that predict it
    assign_with_masks    replaces assign in Segment26 heads: the masks' overlap counts as much as that of the boxes

Weights do not enter seg: all positives count in full there, also those of weight 0 (COR-2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tal_reference.anchors import flatten, input_size, make_anchors
from tal_reference.annotations import GroundTruths, ground_truths, image_indices
from tal_reference.assignment import (
    Targets,
    alignment_metric,
    assign_candidates,
    background,
    candidates_of,
    overlaps_of,
    reject_unsupported,
    scatter_pairs,
    top_k,
)
from tal_reference.dialect import NEWEST, Dialect
from tal_reference.loss import (
    BatchTargets,
    DetectionLoss,
    Positives,
    Predictions,
    assign_images,
    loss_items,
    positives_of,
    reject_unknown_classes,
)
from tal_reference.settings import Head, Hyperparameters
from tal_reference.shapes import Bool, Float, Int

TRUE_PIXEL = 0.5
"""Value above which a pixel of a soft instance mask belongs to the ground truth, in the assignment (S26-3)."""
RANKED = 3
"""A ground truth compares the masks of its best RANKED k candidates (S26-2)."""
METRIC_EPS = 1e-9
"""Added to the metric that ranks candidates for a comparison of masks, so that no candidate has zero (S26-2)."""
SMOOTHING = 1.0
"""Added to numerator and denominator of the Dice loss, so that it is 0 for a class that no pixel has (SEM-2)."""


@dataclass(frozen=True)
class MaskPredictions(Predictions):
    """The predictions in the feature maps, one row per anchor, and those of the whole image.

    Attributes:
        coefficients: (B, A, n) factors of the prototypes.
        prototypes: (B, n, h_p, w_p).
        semantic: (B, C, h_s, w_s) class logits of pixels; None if the head does not predict them.
    """

    coefficients: Float[Tensor, "B A n"]
    prototypes: Float[Tensor, "B n height width"]
    semantic: Float[Tensor, "B C rows columns"] | None


@dataclass(frozen=True)
class TrueMasks:
    """The masks of a batch, all of one size.

    Attributes:
        instances: for each image (M, h_m, w_m), the mask of each ground truth, with values from 0 to 1.
        covered: (B, h_m, w_m) True for pixels of any instance (SEM-1).
        classes: (B, h_m, w_m) class of each covered pixel; None if the head does not predict it (SEG-IN-3).
    """

    instances: list[Float[Tensor, "_ height width"]]
    covered: Bool[Tensor, "B height width"]
    classes: Int[Tensor, "B height width"] | None


def segmentation_loss(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]],
    annotations: Float[Tensor, "N columns"],
    head: Head,
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
    *,
    prototypes: Float[Tensor, "B n _ _"] | None = None,
    masks: Float[Tensor, "_ height width"] | None = None,
    overlapping: bool = True,
    semantic: Float[Tensor, "B C _ _"] | None = None,
    classes: Int[Tensor, "B height width"] | None = None,
    masks_assign: bool = False,
) -> DetectionLoss:
    """Return the loss of masks: terms box, seg, cls, dfl (L1 where R = 1) and sem (SEG-SUM-1).

    Args:
        feature_maps: one map (B, 4R + C + n, H, W) per level, the n coefficients last (SEG-IN-1). The prototypes follow
            as a further map without `prototypes`.
        annotations: (N, 6) rows (image index, class, cx, cy, w, h), sorted by image; (N, 6 + h_m w_m) without `masks`:
            then the pixels of the row's mask follow, row by row; the head says their size and encoding.
        head: strides, classes, bins and class weights; number of prototypes and size of masks, if they are in
            `feature_maps` and `annotations`.
        hyperparameters: hyperparameters of assigner and loss.
        dialect: the choices to follow where releases differ.
        keep_trace: store every stage of the assignment in `targets[i].trace`.
        prototypes: (B, n, h_p, w_p), of any size; None: the last feature map.
        masks: (B, h_m, w_m) the number of the ground truth at each pixel if `overlapping`; otherwise (N, h_m, w_m), one
            mask per row (SEG-IN-2); None: in the annotation rows.
        overlapping: encoding of the masks, `args.overlap_mask`.
        semantic: (B, C, h_s, w_s) class logits of pixels, of any size; None: sem is 0.
        classes: (B, h_m, w_m) class of each pixel (SEG-IN-3), with semantic logits only.
        masks_assign: True for Segment26 heads, whose assignment compares masks (S26-1); `head.parts_assign` says the
            same. `masks` must then be there in every batch, also without ground truths (S26-4).

    Raises:
        ValueError: inputs do not fit each other, a row names an unknown image or class, or there are fewer anchors
            than k.
    """
    if prototypes is None:
        *feature_maps, prototypes = feature_maps
    predictions = read_masks(feature_maps, prototypes, semantic, head)
    if masks is None:
        annotations, masks = split_rows(annotations, len(prototypes), head)
        overlapping = bool(head.overlapping_masks)
    reject_unknown_classes(annotations, head)
    finest = torch.promote_types(annotations.dtype, predictions.logits.dtype)
    truths = ground_truths(annotations.to(finest), len(prototypes), predictions.size)
    wanted = true_masks(masks.to(finest), annotations, len(prototypes), overlapping, classes)
    assigner = mask_assigners(predictions, wanted, head) if masks_assign or head.parts_assign else None
    targets = assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace, assigner)
    positives = with_masks(positives_of(targets), owners_of(targets), wanted.instances)
    items = mask_items(predictions, positives, head, hyperparameters, dialect, wanted)  # (5,)
    return DetectionLoss(items * len(targets), items.detach(), targets, predictions)


# --- inputs


def read_masks(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]],
    prototypes: Float[Tensor, "B n _ _"],
    semantic: Float[Tensor, "B C _ _"] | None,
    head: Head,
) -> MaskPredictions:
    """Return the flattened feature maps, whose last n channels are the coefficients (SEG-IN-1, PRE-*, ANC-1).

    Raises:
        ValueError: the number of maps or channels does not fit the head, or the maps differ in number of images or
            dtype.
    """
    channels = head.channels + prototypes.shape[1]
    wrong = [tuple(level.shape) for level in feature_maps if level.shape[1] != channels]
    if wrong:
        raise ValueError(f"feature maps have the shapes {wrong}; the head has 4R + C + n = {channels} channels")
    distances, logits = flatten([level[:, : head.channels] for level in feature_maps], head)  # (B, A, 4R), (B, A, C)
    coefficients = torch.cat([level[:, head.channels :].flatten(2) for level in feature_maps], dim=2).mT  # (B, A, n)
    anchors, size = make_anchors(feature_maps, head), input_size(feature_maps, head)
    return MaskPredictions(distances, logits, anchors, size, coefficients, prototypes, semantic)


def split_rows(
    annotations: Float[Tensor, "N columns"], images: int, head: Head
) -> tuple[Float[Tensor, "N 6"], Float[Tensor, "_ height width"]]:
    """Return the rows of boxes, and the masks that follow in the same rows, in the head's encoding (SEG-IN-2).

    Masks of one picture do not overlap, so that the picture has the number of at most one row at each pixel.

    Raises:
        ValueError: the head has no masks, or the rows do not have 6 + h_m w_m columns.
    """
    if head.masks is None:
        raise ValueError(f"a loss of masks needs a head with masks, such as masks=(160, 160); got {head}")
    (height, width), columns = head.masks, annotations.shape[1]
    if columns != 6 + height * width:
        raise ValueError(f"annotation rows have {columns} columns, expected 6 + h_m w_m = {6 + height * width}")
    rows, masks = annotations[:, :6], annotations[:, 6:].unflatten(1, (height, width))  # (N, 6), (N, h_m, w_m)
    if not head.overlapping_masks:
        return rows, masks
    image = image_indices(rows, images)  # (N,)
    order, counts = image.argsort(stable=True), image.bincount(minlength=images)  # (N,), (B,)
    before = (counts.cumsum(0) - counts)[image[order]]  # (N,) rows of earlier images
    numbers = torch.empty_like(image)
    numbers[order] = torch.arange(1, len(image) + 1, device=image.device) - before  # (N,) counted from 1 in each image
    pictures = masks.new_zeros(images, height, width).index_add(0, image, masks * numbers[:, None, None])
    return rows, pictures


def true_masks(
    masks: Float[Tensor, "_ height width"],
    annotations: Float[Tensor, "N 6"],
    images: int,
    overlapping: bool,
    classes: Int[Tensor, "B height width"] | None,
) -> TrueMasks:
    """Return one mask per ground truth, from masks in either encoding (SEG-IN-2).

    Overlapping masks are one picture per image, in which a pixel has the number of its ground truth, counted from 1 in
    the order of the rows; 0 is background. Values of instance masks are used unchanged, so masks may be soft.

    Raises:
        ValueError: the number of masks is not that of the images, or of the rows.
    """
    image = image_indices(annotations, images)  # (N,)
    expected = images if overlapping else len(image)
    if len(masks) != expected:
        raise ValueError(f"got {len(masks)} masks, expected {expected}: one per {'image' if overlapping else 'row'}")
    if not overlapping:
        instances = [masks[image == i] for i in range(images)]
        return TrueMasks(instances, torch.stack([own.sum(0) != 0 for own in instances]), classes)
    instances = []
    for i, picture in enumerate(masks):
        numbers = torch.arange(1, int((image == i).sum()) + 1, device=masks.device)  # (M,)
        instances.append((picture == numbers[:, None, None]).to(masks.dtype))  # (M, h_m, w_m)
    return TrueMasks(instances, masks != 0, classes)


# --- loss


def with_masks(
    positives: Positives, owners: Int[Tensor, "P"], instances: Sequence[Float[Tensor, "_ height width"]]
) -> Positives:
    """Return the positives with the masks of their ground truths.

    Args:
        positives: the P positives.
        owners: (P,) index of each positive's ground truth in its image.
        instances: for each image (M, h_m, w_m), the mask of each ground truth.
    """
    return replace(positives, owners=owners, masks=instances)


def mask_items(
    predictions: MaskPredictions,
    targets: Positives | BatchTargets,
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect = NEWEST,
    semantics: TrueMasks | None = None,
) -> Float[Tensor, "5"]:
    """Return (5,) the losses box, seg, cls, dfl and sem times their gains, differentiable (SEG-SUM-1).

    Masks have the gain of boxes (SEG-3, SEM-3). In a batch without a positive, seg and sem are zero, although for sem
    every pixel is background. `targets` have the ground truths' masks; `semantics` has the classes of their pixels, for
    heads that predict them.
    """
    positives = targets.positives if isinstance(targets, BatchTargets) else targets
    box, cls, dfl = loss_items(predictions, positives, head, hyperparameters, dialect)
    seg = mask_term(predictions, positives)
    sem = torch.zeros_like(seg)
    if predictions.semantic is not None:
        assert semantics is not None
        sem = semantic_term(predictions.semantic, semantics) * min(len(positives.image), 1)
    gain = hyperparameters.box_gain
    return torch.stack((box, gain * seg, cls, dfl, gain * sem))  # (5,)


def owners_of(targets: Sequence[Targets]) -> Int[Tensor, "P"]:
    """Return (P,) the index of each positive's ground truth in its image, in the order of `positives_of`."""
    return torch.cat([image.truth_index[image.foreground] for image in targets])


def mask_term(predictions: MaskPredictions, positives: Positives) -> Float[Tensor, ""]:
    """Return the mean mask loss of the positives (SEG-3), without gain.

    Only coefficients of positives have a gradient, and the prototypes of their images (SEG-4). An image without a
    positive adds zero times its predictions, so that all predictions have a gradient (SEG-SUM-1).

    Args:
        predictions: coefficients and prototypes.
        positives: images, anchors, target boxes and masks of the P positives.
    """
    assert positives.masks is not None
    assert positives.owners is not None
    owners = positives.owners  # (P,)
    prototypes = resized_prototypes(predictions.prototypes, size_of(positives.masks[0]))  # (B, n, h_m, w_m)
    losses = []
    for image, masks in enumerate(positives.masks):
        own = positives.image == image  # (P,)
        if not own.any():
            losses.append(0 * (predictions.coefficients[image].sum() + prototypes[image].sum()))
            continue
        logits = mask_logits(predictions.coefficients[image, positives.anchor[own]], prototypes[image])  # (p, h_m, w_m)
        boxes = in_mask_pixels(positives.boxes[own], predictions.size, size_of(masks))  # (p, 4)
        losses.append(mask_loss(logits, masks[owners[own]].to(logits), boxes).sum())
    return torch.stack(losses).sum() / max(len(owners), 1)


def size_of(pictures: Float[Tensor, "*rows height width"]) -> tuple[int, int]:
    """Return height and width of masks or prototypes, in their own pixels."""
    return pictures.shape[-2], pictures.shape[-1]


def resized_prototypes(prototypes: Float[Tensor, "B n _ _"], size: tuple[int, int]) -> Float[Tensor, "B n _ _"]:
    """Return the prototypes in the size of the masks, interpolated bilinearly if that is another one (SEG-1)."""
    return prototypes if prototypes.shape[2:] == size else functional.interpolate(prototypes, size, mode="bilinear")


def mask_logits(
    coefficients: Float[Tensor, "P n"], prototypes: Float[Tensor, "n height width"]
) -> Float[Tensor, "P height width"]:
    """Return the predicted mask of each anchor: the sum of the prototypes times its coefficients (SEG-2)."""
    return torch.einsum("pn,nhw->phw", coefficients, prototypes)


def in_mask_pixels(
    boxes: Float[Tensor, "P 4"], size: tuple[int, int], mask_size: tuple[int, int]
) -> Float[Tensor, "P 4"]:
    """Return boxes, xyxy in pixels of the input, in pixels of the masks; they are not rounded (SEG-2)."""
    (height, width), (mask_height, mask_width) = size, mask_size
    normalised = boxes / boxes.new_tensor((width, height, width, height))  # (P, 4)
    return normalised * boxes.new_tensor((mask_width, mask_height, mask_width, mask_height))  # (P, 4)


def inside(boxes: Float[Tensor, "P 4"], size: tuple[int, int]) -> Bool[Tensor, "P height width"]:
    """Return (P, h, w) bool: True for pixels whose left and top edge lie in the box (SEG-2).

    A pixel's index is the coordinate of its left or top edge. So a box between two indices has no pixel, however close
    to a pixel's whole width it is.
    """
    left, top, right, bottom = boxes[..., None, None].unbind(1)  # (P, 1, 1) each
    rows = torch.arange(size[0], device=boxes.device)[:, None]  # (h, 1)
    columns = torch.arange(size[1], device=boxes.device)  # (w,)
    return (left <= columns) & (columns < right) & (top <= rows) & (rows < bottom)  # (P, h, w)


def mask_loss(
    logits: Float[Tensor, "P height width"], masks: Float[Tensor, "P height width"], boxes: Float[Tensor, "P 4"]
) -> Float[Tensor, "P"]:
    """Return (P,) the cross-entropy of the pixels in each target box, per area of the box (SEG-2).

    The mean over ALL pixels of the mask is divided by the box's share of them. So a loss is the mean in the box, if the
    box has as many pixels as its area says; thin boxes have not (finding F2). A box without area gives 0 / 0.

    Args:
        logits: (P, h, w) predicted masks.
        masks: (P, h, w) true masks.
        boxes: (P, 4) target boxes in pixels of the masks.
    """
    height, width = size_of(masks)
    losses = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")  # (P, h, w)
    left, top, right, bottom = boxes.unbind(1)  # (P,) each
    share = (right - left) / width * ((bottom - top) / height)  # (P,)
    return losses.where(inside(boxes, (height, width)), 0).mean((1, 2)) / share  # (P,)


def semantic_term(logits: Float[Tensor, "B C _ _"], masks: TrueMasks) -> Float[Tensor, ""]:
    """Return half the cross-entropy plus half the Dice loss of the pixels' classes, without gain (SEM-2).

    Raises:
        ValueError: the masks have no classes, or a covered pixel has a class that the logits do not have.
    """
    target = semantic_target(masks, logits.shape[1]).to(logits)  # (B, C, h_m, w_m)
    if target.shape[2:] != logits.shape[2:]:
        target = functional.interpolate(target, logits.shape[2:], mode="nearest")  # (B, C, h_s, w_s)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target)
    predicted = logits.sigmoid()  # (B, C, h_s, w_s)
    both, each = (predicted * target).sum((2, 3)), (predicted + target).sum((2, 3))  # (B, C), (B, C)
    dice = 1 - (2 * both + SMOOTHING) / (each + SMOOTHING)  # (B, C)
    return cross_entropy / 2 + dice.mean() / 2


def semantic_target(masks: TrueMasks, classes: int) -> Bool[Tensor, "B C height width"]:
    """Return (B, C, h_m, w_m) bool: True at the class of each covered pixel; all False elsewhere (SEM-1).

    Raises:
        ValueError: the masks have no classes, or a covered pixel has a class outside [0, C).
    """
    if masks.classes is None:
        raise ValueError("semantic logits need the class of each pixel, but `classes` is None")
    at_pixels = masks.classes.long()  # (B, h_m, w_m)
    if ((at_pixels < 0) | (at_pixels >= classes)).logical_and(masks.covered).any():
        raise ValueError(f"`classes` has values outside [0, {classes}) at pixels of instances (SEG-IN-3)")
    numbers = torch.arange(classes, device=at_pixels.device)[:, None, None]  # (C, 1, 1)
    return (at_pixels[:, None] == numbers) & masks.covered[:, None]  # (B, C, h_m, w_m)


# --- assignment with masks


def mask_assigners(predictions: MaskPredictions, masks: TrueMasks, head: Head) -> list[partial[Targets]]:
    """Return for each image a function that assigns its ground truths as `assign` does, with its masks (S26-1)."""
    size = size_of(predictions.prototypes)
    scale = size[0] / predictions.size[0]  # pixels of prototypes per pixel of the input, on both axes (S26-3)
    return [
        partial(
            assign_with_masks,
            coefficients=predictions.coefficients[image].detach(),
            prototypes=predictions.prototypes[image].detach(),
            masks=at_size(own, size) > TRUE_PIXEL,
            scale=scale,
        )
        for image, own in enumerate(masks.instances)
    ]


def at_size(masks: Float[Tensor, "M _ _"], size: tuple[int, int]) -> Float[Tensor, "M height width"]:
    """Return masks in another size, each pixel with the value of the nearest one (S26-3)."""
    if size_of(masks) == size:
        return masks
    return functional.interpolate(masks[None], size)[0] if len(masks) else masks.new_zeros(0, *size)


@torch.no_grad()
def assign_with_masks(
    scores: Float[Tensor, "A C"],
    boxes: Float[Tensor, "A 4"],
    centres: Float[Tensor, "A 2"],
    truths: GroundTruths,
    strides: tuple[int, ...],
    hyperparameters: Hyperparameters,
    dialect: Dialect,
    keep_trace: bool = False,
    *,
    coefficients: Float[Tensor, "A n"],
    prototypes: Float[Tensor, "n height width"],
    masks: Bool[Tensor, "M height width"],
    scale: float,
) -> Targets:
    """Assign the ground truths of one image; the overlap is the mean of the boxes' and the masks' overlap (S26-1).

    Args:
        scores: (A, C) predicted class scores, after the sigmoid.
        boxes: (A, 4) predicted boxes, xyxy in pixels.
        centres: (A, 2) anchor centres in pixels.
        truths: the image's ground truths, boxes in pixels.
        strides: the head's strides in pixels, for TAL-CAND-2.
        hyperparameters: k, alpha, beta and topk2.
        dialect: the choices to follow.
        keep_trace: store every stage's values in `trace`.
        coefficients: (A, n) factors of the prototypes.
        prototypes: (n, h_p, w_p).
        masks: (M, h_p, w_p) bool: the true masks, in the prototypes' size.
        scale: pixels of the prototypes per pixel of the input.

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2).
    """
    if not len(truths):
        return background(truths, len(centres))  # TAL-EMPTY-1
    reject_unsupported(strides, hyperparameters, dialect)
    candidates = candidates_of(truths, centres, dialect.floor(strides))  # (M, A)
    of_boxes = overlaps_of(truths.boxes, boxes, candidates)  # (M, A)
    truth, anchor = pairs = ranked(scores, truths, candidates, of_boxes, hyperparameters).nonzero(as_tuple=True)
    values = mask_overlap(
        mask_logits(coefficients[anchor], prototypes), boxes[anchor] * scale, masks[truth]
    )  # (P,)
    of_masks = scatter_pairs(values.to(of_boxes), pairs, candidates)  # (M, A)
    overlap = (of_boxes + of_masks) / 2  # (M, A)
    return assign_candidates(scores, truths, candidates, candidates, overlap, hyperparameters, keep_trace)


def ranked(
    scores: Float[Tensor, "A C"],
    truths: GroundTruths,
    candidates: Bool[Tensor, "M A"],
    overlap: Float[Tensor, "M A"],
    hyperparameters: Hyperparameters,
) -> Bool[Tensor, "M A"]:
    """Return (M, A) bool: True for the 3k candidates of each ground truth whose masks are compared (S26-2).

    These have the largest alignment metric of boxes alone. The choice among equal metrics at the last place is not
    defined (ambiguity T5).
    """
    metric = alignment_metric(scores[:, truths.labels].mT, overlap, hyperparameters) + METRIC_EPS  # (M, A)
    return top_k(metric * candidates, min(RANKED * hyperparameters.topk, len(scores))) & candidates  # (M, A)


def mask_overlap(
    logits: Float[Tensor, "P height width"], boxes: Float[Tensor, "P 4"], masks: Bool[Tensor, "P height width"]
) -> Float[Tensor, "P"]:
    """Return (P,) the intersection over union of predicted and true masks, in numbers of pixels (S26-3).

    A predicted mask ends at the predicted box; a true mask does not end at its box.

    Args:
        logits: (P, h, w) predicted masks; a pixel belongs to the mask if its logit is above 0.
        boxes: (P, 4) predicted boxes in pixels of the masks.
        masks: (P, h, w) true masks.
    """
    predicted = (logits > 0) & inside(boxes, size_of(logits))  # (P, h, w)
    both, either = (predicted & masks).sum((1, 2)), (predicted | masks).sum((1, 2))  # (P,), (P,)
    return both.to(logits) / either.clamp(min=1)  # (P,)
