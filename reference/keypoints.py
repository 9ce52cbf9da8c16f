"""Pose: the differences from the detection loss (POSE-*, P26-*).

A head for poses also predicts at every anchor K keypoints, each with D = 2 or 3 numbers: x, y, and a logit that says
whether the keypoint is visible. Read `loss` and `assignment` first. The terms box, cls and dfl are those of detection.
New are:

    true_keypoints           the data loader's keypoints in pixels, with visibilities
    decode_keypoints         raw numbers to points in grid units
    pose_term                the second term, pose: 1 - OKS, the object keypoint similarity
    visibility_term          the third term, kobj: is the keypoint visible?
    assign_with_keypoints    replaces assign in Pose26 heads: OKS replaces the overlap of boxes
    tal_reference.flow       the sixth term, rle, of Pose26 heads

Weights do not enter these terms: all positives count in full there, also those of weight 0 (COR-2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tal_reference.anchors import flatten, input_size, make_anchors
from tal_reference.annotations import GroundTruths, ground_truths, image_indices
from tal_reference.assignment import (
    Targets,
    assign_candidates,
    background,
    candidates_of,
    overlaps_of,
    reject_unsupported,
    scatter_pairs,
)
from tal_reference.dialect import NEWEST, Dialect
from tal_reference.flow import Flow, rle_term
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
from tal_reference.masks import owners_of
from tal_reference.settings import Head, Hyperparameters
from tal_reference.shapes import Bool, Float, Int

COCO = (17, 3)
"""Keypoints and numbers per keypoint of COCO's persons, which have sigmas and joint weights of their own."""
COCO_SIGMAS = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)
"""Ten standard deviations of each of COCO's keypoints, per square root of the person's area (POSE-IN-3)."""
COCO_WEIGHTS = (*(1.0,) * 7, 1.2, 1.2, 1.5, 1.5, 1.0, 1.0, 1.2, 1.2, 1.5, 1.5)
"""Weight of each of COCO's keypoints in rle: 1.2 for elbows and knees, 1.5 for wrists and ankles (RLE-4)."""
AREA_EPS = 1e-9
"""Added to areas, so that a quotient is finite for a ground truth without area (POSE-3, P26-3)."""
COUNT_EPS = 1e-9
"""Added to the number of visible keypoints, so that a ground truth without any has loss 0 (POSE-4)."""
SHARE_OF_BOX = 0.53
"""Area of an object per area of its box, in the assignment (P26-3); in the loss the box's area counts (POSE-3)."""
SMALLEST_SIDE, LARGEST_SIDE = 2, 12
"""Sides of the ground truths that a level learns, in strides (P26-2)."""


@dataclass(frozen=True)
class KeypointPredictions(Predictions):
    """The predictions in the feature maps, one row per anchor.

    Attributes:
        keypoints: (B, A, K D) of each keypoint the raw x, y, and the logit of the visibility if D = 3.
        shape: K and D.
        raw_sigmas: (B, A, K, 2) logits of the standard deviations of x and y (RLE-1); None: rle is 0.
    """

    keypoints: Float[Tensor, "B A channels"]
    shape: tuple[int, int]
    raw_sigmas: Float[Tensor, "B A K 2"] | None = None


@dataclass(frozen=True)
class PositiveKeypoints:
    """Predicted and true keypoints of the P positives, in grid units of each positive's level.

    Attributes:
        predicted: (P, K, 2) decoded x and y, with gradient.
        logits: (P, K) logits of the visibilities, with gradient; None if D = 2.
        wanted: (P, K, 2) x and y of the positive's ground truth.
        visible: (P, K) bool: True for keypoints that the ground truth has (POSE-IN-2).
        area: (P,) area of the ground truth's box.
    """

    predicted: Float[Tensor, "P K 2"]
    logits: Float[Tensor, "P K"] | None
    wanted: Float[Tensor, "P K 2"]
    visible: Bool[Tensor, "P K"]
    area: Float[Tensor, "P"]


