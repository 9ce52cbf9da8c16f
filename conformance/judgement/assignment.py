"""Judging an assignment, image by image.

An implementation that shows its stages is judged on each stage's own ambiguity, every stage from the implementation's
own values of the stage before (`shown`). One that shows only its outputs is judged on those (`outputs`): some
admissible selection must lead to them, and every weight must follow from them. M ground truths, A anchors, C classes.
"""

from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.core.verdicts import Judgement, least_unique
from tal_conformance.judgement.assignment_base import PAIR
from tal_conformance.judgement.assignment_outputs import OutputsJudge
from tal_conformance.judgement.assignment_stages import StagesJudge
from tal_conformance.judgement.comparators import assert_none, finite
from tal_conformance.judgement.oracle import InputErrors, oracle
from tal_reference import Dialect


def judge_assignment(
    judgement: Judgement,
    assignment: Assignment,
    inputs: AssignerInputs,
    counts: list[int],
    dialect: Dialect,
    errors: list[InputErrors] | None = None,
) -> bool:
    """Judge the stages "candidates" to "normalisation" of every image, into `judgement`.

    Args:
        judgement: takes the result.
        assignment: what the assigner returned.
        inputs: what it read.
        counts: ground truths of each image, without padding.
        dialect: what it is held to.
        errors: uncertainty of the inputs, an image each; None if they are the implementation's own.

    Returns:
        Whether all of its numbers are finite, so that a loss can be computed from it.
    """
    if not _all_finite(judgement, assignment):
        return False
    for image, truths in enumerate(counts):
        judge_padding(judgement, assignment, image, truths)
        if not truths:
            judge_background(judgement, assignment, image)
            continue
        expected = oracle(inputs, image, truths, dialect, errors[image] if errors else None)
        judgement.uniqueness = least_unique(judgement.uniqueness, expected.uniqueness)
        truth_error = errors[image].truths if errors else None
        judge = OutputsJudge if assignment.stages is None else StagesJudge
        judge(judgement, assignment, inputs, image, truths, expected, truth_error).judge()
    return True


def _all_finite(judgement: Judgement, assignment: Assignment) -> bool:
    """Note every shown number that is none (NaN, infinity) at its stage, before anything is computed from it."""
    stages = assignment.stages
    shown = [
        ("targets", "target box", "TAL-TGT-1", assignment.boxes.where(assignment.foreground[..., None], 0))
    ]
    shown.append(("normalisation", "target score w", "TAL-NORM-1", assignment.scores))
    if stages is not None:
        shown.append(("overlap", "overlap u", "TAL-MET-1", stages.overlap))
        shown.append(("metric", "metric t", "TAL-MET-1", stages.metric))
    before = {name for name, stage in judgement.stages.items() if stage.mismatch}
    for stage, quantity, clause, value in shown:
        names = ("image", "anchor", "column") if stage in ("targets", "normalisation") else ("image", *PAIR)
        judgement.note(stage, finite, quantity, clause, value, names)
    return before == {name for name, stage in judgement.stages.items() if stage.mismatch}


def judge_padding(judgement: Judgement, assignment: Assignment, image: int, truths: int) -> None:
    """ANN-4: no padding row is a candidate, selected or owner; no number of it is anything but zero."""
    stages = assignment.stages
    if stages is None or truths == stages.candidates.shape[1]:
        return
    for stage, name in (
        ("candidates", "candidates"),
        ("overlap", "overlap"),
        ("metric", "metric"),
        ("top-k", "selected"),
        ("conflict", "positives"),
    ):
        rows = getattr(stages, name)[image, truths:]
        judgement.note(
            stage, assert_none, f"{name} of a padding row", "ANN-4", rows != 0, rows, "0", PAIR, image
        )


def judge_background(judgement: Judgement, assignment: Assignment, image: int) -> None:
    """TAL-EMPTY-1 and TAL-TGT-1 for an image without ground truths: all background, all target scores zero."""
    foreground, scores = assignment.foreground[image], assignment.scores[image]
    judgement.note(
        "targets", assert_none, "foreground", "TAL-EMPTY-1", foreground, foreground, "False", ("anchor",), image,
        "an image without ground truths has a positive",
    )  # fmt: skip
    names = ("anchor", "class")
    judgement.note(
        "normalisation", assert_none, "target score", "TAL-EMPTY-1", scores != 0, scores, "0", names, image,
        "an image without ground truths has a target score",
    )  # fmt: skip
