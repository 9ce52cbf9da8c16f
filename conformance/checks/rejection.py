"""Checks that an implementation raises on a batch that its dialect does not support.

The exception must be a refusal, such as a ValueError, and not the accident of a bug, such as an AttributeError.
"""

from collections.abc import Collection
from dataclasses import replace

from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.errors import ImplementationFailed, NotSupported
from tal_conformance.implementations.execute import execute
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import RejectionRule, rejection_for

NEVER_A_REFUSAL = {
    "AttributeError", "NameError", "ImportError", "SyntaxError", "RecursionError", "MemoryError", "OutOfMemoryError",
    "SystemError", "ReferenceError", "OSError", "EOFError", "StopIteration", "StopAsyncIteration", "Warning",
}  # fmt: skip
"""Classes whose exceptions come from a mistake in the code or from the machine, with all their subclasses.

So `UnboundLocalError` and `ModuleNotFoundError` are not refusals either.
"""
ALWAYS_A_REFUSAL = {"RuntimeError", "ValueError", "AssertionError", "NotImplementedError"}
"""Classes by which code says that it does not accept an input; `torch.topk` raises RuntimeError for k > A."""


def is_refusal(types: Collection[str]) -> bool | None:
    """Return True if an exception deliberately refuses the input, False if not, and None if its class can mean both.

    An exception that does not derive from `Exception` (`SystemExit`, `KeyboardInterrupt`) is never a refusal.

    Args:
        types: names of the exception's class and of its base classes.
    """
    if not NEVER_A_REFUSAL.isdisjoint(types) or "Exception" not in types:
        return False
    return None if ALWAYS_A_REFUSAL.isdisjoint(types) else True


def check_rejects(subject: Subject, batch: Batch, rule: RejectionRule, alone: bool = False) -> Judgement:
    """Check that an implementation raises on a batch, and that the exception is a refusal of the batch.

    An `IndexError`, a `TypeError` or an `ArithmeticError` may be a refusal or a mistake. It counts as a refusal if the
    implementation does not raise an exception of the same class on the same batch with acceptable hyperparameters.

    Args:
        subject: the implementation, and the device that the batch is on.
        batch: a batch that the implementation must reject.
        rule: stage, clause and reason of the rejection.
        alone: check the assigner alone, even if the implementation has a loss.

    Raises:
        Failure: the implementation returned a result (DIVERGENT), or its exception is not a refusal (ERROR).
        NotSupported: the implementation raised, and its adapter declares not to support the batch.
    """
    who = "its assigner " if alone and "loss" in subject.implementation.capabilities else ""
    try:
        execute(subject.implementation, batch, alone=alone)
    except ImplementationFailed as error:
        if error.details is not None:  # the implementation raised; protocol violations have no details
            if not _refuses(subject, batch, error, alone):
                summary = (
                    f"{who}{error.what}: expected an error that rejects the batch, because {rule.reason}"
                )
                raise Failure(
                    subject, batch, Verdict.ERROR, rule.stage, rule.clause, summary, details=error.details
                ) from error
            return Judgement(rejected=True, notes=[f"raises, as {rule.clause} requires: {error.what}"])
    summary = f"{who}returned a result where it must raise an error, because {rule.reason}"
    raise Failure(subject, batch, Verdict.DIVERGENT, rule.stage, rule.clause, summary)


def _refuses(subject: Subject, batch: Batch, error: ImplementationFailed, alone: bool) -> bool:
    """Return True if the exception `error`, which was raised on the batch, is a refusal of the batch."""
    verdict = is_refusal(error.types)
    return not _raises_without_reason(subject, batch, error.types[0], alone) if verdict is None else verdict


def _raises_without_reason(subject: Subject, batch: Batch, kind: str, alone: bool) -> bool:
    """Return True if the implementation raises class `kind` even with hyperparameters that it must accept."""
    numbers = batch.hyperparameters
    topk2 = None if numbers.effective_topk2 is None else min(numbers.effective_topk2, batch.anchors)
    for choice in dict.fromkeys((topk2, None)):
        accepted = replace(
            batch, hyperparameters=replace(numbers, topk=min(numbers.topk, batch.anchors), topk2=choice)
        )
        if rejection_for(accepted, subject.implementation.dialect) is None:
            break
    else:
        return False  # the implementation may raise because of the head
    try:
        execute(subject.implementation, accepted, alone=alone)
    except ImplementationFailed as error:
        return kind in error.types
    except NotSupported:
        return False  # the hyperparameters that the implementation supports are unknown
    return False


def check_all_reject(subject: Subject, batch: Batch, stage: str, clause: str, reason: str) -> Judgement:
    """Check that the loss of an implementation, and its assigner if it has a separate one, raise on a batch.

    Raises:
        Failure: the loss or the assigner did not reject the batch.
    """
    batch, rule = batch.to(subject.batch_device), RejectionRule(stage, clause, reason)
    judgement = Judgement(rejected=True)
    for number, _ in enumerate(subject.implementation.variants):
        judgement.notes += check_rejects(subject, batch, rule, alone=number > 0).notes
    return judgement
