"""Checks that an implementation raises on a batch that its dialect does not support."""

from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import RejectionRule


def check_rejects(subject: Subject, batch: Batch, rule: RejectionRule, alone: bool = False) -> Judgement:
    """Check that an implementation raises on a batch.

    Args:
        subject: the implementation, and the device that the batch is on.
        batch: a batch that it must reject.
        rule: stage, clause and reason.
        alone: check its assigner alone, even if it has a loss.

    Raises:
        Failure: it returned a result.
    """
    try:
        execute(subject.implementation, batch, alone=alone)
    except ImplementationFailed as error:
        if error.details is not None:  # it raised itself: a result that the protocol forbids has no details
            return Judgement()
    who = "its assigner " if alone and "loss" in subject.implementation.capabilities else ""
    summary = f"{who}returned a result where it must raise an error, because {rule.reason}"
    raise Failure(subject, batch, Verdict.DIVERGENT, rule.stage, rule.clause, summary)


def check_all_reject(subject: Subject, batch: Batch, stage: str, clause: str, reason: str) -> Judgement:
    """Check that an implementation raises on a batch: its loss and, if it has one separately, its assigner.

    Raises:
        Failure: one of them returned a result.
    """
    batch, rule = batch.to(subject.device), RejectionRule(stage, clause, reason)
    for number, _ in enumerate(subject.implementation.variants):
        check_rejects(subject, batch, rule, alone=number > 0)
    return Judgement()
