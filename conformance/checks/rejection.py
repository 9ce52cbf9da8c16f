"""TODO tal_conformance.checks.rejection."""

from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.judgement.failure import Failure, Subject


def check_rejects(
    subject: Subject, batch: Batch, stage: str, clause: str, reason: str, alone: bool = False
) -> Judgement:
    """Judge an implementation on a batch that is an error: it must raise.

    Args:
        subject: the implementation, and the device that the batch is on.
        batch: what it must refuse.
        stage: where the error is.
        clause: that says so.
        reason: why, in words that go on "it returned, where ..".
        alone: its assigner alone, whether it has a loss or not.

    Raises:
        Failure: it returned.
    """
    try:
        execute(subject.implementation, batch, alone=alone)
    except ImplementationFailed as error:
        if error.details is not None:  # it raised itself; what it returned was not merely refused
            return Judgement()
    who = "its assigner" if alone and "loss" in subject.implementation.capabilities else "it"
    said = f"{who} returned, where {reason}: it must raise"
    raise Failure(subject, batch, Verdict.DIVERGENT, stage, clause, said)


def check_all_reject(subject: Subject, batch: Batch, stage: str, clause: str, reason: str) -> Judgement:
    """The same for its loss and, where it has one on its own, for its assigner.

    Raises:
        Failure: one of them returned.
    """
    batch = batch.to(subject.device)
    for number, _ in enumerate(subject.implementation.variants):
        check_rejects(subject, batch, stage, clause, reason, alone=number > 0)
    return Judgement()
