"""Data of a picture in the report: boxes, anchors, positives and their explanation, as JSON-compatible values."""

from typing import Any

import torch

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import CheckedAssignment, Outcome
from tal_conformance.core.task import TASKS
from tal_conformance.core.verdicts import Judgement
from tal_conformance.judgement.failure import Failure
from tal_conformance.judgement.non_finite import is_finite
from tal_conformance.pictures.trace import ImageTrace, trace_as_dict
from tal_reference import Dialect

LAYERS_BY_TASK = dict.fromkeys(TASKS, trace_as_dict)
"""The function that returns the data of an image's picture, for every task. Keypoints and masks are not drawn; of a
head with branches, one branch is."""


def picture(
    batch: Batch, dialect: Dialect, assignment: CheckedAssignment | None, judgement: Judgement | None
) -> dict[str, Any]:
    """Return picture data of the image with the first divergence, or else with the most ground truths.

    Args:
        batch: the judged batch.
        dialect: the dialect that the reference follows.
        assignment: assignment of the implementation, of the branch that `branch_of` returns; None if it does not
            expose one.
        judgement: judgement of the batch; its first divergence determines the image and the anchors to mark.

    Returns:
        JSON-compatible values, in pixels. Positives are triples of anchor, ground truth and weight.
    """
    first = judgement.first if judgement else None
    branch = branch_of(batch, first.stage if first else "")
    values = first.mismatch.values if first and first.mismatch else []
    image = next((value.image for value in values if value.image is not None), _fullest_image(batch))
    trace = ImageTrace.of(batch, image, dialect, branch)
    focus = sorted({value.anchor for value in values if value.anchor is not None and value.image == image})
    differing = [] if assignment is None else _differing_anchors(trace, assignment)
    anchors = trace.most_relevant_anchors([*focus, *differing])
    stage = first.stage if first else ""
    return LAYERS_BY_TASK[batch.task](trace, assignment, anchors) | {"stage": stage, "focus": focus}


def failure_picture(failure: Failure) -> dict[str, Any] | None:
    """Return the data of a failure's picture; None if the failure cannot be drawn."""
    if not (failure.pictured and can_be_drawn(failure.batch)):
        return None
    dialect = failure.subject.implementation.dialect
    assignment = failure.assignment
    if failure.outcome is not None and failure.outcome.branches:
        assignment = drawn_assignment(failure.batch, failure.outcome, failure.judgement)
    return picture(failure.batch, dialect, assignment, failure.judgement)


def drawn_assignment(batch: Batch, outcome: Outcome, judgement: Judgement | None) -> CheckedAssignment | None:
    """Return the assignment of an outcome that a picture shows: of an end-to-end head, that of the drawn branch."""
    if not outcome.branches:
        return outcome.assignment
    first = judgement.first if judgement else None
    return outcome.branches[branch_of(batch, first.stage if first else "")].assignment


def branch_of(batch: Batch, stage: str) -> str:
    """Return the branch to draw: that of the first diverging stage, or that which predicts after the training.

    Returns:
        The branch's name; "" for a head without branches.
    """
    named = stage.rpartition("/")[0]
    return named if named in batch.family.branches else batch.family.branches[-1]


def can_be_drawn(batch: Batch) -> bool:
    """Return True if the boxes of the batch's task are drawn, and its predictions are finite."""
    return batch.task in LAYERS_BY_TASK and is_finite(batch)


def _differing_anchors(trace: ImageTrace, assignment: CheckedAssignment) -> list[int]:
    """Return the anchors to which `assignment` and the reference assign different ground truths (or background)."""
    image, expected = trace.image, trace.loss.targets[trace.image]
    foreground, owner = assignment.foreground[image].bool(), assignment.truth_index[image]
    if foreground.shape != expected.foreground.shape:
        return []
    other_owner = expected.foreground & (owner != expected.truth_index)  # (A,)
    anchors: list[int] = ((foreground != expected.foreground) | other_owner).nonzero().flatten().tolist()
    return anchors


def _fullest_image(batch: Batch) -> int:
    """Return the index of the image with the most ground truths."""
    return int(torch.bincount(batch.annotations[:, 0].long(), minlength=batch.images).argmax())
