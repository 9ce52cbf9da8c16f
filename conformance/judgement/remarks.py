"""Remarks on a batch that a reader needs beside a verdict: inputs that are unusual, and probably unintended."""

from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import pixel_boxes

LISTED = 3
"""Maximum number of rows that a remark names."""


def remarks_on(batch: Batch) -> list[str]:
    """Return one sentence for each unusual property of a batch; [] for an ordinary batch."""
    remarks = non_finite_remark(batch), unsorted_remark(batch), outside_remark(batch)
    return [remark for remark in remarks if remark]


def non_finite_remark(batch: Batch) -> str:
    """Return a sentence with the number of anchors with a non-finite prediction, by level; "" if there are none."""
    levels = []
    for name, level in batch.named_maps:
        finite = level.isfinite().all(1)  # (B, H, W)
        levels.append((int((~finite).sum()), finite.numel(), name))
    affected = sum(wrong for wrong, _, _ in levels)
    if not affected:
        return ""
    total = sum(count for _, count, _ in levels)
    parts = [f"{wrong} of {count} at {stride}" for wrong, count, stride in levels if wrong]
    return f"predictions of {affected} of {total} anchors are not finite: {', '.join(parts)}"


def unsorted_remark(batch: Batch) -> str:
    """Return a sentence about annotation rows that are not sorted by image index; "" if all are sorted (ANN-1)."""
    images = batch.annotations[:, 0]  # (N,)
    (falls,) = (images[1:] < images[:-1]).nonzero(as_tuple=True)
    if not len(falls):
        return ""
    pairs = [f"{row + 1} and {row + 2}" for row in falls[:LISTED].tolist()]
    more = f", and {len(falls) - LISTED} more pairs," if len(falls) > LISTED else ""
    return (
        f"rows {', '.join(pairs)}{more} (counted from 1) are not sorted by image (ANN-1): Ultralytics from 8.4.25 "
        "on raises an error, or ignores a ground truth"
    )


def outside_remark(batch: Batch) -> str:
    """Return a sentence about ground truths that lie wholly outside their image; "" if there are none (ANN-1)."""
    height, width = batch.size
    boxes = pixel_boxes(batch.annotations.cpu().double(), batch.size)  # (N, 4)
    limit = boxes.new_tensor([width, height])
    outside = ((boxes[:, :2] >= limit) | (boxes[:, 2:] <= 0)).any(1)  # (N,)
    count = int(outside.sum())
    if not count:
        return ""
    which = "all ground truths lie" if bool(outside.all()) else f"{count} of {len(outside)} ground truths lie"
    beyond = bool((batch.annotations[:, 2:4] > 1).all())  # every centre
    cause = ", as rows in pixels would: rows are normalised by the image size (ANN-1)" if beyond else ""
    return f"{which} wholly outside the image{cause}"
