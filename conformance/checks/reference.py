"""Run one implementation on one batch and hold it to its dialect; record what came of it."""

from collections.abc import Callable

from tal_conformance.checks.rejection import refused
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Diverges, Judgement
from tal_conformance.implementations.execute import ImplementationFailed, observe
from tal_conformance.judgement.failure import Subject, failure_of
from tal_conformance.judgement.non_finite import is_finite, judge_any
from tal_conformance.judgement.rejection import refusal
from tal_conformance.pictures.picture import picture
from tal_reference import Dialect

Judge = Callable[[Batch, Outcome, Dialect], Judgement]
"""Judges an outcome, or raises `Diverges`."""


def conform(
    subject: Subject, batch: Batch, each_term: bool = False, alone: bool = False, judge: Judge = judge_any
) -> Judgement:
    """Judge an implementation on a batch.

    Args:
        subject: the implementation, and the device to run it on.
        batch: any batch; it is moved to the device.
        each_term: judge the gradients of box, cls and dfl one by one as well, where its total is of three.
        alone: judge its assigner alone, whether it has a loss or not.
        judge: what judges the outcome.

    Returns:
        A judgement that does not fail.

    Raises:
        Failure: it diverges from its dialect, raised, or broke the protocol.
    """
    batch = batch.to(subject.device)
    dialect = subject.implementation.dialect
    reason = refusal(batch, dialect)
    if reason is not None:
        return refused(subject, batch, *reason, alone=alone)
    outcome = None
    try:
        outcome = observe(subject.implementation, batch, each_term, alone)
        return judge(batch, outcome, dialect)
    except (Diverges, ImplementationFailed) as error:
        judgement = error.judgement if isinstance(error, Diverges) else None
        assignment = outcome.assignment if outcome else None
        drawn = picture(batch, dialect, assignment, judgement) if is_finite(batch) else None
        failure = failure_of(subject, batch, error, drawn)
        failure.outcome = outcome
        raise failure from error