def pose_loss(
    feature_maps: Sequence[Float[Tensor, "B _ _ _"]],
    annotations: Float[Tensor, "N columns"],
    head: Head,
    hyperparameters: Hyperparameters = Hyperparameters(),
    dialect: Dialect = NEWEST,
    keep_trace: bool = False,
    *,
    keypoints: Float[Tensor, "_ K _"] | None = None,
    keypoints_assign: bool = False,
    flow: Flow | None = None,
) -> DetectionLoss:
    """Return the loss of poses: terms box, pose, kobj, cls, dfl (L1 where R = 1), and rle with a flow (POSE-SUM-1).

    Args:
        feature_maps: one map per level with 4R + C channels of detection, K D of keypoints, each keypoint's D numbers
            together (POSE-IN-1), and if `flow` is not None, 2 K or no channels of raw sigmas (RLE-1).
        annotations: (N, 6) rows (image index, class, cx, cy, w, h), sorted by image; (N, 6 + 3K) without `keypoints`:
            then x, y and visibility of each keypoint follow.
        head: strides, classes, bins, class weights, and K and D.
        hyperparameters: hyperparameters of assigner and loss.
        dialect: the choices to follow where releases differ.
        keep_trace: store every stage of the assignment in `targets[i].trace`.
        keypoints: (N, K, 3) x, y (normalised) and visibility of every row's keypoints; or (N, K, 2), all visible.
        keypoints_assign: True for Pose26 heads, whose assignment compares keypoints (P26-3) and reads them in every
            batch (P26-4); `head.parts_assign` says the same. Other heads, also end-to-end ones, assign as in detection
            (POSE-1, P26-5).
        flow: the density of the errors, for Pose26 heads; None: no term rle (P26-SUM-1).

    Raises:
        ValueError: inputs do not fit each other, a row names an unknown image or class, or there are fewer anchors
            than k.
    """
    predictions = read_keypoints(feature_maps, head)
    keypoints_assign = keypoints_assign or bool(head.parts_assign)
    reject_unknown_classes(annotations, head)
    finest = torch.promote_types(annotations.dtype, predictions.logits.dtype)
    rows, given = split_rows(annotations.to(finest), head) if keypoints is None else (annotations.to(finest), keypoints)
    truths = ground_truths(rows, len(predictions.logits), predictions.size)
    wanted = true_keypoints(given.to(finest), rows, len(truths), predictions.size)
    sigmas = sigmas_of(head, like=wanted[0])  # (K,)
    assigner = keypoint_assigners(predictions, wanted, sigmas) if keypoints_assign else None
    targets = assign_images(predictions, truths, head, hyperparameters, dialect, keep_trace, assigner)
    positives = with_keypoints(positives_of(targets), owners_of(targets), wanted)
    terms = pose_items(predictions, positives, head, hyperparameters, dialect, keypoints_assign, flow)  # (5,), or (6,)
    return DetectionLoss(terms * len(targets), terms.detach(), targets, predictions)


def pose_items(
    predictions: KeypointPredictions,
    targets: Positives | BatchTargets,
    head: Head,
    hyperparameters: Hyperparameters,
    dialect: Dialect = NEWEST,
    keypoints_assign: bool = False,
    flow: Flow | None = None,
) -> Float[Tensor, "terms"]:
    """Return the losses box, pose, kobj, cls and dfl times their gains, and rle with a flow (POSE-SUM-1, P26-SUM-1).

    Arguments are those of `pose_loss`; `targets` have the ground truths' keypoints.
    """
    positives = targets.positives if isinstance(targets, BatchTargets) else targets
    box, cls, dfl = loss_items(predictions, positives, head, hyperparameters, dialect)
    decode = decode_without_factor if keypoints_assign or head.parts_assign else decode_keypoints
    found = at_positives(predictions, positives, decode)
    sigmas = sigmas_of(head, like=found.wanted)  # (K,)
    items = [
        box,
        hyperparameters.pose_gain * pose_term(found, sigmas),
        hyperparameters.kobj_gain * visibility_term(found),
        cls,
        dfl,
    ]
    if flow is not None:
        items.append(hyperparameters.rle_gain * residual_term(predictions, positives, found, flow))
    return torch.stack(items)  # (5,), or (6,)


# --- inputs


def read_keypoints(feature_maps: Sequence[Float[Tensor, "B _ _ _"]], head: Head) -> KeypointPredictions:
    """Return the flattened feature maps, whose channels after those of detection are keypoints (POSE-IN-1, PRE-*).

    Raises:
        ValueError: the number of maps or channels does not fit the head, or the maps differ in number of images or
            dtype.
    """
    count, numbers = shape = shape_of(head)
    without, with_sigmas = (head.channels + count * (numbers + more) for more in (0, 2))
    wrong = [tuple(level.shape) for level in feature_maps if level.shape[1] not in (without, with_sigmas)]
    if wrong:
        expected = f"4R + C + K D = {without} channels, or {with_sigmas} with sigmas"
        raise ValueError(f"feature maps have the shapes {wrong}; the head has {expected}")
    distances, logits = flatten([level[:, : head.channels] for level in feature_maps], head)  # (B, A, 4R), (B, A, C)
    rest = torch.cat([level[:, head.channels :].flatten(2) for level in feature_maps], dim=2).mT  # (B, A, K D + ..)
    keypoints, raw = rest.tensor_split((count * numbers,), dim=2)  # (B, A, K D), and (B, A, 2 K) or (B, A, 0)
    raw_sigmas = raw.unflatten(2, (count, 2)) if raw.shape[2] else None  # (B, A, K, 2)
    anchors, size = make_anchors(feature_maps, head), input_size(feature_maps, head)
    return KeypointPredictions(distances, logits, anchors, size, keypoints, shape, raw_sigmas)


