"""The interface between a check and its caller: the pytest session, mutation testing, or a script.

A check hands every batch to a `BatchChecker`. In a pytest session the checker judges the batch and passes a
`JudgedBatch` to a `Sink` that writes the run log; other callers use another sink.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Never, Protocol

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.judgement.failure import Failure, Subject

Judging = Callable[[Subject, Batch], Judgement]
"""Function that judges an implementation on a batch, and raises `Failure` if the implementation does not conform."""


@dataclass(frozen=True)
class JudgedBatch:
    """The result of judging one batch, as the run log stores it.

    Attributes:
        subject: the implementation and the device.
        test: name of the test function.
        clause_group: the group of clauses that the test covers, such as `TAL-TOPK`.
        batch: the batch.
        verdict: the verdict on the batch.
        judgement: the result by stage; None if there was nothing to judge.
        phase: `generate`, or `shrink` while Hypothesis shrinks a failing batch.
        milliseconds: time of the judging, including the implementation's calls.
        failure: the failure, if any.
        known_issues: ids of the ledger's entries whose condition the batch fulfils.
        excused_by: id of the entry that excuses the failure.
        call_milliseconds: time of the implementation's call; None if it was called more than once.
        drawing_milliseconds: time of drawing and building the batch; None if the implementation was called more than
            once.
        parameter: value of the test's own parameter, such as a way of calling; "" if it has none.
    """

    subject: Subject
    test: str
    clause_group: str
    batch: Batch
    verdict: Verdict
    judgement: Judgement | None
    phase: str
    milliseconds: float
    failure: Failure | None = None
    known_issues: tuple[str, ...] = ()
    excused_by: str | None = None
    call_milliseconds: float | None = None
    drawing_milliseconds: float | None = None
    parameter: str = ""


class Sink(Protocol):
    """Receiver of the results of a checker, such as the run log."""

    def batch(self, judged: JudgedBatch) -> None:
        """Receive the result of one batch."""

    def line(self, kind: str, **fields: Any) -> None:
        """Receive a line of the run log that does not describe a batch; `kind` is the line's type."""


class NoSink:
    """Sink that discards all results."""

    def batch(self, judged: JudgedBatch) -> None:
        """Discard one judged batch."""

    def line(self, kind: str, **fields: Any) -> None:
        """Discard a line of the run log."""


class BatchChecker(Protocol):
    """Callable that judges one implementation on the batches of a check.

    Attributes:
        subject: the implementation, and the device to run it on.
        sink: receives the results.
        test: name of the test function.
        clause_group: the group of clauses that the test covers, such as `TAL-TOPK`.
        excused: number of batches whose failure is a known issue.
    """

    subject: Subject
    sink: Sink
    test: str
    clause_group: str
    excused: int

    def __call__(self, batch: Recipe | Batch, by: Judging = ..., relates: bool = False) -> Judgement:
        """Judge the implementation on a batch, by default against the reference in its dialect.

        Args:
            batch: the batch, or the recipe to build it from.
            by: function that judges the implementation on the batch.
            relates: True if `by` compares two runs of the implementation, on other batches or devices. If the dialect
                does not allow such a comparison, the batch is judged against the reference instead.

        Raises:
            Failure: the implementation does not conform.
        """

    def must_reject(self, batch: Batch, stage: str, clause: str, reason: str) -> None:
        """Judge an implementation on a batch that is invalid according to `clause`, so that it must raise.

        Raises:
            Failure: the implementation returned a result.
        """

    def not_tested(self, reason: str) -> Never:
        """Skip the test, and write the reason why the implementation was not tested to the run log."""
