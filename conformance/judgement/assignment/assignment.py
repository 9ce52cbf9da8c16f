"""Judging an assignment, image by image.

An implementation that exposes its stages is judged stage by stage, given its own values of the previous stage
(`stages`). If an implementation exposes only the outputs of its assigner, the outputs are judged
(`outputs`): an admissible selection must lead to them, and every weight must follow from them. M ground
truths, A anchors, C classes.
"""

import torch
from torch import Tensor

from tal_conformance.core.outcome import STAGE_OF_FIELD, CheckedAssignment, Outcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement, least_unique
from tal_conformance.judgement.assignment.base import PAIR
from tal_conformance.judgement.assignment.outputs import OutputsJudge
from tal_conformance.judgement.assignment.stages import StagesJudge
from tal_conformance.judgement.comparators import Quantity, assert_finite, assert_none
from tal_conformance.judgement.expectation import Expectation


def judge_assignment(
    judgement: Judgement, outcome: Outcome, expected: Expectation, undefined: Tensor | None = None
) -> bool:
    """Judge the stages "candidates" to "normalisation" of every image, and record the results in `judgement`.

    Args:
        judgement: the judgement of the batch, to which the results are added.
        outcome: outcome of the implementation, with an assignment.
        expected: expectation of the batch.
        undefined: (B,) True for an image whose overlaps are undefined (IOU-1), which is not judged; None: every
            image is judged.

    Returns:
        True if all numbers of the assignment are finite, so that a loss can be computed from it.
    """
    assignment, inputs = outcome.assignment, expected.effective(outcome.inputs)
    assert assignment is not None
    if undefined is None:
        undefined = torch.zeros(expected.batch.images, dtype=torch.bool, device=expected.batch.device)
    if undefined.all() or not _assert_all_finite(judgement, assignment, undefined):
        return False
    hidden = outcome.from_loss and not outcome.exposes_inputs  # the loss decoded the batch itself
    judge = OutputsJudge if assignment.stages is None else StagesJudge
    judged = [image for image, nothing in enumerate(undefined.tolist()) if not nothing]
    errors = dict(enumerate(expected.input_errors)) if hidden else None
    oracles = expected.images([image for image in judged if expected.counts[image]], inputs, errors)
    for image in judged:
        truths = expected.counts[image]
        judge_padding(judgement, assignment, image, truths)
        if not truths:
            judge_background(judgement, assignment, image)
            continue
        known = oracles[image]
        judgement.uniqueness = least_unique(judgement.uniqueness, known.uniqueness)
        truth_error = None if errors is None else errors[image].truths
        judge(judgement, assignment, inputs, image, truths, known, truth_error, expected.dialect).judge()
    return True


def _assert_all_finite(judgement: Judgement, assignment: CheckedAssignment, undefined: Tensor) -> bool:
    """Record exposed values that are NaN or infinite as mismatches of their stages; return True if all are finite.

    Images of the mask `undefined` (B,) are left out.
    """
    stages = assignment.stages
    cell, pair = ("image", "anchor", "column"), ("image", *PAIR)
    boxes = assignment.boxes.where(assignment.foreground[..., None], 0)
    visible = [(StageName.TARGETS, Quantity("target box", "TAL-TGT-1", cell), boxes)]
    visible.append(
        (StageName.NORMALISATION, Quantity("target score w", "TAL-NORM-1", cell), assignment.scores)
    )
    if stages is not None:
        clause = judgement.task.clauses[StageName.OVERLAP]
        visible.append((StageName.OVERLAP, Quantity("overlap u", clause, pair), stages.overlap))
        visible.append((StageName.METRIC, Quantity("metric t", "TAL-MET-1", pair), stages.metric))
    before = {name for name, stage in judgement.stages.items() if stage.mismatch}
    for stage, quantity, values in visible:
        judgement.note(stage, assert_finite, quantity, values.where(~undefined[:, None, None], 0))
    return before == {name for name, stage in judgement.stages.items() if stage.mismatch}


def judge_padding(judgement: Judgement, assignment: CheckedAssignment, image: int, truths: int) -> None:
    """Judge an image's padding rows: they have no candidates, selected anchors or positives; u and t are 0 (ANN-4)."""
    stages = assignment.stages
    if stages is None or truths == stages.candidates.shape[1]:
        return
    for name, stage in STAGE_OF_FIELD.items():
        rows = getattr(stages, name)[image, truths:]
        quantity = Quantity(f"{name} of a padding row", "ANN-4", PAIR, image)
        judgement.note(stage, assert_none, quantity, rows != 0, rows, "0")


def judge_background(judgement: Judgement, assignment: CheckedAssignment, image: int) -> None:
    """Judge an image without ground truths: it must have no positives and no target scores (TAL-EMPTY-1, TAL-TGT-1)."""
    foreground, scores = assignment.foreground[image], assignment.scores[image]
    quantity = Quantity("foreground", "TAL-EMPTY-1", ("anchor",), image)
    problem = "an image without ground truths has a positive"
    judgement.note(StageName.TARGETS, assert_none, quantity, foreground, foreground, "False", problem)
    quantity = Quantity("target score", "TAL-EMPTY-1", ("anchor", "class"), image)
    problem = "an image without ground truths has a target score"
    judgement.note(StageName.NORMALISATION, assert_none, quantity, scores != 0, scores, "0", problem)