def shape_of(head: Head) -> tuple[int, int]:
    """Return the number K of keypoints, and of numbers D for each (POSE-IN-1).

    Raises:
        ValueError: the head has no keypoints.
    """
    if head.keypoints is None:
        raise ValueError(f"a loss of poses needs a head with keypoints, such as keypoints=(17, 3); got {head}")
    return head.keypoints


def split_rows(
    annotations: Float[Tensor, "N columns"], head: Head
) -> tuple[Float[Tensor, "N 6"], Float[Tensor, "N K 3"]]:
    """Return the rows of boxes, and the keypoints that follow in the same rows.

    Raises:
        ValueError: the rows do not have 6 + 3K columns.
    """
    count, columns = shape_of(head)[0], annotations.shape[1]
    if columns != 6 + 3 * count:
        raise ValueError(f"annotation rows have {columns} columns, expected 6 + 3K = {6 + 3 * count}")
    return annotations[:, :6], annotations[:, 6:].unflatten(1, (count, 3))


def true_keypoints(
    keypoints: Float[Tensor, "_ K _"], annotations: Float[Tensor, "N 6"], images: int, size: tuple[int, int]
) -> list[Float[Tensor, "_ K 3"]]:
    """Return for each image (M, K, 3): x and y in pixels and visibility of the ground truths' keypoints (POSE-IN-2).

    A visibility of 0 means invisible; other numbers, usually 1 or 2, are not distinguished. Keypoints without a third
    number are visible.

    Raises:
        ValueError: the number of keypoints' rows is not that of the annotations, or they have not 2 or 3 numbers.
    """
    image = image_indices(annotations, images)  # (N,)
    if len(keypoints) != len(image) or keypoints.shape[2] not in (2, 3):
        expected = f"({len(image)}, K, 3) or ({len(image)}, K, 2)"
        raise ValueError(f"keypoints are {tuple(keypoints.shape)}, expected {expected}")
    points = keypoints[..., :2] * keypoints.new_tensor((size[1], size[0]))  # (N, K, 2)
    visibilities = keypoints[..., 2:] if keypoints.shape[2] == 3 else torch.ones_like(keypoints[..., :1])  # (N, K, 1)
    whole = torch.cat((points, visibilities), dim=2)  # (N, K, 3)
    return [whole[image == i] for i in range(images)]


def with_keypoints(
    positives: Positives, owners: Int[Tensor, "P"], truths: Sequence[Float[Tensor, "_ K 3"]]
) -> Positives:
    """Return the positives with the keypoints of their ground truths.

    Args:
        positives: the P positives.
        owners: (P,) index of each positive's ground truth in its image.
        truths: for each image (M, K, 3), the keypoints of the ground truths.
    """
    first = torch.tensor([0, *map(len, truths)], device=owners.device).cumsum(0)  # (B + 1,)
    return replace(positives, keypoints=torch.cat(list(truths))[first[positives.image] + owners])


def sigmas_of(head: Head, like: Float[Tensor, "..."]) -> Float[Tensor, "K"]:
    """Return (K,) the standard deviation of each keypoint: the head's own, COCO's, or 1 / K each (POSE-IN-3).

    They are rounded to float32, whatever the dtype of `like`, in which they are returned.
    """
    shape = count, _ = shape_of(head)
    if head.keypoint_sigmas is None and shape == COCO:
        return (torch.tensor(COCO_SIGMAS, dtype=torch.float32, device=like.device) / 10).to(like)  # (K,)
    sigmas = (1 / count,) * count if head.keypoint_sigmas is None else head.keypoint_sigmas
    return torch.tensor(sigmas, dtype=torch.float32, device=like.device).to(like)  # (K,)


def decode_keypoints(raw: Float[Tensor, "*rows K 2"], centres: Float[Tensor, "*rows 2"]) -> Float[Tensor, "*rows K 2"]:
    """Return points in grid units; a raw number 0 is the top left corner of the anchor's cell (POSE-2)."""
    return 2 * raw + (centres - 0.5)[..., None, :]


