"""The judge: an outcome of a batch, held to a dialect."""

from dataclasses import replace

import torch

from conformance.batches import Batch
from conformance.implementations import AssignerInputs, Assignment, Outcome
from conformance.implementations.outcome import assigner_inputs
from conformance.judgement.assignment import InputErrors, judge_assignment, oracle
from conformance.judgement.bounds import ROUNDINGS, bound, box_unit, precision
from conformance.judgement.choices import assignments
from conformance.judgement.comparators import equal, finite, within
from conformance.judgement.loss import judge_loss
from conformance.judgement.verdicts import Agreement, Diverges, Judgement, Mismatch, Uniqueness
from reference import Dialect, GroundTruths, Targets, ground_truths
from reference.annotations import to_corners
from reference.assignment import alignment_metric, normalised, overlaps_of, targets_of
from reference.loss import Predictions, assign_images, read_predictions

TRIED = 64
"""Assignments of an image that are tried for a loss that does not show its own."""


def judge(batch: Batch, outcome: Outcome, dialect: Dialect) -> Judgement:
    """Judge what an implementation made of a batch.

    Args:
        batch: what it was given.
        outcome: what it made of it.
        dialect: what it is held to.

    Returns:
        A judgement whose verdict does not fail.

    Raises:
        Diverges: some stage computes something else; the judgement is in it.
    """
    judgement = Judgement()
    exact = exact_predictions(batch)
    truths = ground_truths(batch.annotations.double(), batch.images, batch.size)
    counts = [len(image) for image in truths]
    if outcome.own_inputs:
        judge_inputs(judgement, batch, outcome.inputs, exact, truths)
        if judgement.verdict.fails and not classes_exist(outcome.inputs):
            raise Diverges(judgement)  # there is no score to go on with
    errors = None if outcome.own_inputs or outcome.loss is None else input_errors(batch, exact, truths)
    if outcome.assignment is not None:
        judge_assignment(judgement, outcome.assignment, outcome.inputs, counts, dialect, errors)
        if outcome.loss is not None and well_formed(outcome.assignment, batch):
            judge_loss(judgement, batch, outcome.assignment, outcome.loss, dialect)
    else:
        judge_hidden(judgement, batch, outcome, dialect, errors)
    if judgement.verdict.fails:
        raise Diverges(judgement)
    return judgement


def exact_predictions(batch: Batch) -> Predictions:
    """The batch's predictions, decoded in float64."""
    with torch.no_grad():
        return read_predictions([level.double() for level in batch.feature_maps], batch.head)


def judge_inputs(
    judgement: Judgement, batch: Batch, seen: AssignerInputs, exact: Predictions, truths: list[GroundTruths]
) -> None:
    """Stage "decode": what the implementation gave to its assigner follows from the feature maps and annotations."""
    own = assigner_inputs(batch)
    dtype = precision(batch.dtype)
    eps = torch.finfo(dtype).eps
    stage = judgement.stages["decode"]
    boxes = exact.boxes * exact.anchors.strides  # (B, A, 4)
    unit = box_unit(exact, batch.head.reg_max, eps) * exact.anchors.strides  # (B, A, 4)
    box_error = bound(own.boxes, boxes, unit, dtype, "predicted box")
    scores = exact.logits.sigmoid()  # (B, A, C)
    score_error = bound(own.scores, scores, 3 * eps * scores, dtype, "class score")
    try:
        centres, own_centres = exact.anchors.pixels, own.anchors.double()  # (A, 2) twice
        centre_error = torch.where(
            own_centres == centres, 0, eps * centres
        )  # a coarse dtype rounds far anchors
        names: tuple[str, ...] = ("anchor", "axis")
        stage.add(within("anchor centre", "ANC-1", seen.anchors, centres, centre_error, own.anchors, names))
        finite("stride", "ANC-1", seen.strides)
        stage.add(equal("stride", "ANC-1", seen.strides.double(), exact.anchors.strides, ("anchor",)))
        names = ("image", "anchor", "side")
        stage.add(within("predicted box", "DEC-2", seen.boxes, boxes, box_error, own.boxes, names))
        names = ("image", "anchor", "class")
        stage.add(within("class score", "TAL-MET-1", seen.scores, scores, score_error, own.scores, names))
        for image, exact_truths in enumerate(truths):
            stage.add(judge_truths(seen, own, image, exact_truths))
    except Mismatch as mismatch:
        stage.fail(mismatch)


