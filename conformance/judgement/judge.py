"""The judge: compares what an implementation returned for a batch with what a dialect prescribes."""

from functools import partial

from torch import Tensor

from tal_conformance.core.branches import has_branches
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.judgement.assignment.assignment import judge_assignment
from tal_conformance.judgement.branches import judge_branches
from tal_conformance.judgement.decode import classes_exist, judge_inputs
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.hidden.inferred import judge_inferred_assignment
from tal_conformance.judgement.loss.loss import judge_loss
from tal_conformance.judgement.rounding.mixed_precision import is_coarse

NOT_IN_16_BITS = "rotated boxes are not judged on predictions of 16 bits"
LOSS_NOT_IN_16_BITS = (
    "the losses of keypoints and masks are not judged on predictions of 16 bits, only the assignment"
)


def judge(outcome: Outcome, expected: Expectation) -> Judgement:
    """Judge the outcome of an implementation on a batch with finite predictions.

    Args:
        outcome: assignment and loss of the implementation.
        expected: expectation of the same batch, on the same device.

    Returns:
        A judgement whose verdict does not fail.

    Raises:
        Divergence: a stage differs; the exception has the judgement.
    """
    judge_batch = (
        partial(judge_branches, judge_one=_judge_alone) if has_branches(expected.batch) else _judge_alone
    )
    return judge_batch(outcome, expected)


def _judge_alone(outcome: Outcome, expected: Expectation) -> Judgement:
    """Judge an outcome as `judge` does, of a batch for a head without branches."""
    judgement = Judgement(expected.batch.family)
    if expected.batch.turned and is_coarse(expected.batch.dtype):  # enclosures of 16 bits know CIoU alone
        judgement.inconclusive = judgement.undefined = True
        judgement.notes.append(NOT_IN_16_BITS)
        return judgement
    expected = expected.settled
    if outcome.exposes_inputs:
        judge_inputs(judgement, outcome, expected)
        if judgement.verdict.fails and not classes_exist(outcome.inputs):
            # a label without a class has no score, so that nothing else can be judged
            raise Divergence(judgement)
    undefined = expected.undefined_images(outcome.inputs)  # (B,)
    judgement.inconclusive = judgement.undefined = bool(undefined.any())
    if judgement.undefined:
        judgement.notes.append(
            f"overlaps are 0 / 0 in {int(undefined.sum())} of {len(undefined)} images (IOU-1)"
        )
    judgement.absent = list(outcome.absent)
    _judge_parts(judgement, outcome, expected, undefined)
    if judgement.verdict.fails:
        raise Divergence(judgement)
    return judgement


def _judge_parts(judgement: Judgement, outcome: Outcome, expected: Expectation, undefined: Tensor) -> None:
    """Judge the assignment and the loss, except where `undefined` (B,) is True for an image."""
    defined = not bool(undefined.any())
    # enclosures of 16 bits know the terms of detection alone
    loss_known = not (expected.batch.family.counts_in_full and is_coarse(expected.batch.dtype))
    if outcome.loss is not None and not loss_known:
        judgement.leave_open(LOSS_NOT_IN_16_BITS)
    defined = defined and outcome.loss is not None and loss_known
    if outcome.assignment is not None:
        finite = judge_assignment(judgement, outcome, expected, undefined)
        if defined and outcome.loss is not None and outcome.from_loss and finite:
            judge_loss(judgement, outcome.assignment, outcome.loss, expected)
    if defined and outcome.loss is not None and not outcome.from_loss:
        if outcome.loss.gradients:
            judge_inferred_assignment(judgement, outcome, expected)
        else:
            judgement.leave_open("the loss exposes neither its assignment nor its gradients")