def decode_without_factor(
    raw: Float[Tensor, "*#rows K 2"], centres: Float[Tensor, "*#rows 2"]
) -> Float[Tensor, "*#rows K 2"]:
    """Return points in grid units as Pose26 heads predict them: offsets from the anchor (P26-1)."""
    return raw + centres[..., None, :]


def at_positives(
    predictions: KeypointPredictions, positives: Positives, decode: Callable[[Tensor, Tensor], Tensor]
) -> PositiveKeypoints:
    """Return the predicted and true keypoints of the positives, in grid units (POSE-3).

    Args:
        predictions: the flattened feature maps.
        positives: images, anchors, target boxes and keypoints of the P positives.
        decode: `decode_keypoints` or `decode_without_factor`.
    """
    assert positives.keypoints is not None
    anchors, _ = predictions.at(positives)
    raw = predictions.keypoints[positives.image, positives.anchor].unflatten(1, predictions.shape)  # (P, K, D)
    left, top, right, bottom = (positives.boxes / anchors.strides).unbind(1)  # (P,) each
    return PositiveKeypoints(
        decode(raw[..., :2], anchors.centres),
        raw[..., 2] if raw.shape[2] == 3 else None,
        positives.keypoints[..., :2] / anchors.strides[:, None],
        positives.keypoints[..., 2] != 0,
        (right - left) * (bottom - top),
    )


# --- loss


def similarity(
    first: Float[Tensor, "*pairs K 2"],
    second: Float[Tensor, "*pairs K 2"],
    area: Float[Tensor, "*pairs"],
    sigmas: Float[Tensor, "K"],
) -> Float[Tensor, "*pairs K"]:
    """Return (.., K) the similarity of keypoints: 1 where both are one point, nearly 0 far apart (POSE-3, P26-3).

    A distance counts relative to the object's size and to the keypoint's standard deviation.

    Args:
        first: (.., K, 2) points.
        second: (.., K, 2) points in the same units.
        area: (..) area of the object, in the square of these units.
        sigmas: (K,) standard deviations.
    """
    apart = (first - second).square().sum(-1)  # (.., K)
    return (-apart / (8 * sigmas.square() * (area[..., None] + AREA_EPS))).exp()


def pose_term(found: PositiveKeypoints, sigmas: Float[Tensor, "K"]) -> Float[Tensor, ""]:
    """Return the mean over positives of 1 - OKS, the mean over the visible keypoints (POSE-4), without gain.

    Only the keypoints have a gradient. Without positives the term is an empty sum with gradients of zero (POSE-SUM-1).
    """
    missed = (1 - similarity(found.predicted, found.wanted, found.area, sigmas)) * found.visible  # (P, K)
    losses = missed.sum(1) / (found.visible.to(missed).sum(1) + COUNT_EPS)  # (P,)
    return losses.sum() / max(len(losses), 1)