def classes_exist(seen: AssignerInputs) -> bool:
    """Whether every label is the index of a class."""
    return bool(((seen.labels >= 0) & (seen.labels < seen.head.classes)).all())


def judge_truths(seen: AssignerInputs, own: AssignerInputs, image: int, truths: GroundTruths) -> Agreement:
    """ANN-1 to ANN-4 of one image: its ground truths stand first, in their order; what follows is padding.

    Raises:
        Mismatch: they do not, or their boxes or labels are others.
    """
    count = len(truths)
    finite("label", "ANN-1", seen.labels[image])
    finite("truth mask", "ANN-3", seen.truth_mask[image])
    labels, mask = seen.labels[image, :count, 0], seen.truth_mask[image, :, 0] > 0
    equal("label", "ANN-2", labels, truths.labels, ("GT",), image)
    boxes, mine = seen.truth_boxes[image, :count], own.truth_boxes[image, :count]
    dtype = precision(boxes.dtype)
    unit = truth_unit(truths, torch.finfo(dtype).eps)
    error = bound(mine, truths.boxes, unit, dtype, "ground truth box")
    agreement = within("ground truth box", "ANN-1", boxes, truths.boxes, error, mine, ("GT", "side"), image)
    sum_error = 4 * error.amax(-1) if count else error.sum(-1)  # (M,)
    doubtful = truths.boxes.sum(-1).abs() <= sum_error.where(
        boxes.double().sum(-1) != truths.boxes.sum(-1), 0
    )
    expected = torch.where(doubtful, mask[:count], truths.real)
    equal("real", "ANN-3", mask[:count], expected, ("GT",), image)
    equal("real", "ANN-4", mask[count:], torch.zeros_like(mask[count:]), ("padding row",), image)
    return agreement


def truth_unit(truths: GroundTruths, eps: float) -> torch.Tensor:
    """ANN-1: error (M, 4) in pixels of a converted box: centre and half side are each rounded, and so is their sum."""
    left_top, right_bottom = truths.boxes[:, :2], truths.boxes[:, 2:]
    centre, half = (left_top + right_bottom).abs() / 2, (right_bottom - left_top).abs() / 2
    return 2 * eps * (centre + half).repeat(1, 2)


def input_errors(batch: Batch, exact: Predictions, truths: list[GroundTruths]) -> list[InputErrors]:
    """How far a loss's own, hidden inputs may lie from the reference's in the same dtype."""
    eps = torch.finfo(precision(batch.dtype)).eps
    boxes = (
        2 * ROUNDINGS * (box_unit(exact, batch.head.reg_max, eps) * exact.anchors.strides).amax(-1)
    )  # (B, A)
    scores = 2 * ROUNDINGS * 3 * eps * exact.logits.sigmoid()  # (B, A, C)
    sharp = converts_exactly(batch.annotations[:, 2:], batch.size)  # (N,)
    errors = []
    for image in range(batch.images):
        rows = sharp[batch.annotations[:, 0] == image]  # (M,)
        truth_error = (2 * ROUNDINGS * truth_unit(truths[image], eps)).where(~rows[:, None], 0)  # (M, 4)
        errors.append(InputErrors(boxes[image], scores[image], truth_error))
    return errors


