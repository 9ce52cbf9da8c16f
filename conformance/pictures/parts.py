"""Similarity of an anchor's keypoints or mask to those of its ground truths, as text for `explain`.

M ground truths, A anchors, K keypoints.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from tal_conformance.core.reference_inputs import keypoints_of, masks_of
from tal_conformance.core.task import POSE, POSE26, SEGMENT, SEGMENT26
from tal_conformance.pictures.trace import ImageTrace
from tal_reference.keypoints import (
    SHARE_OF_BOX,
    KeypointPredictions,
    decode_keypoints,
    decode_without_factor,
    sigmas_of,
    similarity,
)
from tal_reference.masks import (
    TRUE_PIXEL,
    MaskPredictions,
    at_size,
    in_mask_pixels,
    inside,
    mask_logits,
    mask_overlap,
    resized_prototypes,
    size_of,
)


class Fit(NamedTuple):
    """Measure of the similarity of keypoints or masks."""

    name: str
    """Name of the measure."""
    values: Callable[[ImageTrace, int], Tensor]
    """Function of a trace and a ground truth that returns the measure (A,) of every anchor."""
    note: str
    """Role of the measure in the assignment and the loss, as a sentence."""


def keypoint_fit(trace: ImageTrace, truth: int) -> Tensor:
    """Return (A,) the mean similarity of the visible keypoints of a ground truth; NaN without any (POSE-4, P26-3).

    In Pose26 heads it is the overlap of the assignment, for which an object has 0.53 of the area of its box.
    """
    predictions = trace.loss.predictions
    assert isinstance(predictions, KeypointPredictions)
    strides = predictions.anchors.strides.double()  # (A, 1)
    count, numbers = predictions.shape
    raw = predictions.keypoints[trace.image].double().unflatten(1, (count, numbers))[..., :2]  # (A, K, 2)
    assigning = bool(trace.batch.head.parts_assign)
    decode = decode_without_factor if assigning else decode_keypoints
    places = decode(raw, predictions.anchors.centres.double()) * strides[..., None]  # (A, K, 2) pixels
    wanted = keypoints_of(trace.batch)[trace.image][truth].to(places)  # (K, 3)
    left, top, right, bottom = trace.truths.boxes[truth].double()
    share = SHARE_OF_BOX if assigning else 1.0
    area = (share * (right - left) * (bottom - top)).expand(len(places))  # (A,)
    values = similarity(places, wanted[:, :2], area, sigmas_of(trace.batch.head, like=places))  # (A, K)
    visible = wanted[:, 2] > 0 if assigning else wanted[:, 2] != 0  # (K,)
    return (values * visible).sum(1) / visible.sum()


def mask_fit(trace: ImageTrace, truth: int) -> Tensor:
    """Return (A,) the intersection over union of predicted and true mask in the box of a ground truth; NaN if empty."""
    predictions = trace.loss.predictions
    assert isinstance(predictions, MaskPredictions)
    mask = masks_of(trace.batch)[trace.image][truth] > 0.5  # (h_m, w_m)
    prototypes = resized_prototypes(predictions.prototypes[trace.image][None].double(), size_of(mask))[0]
    logits = mask_logits(predictions.coefficients[trace.image].double(), prototypes)  # (A, h_m, w_m)
    box = in_mask_pixels(trace.truths.boxes[truth][None].double(), trace.batch.size, size_of(mask))  # (1, 4)
    shown = (logits > 0) & inside(box, size_of(mask))  # (A, h_m, w_m)
    true = mask.to(shown.device) & inside(box, size_of(mask))[0]  # (h_m, w_m)
    return (shown & true).sum((1, 2)) / (shown | true).sum((1, 2))


def assigned_mask_fit(trace: ImageTrace, truth: int) -> Tensor:
    """Return (A,) the intersection over union of masks that the assignment of Segment26 heads compares (S26-3)."""
    predictions = trace.loss.predictions
    assert isinstance(predictions, MaskPredictions)
    prototypes = predictions.prototypes[trace.image].double()  # (n, h, w)
    mask = at_size(masks_of(trace.batch)[trace.image], size_of(prototypes))[truth] > TRUE_PIXEL  # (h, w)
    logits = mask_logits(predictions.coefficients[trace.image].double(), prototypes)  # (A, h, w)
    scale = prototypes.shape[1] / trace.batch.size[0]
    true = mask.to(logits.device).expand(logits.shape)  # (A, h, w)
    return mask_overlap(logits, predictions.pixels[trace.image].double() * scale, true)


FITS: Final = {
    POSE.name: Fit(
        "OKS", keypoint_fit, "OKS does not take part in the assignment (POSE-1); 1 - OKS is its loss (POSE-4)"
    ),
    SEGMENT.name: Fit(
        "mask IoU",
        mask_fit,
        "masks do not take part in the assignment; their loss is a cross-entropy in the box (SEG-2)",
    ),
    POSE26.name: Fit(
        "OKS",
        keypoint_fit,
        "OKS is the overlap of ground truths with visible keypoints, on the levels that fit their size (P26-2, P26-3)",
    ),
    SEGMENT26.name: Fit(
        "mask IoU",
        assigned_mask_fit,
        "the overlap is the mean of it and of CIoU, for the 3k best candidates by boxes alone (S26-1, S26-2)",
    ),
}
"""The measure of every task that has keypoints or masks."""


@torch.no_grad()
def parts_as_text(trace: ImageTrace, anchor: int | None, truth: int | None) -> list[str]:
    """Return lines that say how well keypoints or masks fit, and their rank among a ground truth's candidates.

    Args:
        trace: trace of the image.
        anchor: the anchor to explain, with every ground truth of which it is a candidate or a positive; or None.
        truth: the ground truth to explain, with all of its positives; None: see `anchor`.

    Returns:
        No line for tasks without keypoints and masks, and for images without ground truths.
    """
    fit, stages = FITS.get(trace.batch.task), trace.trace
    if fit is None or stages is None:
        return []
    listed = stages.candidates | stages.positives  # (M, A)
    if anchor is not None:
        pairs = [(own, anchor) for own in listed[:, anchor].nonzero().flatten().tolist()]
    elif truth is not None:
        pairs = [(truth, own) for own in stages.positives[truth].nonzero().flatten().tolist()]
    else:
        pairs = []
    lines = []
    known: dict[int, Tensor] = {}
    for own, place in pairs:
        if own not in known:
            known[own] = fit.values(trace, own)
        lines.append(_line(fit.name, known[own], listed[own], own, place))
    return [*lines, f"{fit.note}."] if lines else []


def _line(name: str, values: Tensor, listed: Tensor, truth: int, anchor: int) -> str:
    """Return the line of one pair: the measure, and its rank among the anchors `listed` (A,)."""
    value = float(values[anchor])
    if math.isnan(value):
        return f"Anchor {anchor}, GT {truth}: no {name}: the ground truth shows nothing to compare."
    rank = int((values[listed] > values[anchor]).sum()) + 1
    return f"Anchor {anchor}, GT {truth}: {name} {value:.3f}, rank {rank} of {int(listed.sum())} candidates."
