"""The judge: an outcome of a batch, held to a dialect."""

import torch

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.judgement.assignment import judge_assignment
from tal_conformance.judgement.assignment_inferred import judge_inferred_assignment
from tal_conformance.judgement.comparators import all_finite
from tal_conformance.judgement.decode import (
    classes_exist,
    exact_predictions,
    input_errors,
    judge_inputs,
)
from tal_conformance.judgement.loss import judge_loss
from tal_reference import Dialect, detection_loss, ground_truths


@torch.no_grad()
def assignment_is_defined(batch: Batch, dialect: Dialect) -> bool:
    """IOU-1: the target scores of a batch are numbers, in float64 and in its own dtype.

    They are not where a prediction of one bin is a box turned inside out, so small in pixels that its negative area
    takes from the union all that is in it: 0 / 0. What becomes of the assignment then depends on how NaN is sorted.
    """
    if batch.head.reg_max > 1 or not len(batch.annotations):
        return True
    numbers = batch.annotations, batch.head, batch.hyperparameters, dialect
    read = batch.feature_maps, [level.double() for level in batch.feature_maps]
    targets = [image for maps in read for image in detection_loss(maps, *numbers).targets]
    return all(all_finite(image.weights) for image in targets)


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
    judgement = Judgement(batch.family)
    exact = exact_predictions(batch)
    truths = ground_truths(batch.annotations.double(), batch.images, batch.size)
    counts = [len(image) for image in truths]
    if outcome.exposes_inputs:
        judge_inputs(judgement, batch, outcome, exact, truths)
        if judgement.verdict.fails and not classes_exist(outcome.inputs):
            raise Divergence(judgement)  # there is no score to go on with
    defined = assignment_is_defined(batch, dialect)
    judgement.inconclusive = not defined
    if defined and outcome.assignment is not None:
        unsure = outcome.from_loss and not outcome.exposes_inputs  # the loss decoded, and does not show what
        errors = input_errors(batch, exact, truths) if unsure else None
        finite = judge_assignment(judgement, outcome.assignment, outcome.inputs, counts, dialect, errors)
        if outcome.loss is not None and outcome.from_loss and finite:
            judge_loss(judgement, batch, outcome.assignment, outcome.loss, dialect, exact)
    if defined and outcome.loss is not None and not outcome.from_loss:
        judge_inferred_assignment(
            judgement, batch, outcome, dialect, exact, input_errors(batch, exact, truths)
        )
    if judgement.verdict.fails:
        raise Divergence(judgement)
    return judgement