def converts_exactly(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """ANN-1: whose conversion to pixels rounds nowhere, whether corners or pixels come first: (N,) bool.

    Such a ground truth has the same edges in every implementation, and its borders are sharp.
    """
    height, width = size
    scale = boxes.new_tensor((width, height, width, height))
    pixels_first = to_corners(boxes, size)
    corners_first = to_corners(boxes, (1, 1)) * scale
    exact = to_corners(boxes.double(), size)
    return ((pixels_first.double() == exact) & (corners_first.double() == exact)).all(1)


def well_formed(assignment: Assignment, batch: Batch) -> bool:
    """Whether the loss can be computed from it at all; if not, a mismatch was noted already."""
    finite = (
        torch.isfinite(assignment.scores).all()
        and torch.isfinite(assignment.boxes[assignment.foreground]).all()
    )
    return bool(finite)


def judge_hidden(
    judgement: Judgement, batch: Batch, outcome: Outcome, dialect: Dialect, errors: list[InputErrors] | None
) -> None:
    """Judge a loss that does not show its assignment: some admissible one must lead to it.

    The reference's own assignment is tried first, then up to `TRIED` others of each image in turn. Where there are
    more than that, a loss that agrees with none of those tried is not held to be wrong; the judgement says so.
    """
    assert outcome.loss is not None
    predictions = read_predictions([level.detach() for level in batch.feature_maps], batch.head)
    truths = ground_truths(batch.annotations.to(batch.dtype), batch.images, batch.size)
    own = assign_images(predictions, truths, batch.head, batch.hyperparameters, dialect)
    first = _judged(batch, own, outcome, dialect)
    oracles = [
        oracle(outcome.inputs, image, len(truths[image]), dialect, errors[image] if errors else None)
        if len(truths[image])
        else None
        for image in range(batch.images)
    ]
    kinds = [expected.uniqueness for expected in oracles if expected is not None]
    order = [Uniqueness.UNIQUE, Uniqueness.NEAR_TIE, Uniqueness.TIE]
    judgement.uniqueness = max(kinds, key=order.index, default=Uniqueness.UNIQUE)
    best, complete = first, True
    for image, expected in enumerate(oracles):
        if not best.verdict.fails:
            break
        if expected is None or expected.uniqueness is Uniqueness.UNIQUE:
            continue
        tried = 0
        for owners in assignments(expected.selection, expected.owners, TRIED, expected.keeps):
            tried += 1
            positives = owners.positives(len(truths[image]))
            changed = [
                *own[:image],
                _targets(batch, predictions, truths, image, positives),
                *own[image + 1 :],
            ]
            candidate = _judged(batch, changed, outcome, dialect)
            if not candidate.verdict.fails:
                best = replace(candidate, chose=True)
                break
        complete = complete and tried < TRIED
    if best.verdict.fails and (not complete or sum(kind is not Uniqueness.UNIQUE for kind in kinds) > 1):
        judgement.chose = True
        judgement.notes.append(
            "the loss shows no assignment and the batch admits more of them than were tried"
        )
        return
    judgement.stages |= {name: best.stages[name] for name in ("cls", "box", "dfl", "total", "gradients")}
    judgement.chose = best.chose


def _judged(batch: Batch, targets: list[Targets], outcome: Outcome, dialect: Dialect) -> Judgement:
    assert outcome.loss is not None
    judgement = Judgement()
    assignment = Assignment(
        labels=torch.stack([image.labels for image in targets]),
        boxes=torch.stack([image.boxes for image in targets]),
        scores=torch.stack([image.scores(batch.head.classes) for image in targets]),
        foreground=torch.stack([image.foreground for image in targets]),
        truth_index=torch.stack([image.truth_index for image in targets]),
    )
    judge_loss(judgement, batch, assignment, outcome.loss, dialect)
    return judgement


def _targets(
    batch: Batch, predictions: Predictions, truths: list[GroundTruths], image: int, positives: torch.Tensor
) -> Targets:
    """The targets of given positives (M, A) of one image."""
    here, boxes = truths[image], predictions.boxes[image] * predictions.anchors.strides
    overlap = overlaps_of(here.boxes, boxes, positives)
    score = predictions.logits[image].sigmoid().T[here.labels]
    metric = alignment_metric(score, overlap, batch.hyperparameters)
    return targets_of(here, positives, normalised(metric, overlap, positives))