def visibility_term(found: PositiveKeypoints) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of all keypoints' visibilities, invisible ones included (POSE-5), without gain.

    Without positives, or without logits (D = 2), it is zero.
    """
    if found.logits is None:
        return found.predicted.new_zeros(())
    wanted = found.visible.to(found.logits)  # (P, K)
    losses = functional.binary_cross_entropy_with_logits(found.logits, wanted, reduction="none")  # (P, K)
    return losses.sum() / max(losses.numel(), 1)


def residual_term(
    predictions: KeypointPredictions,
    positives: Positives,
    found: PositiveKeypoints,
    flow: Flow,
) -> Float[Tensor, ""]:
    """Return the residual log-likelihood of the positives' visible keypoints, without gain; 0 if no sigmas (RLE-1).

    The weights of the keypoints are rounded to float32, as their standard deviations are.
    """
    if predictions.raw_sigmas is None:
        return found.predicted.new_zeros(())
    shape = predictions.shape
    joints = COCO_WEIGHTS if shape == COCO else (1.0,) * shape[0]
    weights = torch.tensor(joints, dtype=torch.float32, device=found.visible.device).to(found.predicted)  # (K,)
    raw_sigmas = predictions.raw_sigmas[positives.image, positives.anchor]  # (P, K, 2)
    return rle_term(found.predicted - found.wanted, raw_sigmas, found.visible, weights, flow)


# --- assignment with keypoints


def keypoint_assigners(
    predictions: KeypointPredictions, truths: Sequence[Float[Tensor, "_ K 3"]], sigmas: Float[Tensor, "K"]
) -> list[partial[Targets]]:
    """Return for each image a function that assigns its ground truths as `assign` does, by keypoints (P26-3)."""
    anchors = predictions.anchors
    raw = predictions.keypoints.detach().unflatten(2, predictions.shape)  # (B, A, K, D)
    points = decode_without_factor(raw[..., :2], anchors.centres)  # (B, A, K, 2)
    return [
        partial(
            assign_with_keypoints,
            points=(image * anchors.strides[:, None]).to(own),
            keypoints=own,
            sigmas=sigmas,
            anchor_strides=anchors.strides.squeeze(1),
        )
        for image, own in zip(points, truths, strict=True)
    ]


@torch.no_grad()
def assign_with_keypoints(
    scores: Float[Tensor, "A C"],
    boxes: Float[Tensor, "A 4"],
    centres: Float[Tensor, "A 2"],
    truths: GroundTruths,
    strides: tuple[int, ...],
    hyperparameters: Hyperparameters,
    dialect: Dialect,
    keep_trace: bool = False,
    *,
    points: Float[Tensor, "A K 2"],
    keypoints: Float[Tensor, "M K 3"],
    sigmas: Float[Tensor, "K"],
    anchor_strides: Float[Tensor, "A"],
) -> Targets:
    """Assign the ground truths of one image; OKS replaces the overlap of ground truths that have keypoints (P26-3).

    Args:
        scores: (A, C) predicted class scores, after the sigmoid.
        boxes: (A, 4) predicted boxes, xyxy in pixels.
        centres: (A, 2) anchor centres in pixels.
        truths: the image's ground truths, boxes in pixels.
        strides: the head's strides in pixels, for TAL-CAND-2.
        hyperparameters: k, alpha, beta and topk2.
        dialect: the choices to follow.
        keep_trace: store every stage's values in `trace`.
        points: (A, K, 2) predicted keypoints in pixels.
        keypoints: (M, K, 3) keypoints of the ground truths, x and y in pixels.
        sigmas: (K,) standard deviations of the keypoints.
        anchor_strides: (A,) stride of each anchor's level in pixels.

    Raises:
        ValueError: there are fewer anchors than k (TAL-TOPK-2).
    """
    if not len(truths):
        return background(truths, len(centres))  # TAL-EMPTY-1
    reject_unsupported(strides, hyperparameters, dialect)
    candidates = gated(candidates_of(truths, centres, dialect.floor(strides)), truths, anchor_strides)  # (M, A)
    counted = keypoints[..., 2] > 0  # (M, K)
    has_keypoints = counted.any(1)  # (M,)
    of_boxes = overlaps_of(truths.boxes, boxes, candidates & ~has_keypoints[:, None])  # (M, A)
    truth, anchor = pairs = (candidates & has_keypoints[:, None]).nonzero(as_tuple=True)  # (P,), (P,)
    area = SHARE_OF_BOX * box_areas(truths)[truth]  # (P,)
    alike = similarity(points[anchor], keypoints[truth, :, :2], area, sigmas) * counted[truth]  # (P, K)
    oks = alike.sum(1) / counted[truth].sum(1)  # (P,)
    overlap = of_boxes + scatter_pairs(oks, pairs, candidates)  # (M, A) for each ground truth one of the two is zero
    return assign_candidates(scores, truths, candidates, candidates, overlap, hyperparameters, keep_trace)


def box_areas(truths: GroundTruths) -> Float[Tensor, "M"]:
    """Return (M,) the areas of the ground truths' boxes in square pixels."""
    left, top, right, bottom = truths.boxes.unbind(1)  # (M,) each
    return (right - left) * (bottom - top)


def gated(
    candidates: Bool[Tensor, "M A"], truths: GroundTruths, anchor_strides: Float[Tensor, "A"]
) -> Bool[Tensor, "M A"]:
    """Return (M, A) the candidates whose level fits the size of the ground truth (P26-2).

    The size is the side of a square with the area of the box, which is not widened. A ground truth that would lose all
    its candidates keeps all.

    Args:
        candidates: (M, A) bool: candidates of the detection loss.
        truths: the image's ground truths.
        anchor_strides: (A,) stride of each anchor's level in pixels.
    """
    side = box_areas(truths).clamp(min=0).sqrt()[:, None]  # (M, 1)
    finest, coarsest = anchor_strides == anchor_strides.min(), anchor_strides == anchor_strides.max()  # (A,), (A,)
    fits = ((side >= SMALLEST_SIDE * anchor_strides) | finest) & ((side <= LARGEST_SIDE * anchor_strides) | coarsest)
    left = candidates & fits  # (M, A)
    return torch.where(left.any(1, keepdim=True), left, candidates)
