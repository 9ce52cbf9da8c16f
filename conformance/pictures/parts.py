"""Similarity of an anchor's keypoints or mask to those of its ground truths, as text for `explain`.

M ground truths, A anchors, K keypoints.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from tal_conformance.core.reference_inputs import keypoints_of, masks_of
from tal_conformance.core.task import POSE, SEGMENT
from tal_conformance.pictures.trace import ImageTrace
from tal_reference.keypoints import KeypointPredictions, decode_keypoints, sigmas_of, similarity
from tal_reference.masks import (
    MaskPredictions,
    in_mask_pixels,
    inside,
    mask_logits,
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
    """Return (A,) the mean similarity of the visible keypoints of a ground truth (POSE-4); NaN without any."""
    predictions = trace.loss.predictions
    assert isinstance(predictions, KeypointPredictions)
    strides = predictions.anchors.strides.double()  # (A, 1)
    count, numbers = predictions.shape
    raw = predictions.keypoints[trace.image].double().unflatten(1, (count, numbers))[..., :2]  # (A, K, 2)
    places = (
        decode_keypoints(raw, predictions.anchors.centres.double()) * strides[..., None]
    )  # (A, K, 2) pixels
    wanted = keypoints_of(trace.batch)[trace.image][truth].to(places)  # (K, 3)
    left, top, right, bottom = trace.truths.boxes[truth].double()
    area = ((right - left) * (bottom - top)).expand(len(places))  # (A,)
    values = similarity(places, wanted[:, :2], area, sigmas_of(trace.batch.head, like=places))  # (A, K)
    visible = wanted[:, 2] != 0  # (K,)
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


FITS: Final = {
    POSE.name: Fit(
        "OKS", keypoint_fit, "OKS does not take part in the assignment (POSE-1); 1 - OKS is its loss (POSE-4)"
    ),
    SEGMENT.name: Fit(
        "mask IoU",
        mask_fit,
        "masks do not take part in the assignment; their loss is a cross-entropy in the box (SEG-2)",
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
