"""CALL: in every way of calling that trainers use, the results for a batch equal those of an ordinary call."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from tal_conformance.checks.calling.answers import Difference, Plain, difference, plain_call
from tal_conformance.checks.calling.ranks import reduced
from tal_conformance.checks.rejection import check_rejects
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.calling.call import Answer, Call, call_of
from tal_conformance.implementations.calling.ways import WAYS
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute_calls
from tal_conformance.implementations.guards.side_effects import Identity
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import in_new_process
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject

MOST_REMEMBERED = 16
"""Number of plain calls of an implementation that are remembered: every way is tried on the same batches."""
TWO_PROCESSES = "two-processes"


class CallingFailure(Failure):
    """Error: the results of an implementation depend on the way of calling."""


def companion(batch: Batch) -> Batch:
    """Return a batch with the shapes and ground truths of `batch`, but logits of opposite sign."""
    return replace(
        batch, feature_maps=tuple(-level for level in batch.feature_maps), origin="", hazards=frozenset()
    )


def applies(implementation: Implementation, way: str) -> bool:
    """Return True if the implementation supports the way of calling."""
    return "loss" in implementation.capabilities or WAYS[way].assign is not None


def called(subject: Subject, batch: Batch, way: str) -> Judgement:
    """Call an implementation in the given way, and compare all results with those of plain (ordinary) calls.

    Args:
        subject: the implementation, and the device to run it on.
        batch: any batch; it is moved to the device.
        way: a key of `WAYS`.

    Returns:
        The judgement of the plain call, which is not a failure.

    Raises:
        Failure: a plain call does not conform.
        CallingFailure: a result differs from that of a plain call.
    """
    batch = batch.to(subject.batch_device)
    expected = Expectation(batch, subject.implementation.dialect)
    if expected.rejection is not None:
        return check_rejects(subject, batch, expected.rejection)
    plains = {0: _remembered(subject, batch, lambda: plain_call(subject, expected))}
    other = companion(batch)
    alone = "loss" not in subject.implementation.capabilities
    expectations = expected, Expectation(other, subject.implementation.dialect)
    calls = [call_of(each.batch, each.inputs if alone else None) for each in expectations]
    try:
        answers = _answers(subject.implementation, way, calls)
    except ImplementationFailed as error:
        raise _failure(subject, batch, way, f"in the way {way!r}", _error(error)) from error
    if any(answer.call == 1 for answer in answers):
        plains[1] = _remembered(subject, other, lambda: plain_call(subject, expectations[1]))
    judge = reduced if way == TWO_PROCESSES and subject.implementation.reduces_over_ranks else None
    for answer in answers:
        if judge is not None:
            found = judge(subject, answer, plains)
        else:
            found = difference(subject, answer, plains[answer.call], WAYS[way].keeps_bits())
        if found is not None:
            raise _failure(subject, plains[answer.call].batch, way, answer.how, found)
    return plains[0].judgement


def _answers(implementation: Implementation, way: str, calls: Sequence[Call]) -> list[Answer]:
    """Return the results of calling an implementation in one way.

    For calls in two processes, this process is forked, which is fast. If the forks fail, for whatever reason, a new
    process is started and forked, in which the implementation was not called yet: torch refuses to differentiate in
    the fork of a process that has autograd threads, as a process with CUDA devices has.

    Raises:
        ImplementationFailed: as `execute_calls`.
    """
    answers = execute_calls(implementation, way, calls)
    if way != TWO_PROCESSES or all(answer.failure is None for answer in answers):
        return answers
    other = in_new_process(implementation)
    if other is None:
        return answers
    try:
        return execute_calls(other, way, calls)
    finally:
        other.adapter.worker.close()


def _error(error: ImplementationFailed) -> Difference:
    return Difference(Verdict.ERROR, error.what, details=error.details)


def _failure(subject: Subject, batch: Batch, way: str, how: str, found: Difference) -> CallingFailure:
    expected = f"; an ordinary call on the same batch conforms. Way of calling: {way!r}"
    return CallingFailure(
        subject,
        batch,
        found.verdict,
        StageName.CALLING,
        WAYS[way].clause,
        f"called {how}, it {found.predicate}{expected}",
        list(found.values),
        details=found.details,
    )


_PLAIN: "WeakKeyDictionary[Identity, dict[tuple[str, str], Plain]]" = WeakKeyDictionary()


def _remembered(subject: Subject, batch: Batch, make: Callable[[], Plain]) -> Plain:
    """Return the plain (ordinary) call on a batch: `make()`, or the cached result of an earlier `make()`."""
    known = _PLAIN.setdefault(subject.implementation.identity, {})
    key = f"{subject.device} {subject.implementation.dialect.name}", batch.id
    if key not in known:
        while len(known) >= MOST_REMEMBERED:
            known.pop(next(iter(known)))
        known[key] = make()
    return known[key]
