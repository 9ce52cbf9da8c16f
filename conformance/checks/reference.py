"""The main check: run an implementation on a batch and judge its outcome against its dialect."""

from collections.abc import Callable

from tal_conformance.checks.rejection import check_rejects
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Subject, failure_from, formal_failure
from tal_conformance.judgement.non_finite import judge_any

Judge = Callable[[Outcome, Expectation], Judgement]
"""Judges an outcome; raises `Divergence` if it fails."""


def judge_against_reference(
    subject: Subject, batch: Batch, each_term: bool = False, alone: bool = False, judge: Judge = judge_any
) -> Judgement:
    """Judge an implementation on a batch against its dialect.

    Args:
        subject: the implementation, and the device to run it on.
        batch: any batch; it is moved to the device.
        each_term: in addition, judge the separate gradients of box, cls and dfl if `Loss.total` has three elements.
        alone: judge only the assigner, even if the implementation has a loss.
        judge: function that judges the outcome.

    Returns:
        The judgement. It is not a failure.

    Raises:
        Failure: the implementation diverged from its dialect, raised, or violated the protocol; also if its values
            conform once a formal mistake is converted.
        NotSupported: the implementation raised on the batch, which its adapter declares not to support.
    """
    batch = batch.to(subject.batch_device)
    expected = Expectation(batch, subject.implementation.dialect)
    if expected.rejection is not None:
        return check_rejects(subject, batch, expected.rejection, alone)
    judgement, outcome = judged_outcome(subject, expected, each_term, alone, judge)
    if outcome.formal:
        failure = formal_failure(subject, batch, outcome.formal[0], outcome)
        failure.formal, failure.judgement = outcome.formal, judgement
        raise failure
    return judgement


def judged_outcome(
    subject: Subject,
    expected: Expectation,
    each_term: bool = False,
    alone: bool = False,
    judge: Judge = judge_any,
) -> tuple[Judgement, Outcome]:
    """Run the implementation on a valid batch, and return its outcome and judgement, which is not a failure.

    Args:
        subject: the implementation, and the device that the batch is on.
        expected: everything that the dialect prescribes for the batch, including the batch itself.
        each_term: as in `judge_against_reference`.
        alone: as in `judge_against_reference`.
        judge: function that judges the outcome.

    Raises:
        Failure: as `judge_against_reference`, except for formal mistakes, which the outcome lists.
    """
    batch, outcome = expected.batch, None
    try:
        outcome = execute(subject.implementation, batch, each_term, alone, expected.inputs)
        return judge(outcome, expected), outcome
    except (Divergence, ImplementationFailed) as error:
        failure = failure_from(subject, batch, error)
        failure.outcome, failure.pictured = outcome, True
        failure.assignment = outcome.assignment if outcome else None
        raise failure from error
