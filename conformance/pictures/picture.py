"""What the report draws of one image: boxes, anchors and positives, and why they are, as plain numbers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Assignment
from tal_conformance.core.verdicts import Judgement
from tal_conformance.judgement.failure import Failure
from tal_conformance.judgement.non_finite import is_finite
from tal_conformance.pictures.trace import ImageTrace
from tal_reference import Dialect


def picture(
    batch: Batch, dialect: Dialect, assignment: Assignment | None, judgement: Judgement | None
) -> dict[str, Any]:
    """The image in which the first divergence lies.

    Args:
        batch: what was judged.
        dialect: whose positives are drawn as the reference's.
        assignment: the implementation's, if it showed one.
        judgement: names the image and the anchors to mark.

    Returns:
        Plain numbers, in pixels; positives are triples of anchor, ground truth and weight.
    """
    first = judgement.first if judgement else None
    values = first.mismatch.values if first and first.mismatch else []
    image = next((value.image for value in values if value.image is not None), _busiest(batch))
    explained = ImageTrace.of(batch, image, dialect)
    focus = sorted({value.anchor for value in values if value.anchor is not None and value.image == image})
    differing = [] if assignment is None else _differing(explained, assignment)
    told = explained.telling([*focus, *differing])
    return drawn(explained, assignment, told) | {"stage": first.stage if first else "", "focus": focus}


def failure_picture(failure: Failure) -> dict[str, Any] | None:
    """Return the picture of a failing batch, or None if no picture explains it or a prediction is not finite."""
    if not failure.pictured or not is_finite(failure.batch):
        return None
    dialect = failure.subject.implementation.dialect
    return picture(failure.batch, dialect, failure.assignment, failure.judgement)


def drawn(explained: ImageTrace, assignment: Assignment | None, told: Iterable[int]) -> dict[str, Any]:
    """An image with the positives of reference and implementation, and what is to be told of some anchors."""
    batch, image, truths = explained.batch, explained.image, explained.truths
    height, width = batch.size
    expected = explained.loss.targets[image]
    return {
        "image": image,
        "width": width,
        "height": height,
        "levels": [
            {"stride": stride, "rows": level.shape[2], "columns": level.shape[3]}
            for stride, level in zip(batch.head.strides, batch.feature_maps, strict=True)
        ],
        "truths": [
            {"box": box, "label": label, "real": real}
            for box, label, real in zip(
                truths.boxes.tolist(), truths.labels.tolist(), truths.real.tolist(), strict=True
            )
        ],
        "reference": _positives(expected.foreground, expected.truth_index, expected.weights),
        "implementation": None
        if assignment is None
        else _positives(
            assignment.foreground[image], assignment.truth_index[image], assignment.scores[image].sum(-1)
        ),
        **explained.facts(told),
    }


def _differing(explained: ImageTrace, assignment: Assignment) -> list[int]:
    """Anchors that one of the two makes positive, or that they give to different ground truths."""
    image, expected = explained.image, explained.loss.targets[explained.image]
    foreground, owner = assignment.foreground[image].bool(), assignment.truth_index[image]
    if foreground.shape != expected.foreground.shape:
        return []
    other = expected.foreground & (owner != expected.truth_index)
    anchors: list[int] = ((foreground != expected.foreground) | other).nonzero().flatten().tolist()
    return anchors


def _positives(foreground: Tensor, index: Tensor, weights: Tensor) -> list[list[float]]:
    anchors = foreground.nonzero().flatten()
    return [
        [anchor, int(truth), float(f"{weight:.6g}")]
        for anchor, truth, weight in zip(
            anchors.tolist(), index[anchors].tolist(), weights[anchors].tolist(), strict=True
        )
    ]


def _busiest(batch: Batch) -> int:
    """The image with the most ground truths."""
    return int(torch.bincount(batch.annotations[:, 0].long(), minlength=batch.images).argmax())
