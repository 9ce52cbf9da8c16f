"""The judge: compares what an implementation returned for a batch with what a dialect prescribes."""

from functools import partial

from tal_conformance.core.branches import has_branches
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.judgement.assignment import judge_assignment
from tal_conformance.judgement.assignment_inferred import judge_inferred_assignment
from tal_conformance.judgement.branches import judge_branches
from tal_conformance.judgement.decode import classes_exist, judge_inputs
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.loss import judge_loss
from tal_conformance.judgement.mixed_precision import is_coarse

NOT_IN_16_BITS = "rotated boxes are not judged on predictions of 16 bits"


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
    defined = not bool(undefined.any())
    judgement.inconclusive = judgement.undefined = not defined
    if not defined:
        judgement.notes.append(
            f"overlaps are 0 / 0 in {int(undefined.sum())} of {len(undefined)} images (IOU-1)"
        )
    judgement.absent = list(outcome.absent)
    if outcome.assignment is not None:
        finite = judge_assignment(judgement, outcome, expected, undefined)
        if defined and outcome.loss is not None and outcome.from_loss and finite:
            judge_loss(judgement, outcome.assignment, outcome.loss, expected)
    if defined and outcome.loss is not None and not outcome.from_loss:
        if outcome.loss.gradients:
            judge_inferred_assignment(judgement, outcome, expected)
        else:
            judgement.leave_open("the loss exposes neither its assignment nor its gradients")
    if judgement.verdict.fails:
        raise Divergence(judgement)
    return judgement
