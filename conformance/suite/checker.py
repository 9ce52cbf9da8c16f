"""The checker that tests receive as a fixture: it judges every generated batch of the test, and logs the result."""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Never

import pytest
from hypothesis import reject

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.checker import BatchChecker, JudgedBatch, Judging, Sink
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.rejection import check_all_reject
from tal_conformance.checks.relations.relations import NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.errors import ImplementationFailed, NotSupported
from tal_conformance.implementations.execute import calls
from tal_conformance.judgement.failure import Failure, Subject, failure_from, formal_failure
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.judgement.rounding.mixed_precision import is_coarse
from tal_conformance.known_issues.ledger import KnownIssue
from tal_conformance.suite.shrinking import TestShrinking

NUMBER = re.compile(r"\d+")
MAX_INCONCLUSIVE_SHARE = 0.25
"""Largest share of a test's batches that may be inconclusive because the implementation hides its assignment.

Measured with a loss that hides its assignment and chooses otherwise among equal values: 6 of the 425 batches of all
checks, of which half have ties by design, were inconclusive, and at most 3 of 40 batches of a single check.
"""
ENOUGH_BATCHES = 50
"""Number of batches from which the share is checked. If 3 of 40 are expected, 50 batches exceed it in fewer
than one of 10,000 runs."""


def in_half(batch: Batch) -> bool:
    """Return True for feature maps of 16 bits without autocast."""
    return is_coarse(batch.dtype) and not batch.autocast


class CallTiming(NamedTuple):
    """Times that are stored when the judging of a batch begins.

    Attributes:
        at: reading of the clock, in seconds.
        called: total seconds that calls of implementations have taken so far.
        drawing: seconds since the previous batch was judged, spent on logging it and on generating this batch.
        plain: True if the implementation is called only once, on this batch.
    """

    at: float
    called: float
    drawing: float
    plain: bool


@dataclass
class Checker(BatchChecker):
    """A checker that judges every batch and passes the result to a sink.

    Attributes:
        subject: the implementation, and the device to run it on.
        sink: receives every judged batch; in a session it is the writer of the run log.
        test: name of the test function.
        clause_group: the group of clauses that the test covers, such as `TAL-TOPK`.
        parameter: value of the test's own parameter, such as a way of calling; "" if it has none.
        known_issues: unexpired entries of the ledger that concern the subject.
        shrinking: decides which failing batches are shrunk; None to shrink all of them.
        announce: receives the first failure of the test, before the failing batch is shrunk; None for nothing.
        after_batch: called after every judged batch; None for nothing.
        failed: True once a batch failed: all later batches are Hypothesis' attempts to shrink it.
        excused: number of batches whose failure is a known issue.
        judged: number of supported batches that were judged before the first batch failed.
        inconclusive: number of judged batches with verdict INCONCLUSIVE only because of the implementation.
        reasons: number of these inconclusive batches by the reason, if the judge gave a reason.
        since: reading of the clock when the previous batch was judged, in seconds.
        last: the batch that was judged last; None before the first batch.
        formal: a failure for each formal mistake (such as a wrong dtype or shape of a result), by the text of the
            mistake with numbers replaced by `#`.
        absent: names of the results that the implementation does not have.
    """

    subject: Subject
    sink: Sink
    test: str
    clause_group: str
    parameter: str = ""
    known_issues: tuple[KnownIssue, ...] = ()
    shrinking: TestShrinking | None = None
    announce: Callable[[Failure], None] | None = None
    after_batch: Callable[[], None] | None = None
    failed: bool = field(default=False)
    excused: int = field(default=0)
    judged: int = field(default=0)
    inconclusive: int = field(default=0)
    reasons: Counter[str] = field(default_factory=Counter)
    since: float = field(default_factory=time.perf_counter)
    last: Batch | None = field(default=None)
    formal: dict[str, Failure] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)

    def __call__(
        self, batch: Recipe | Batch, by: Judging = judge_against_reference, relates: bool = False
    ) -> Judgement:
        """Judge a batch and pass the result to the sink.

        Args:
            batch: the batch, or the recipe to build it from.
            by: function that judges the batch: against the reference, or by a relation of specification section 7.
            relates: True if `by` compares the implementation with itself on another batch or device. If the dialect
                does not allow this comparison, the batch is judged against the reference instead.

        Raises:
            Failure: the implementation does not conform, and no known issue excuses it.
            Exception: the judge itself failed; the batch counts as an error, never as judged.
        """
        key = batch if isinstance(batch, Recipe) else batch.id
        if self.shrinking is not None and self.shrinking.refuses(key):
            reject()
        if isinstance(batch, Recipe):
            batch = batch.build()
        if relates and not supports_relations(batch, self.subject.implementation.dialect):
            by = judge_against_reference
        began = self._begin(plain=by is judge_against_reference)
        try:
            judgement = by(self.subject, batch)
        except Failure as failure:
            settled = self._settled(batch, failure, began)
            if settled is not None:
                return settled
            self._pass_on(batch, failure.verdict, failure.judgement, began, failure)
            self._fail(failure)
            if self.shrinking is not None and not self.shrinking.add(key, failure):
                reject()
            raise
        except (NotApplicable, NotObservable):
            raise
        except NotSupported as unsupported:
            judgement = Judgement(batch.family, unsupported=unsupported.reason)
        except Exception:
            self._pass_on(batch, Verdict.ERROR, None, began)
            raise
        self.absent.update(judgement.absent)
        self._pass_on(batch, judgement.verdict, judgement, began)
        return judgement

    def must_reject(self, batch: Batch, stage: str, clause: str, reason: str) -> None:
        """Judge a batch that `clause` declares an error: the implementation must raise, not return a result.

        Raises:
            Failure: the implementation returned a result, or raised an exception that does not count as a
                refusal, and no known issue excuses it.
        """
        if self.shrinking is not None and self.shrinking.refuses(batch.id):
            reject()
        began = self._begin(plain=False)
        try:
            judgement = check_all_reject(self.subject, batch, stage, clause, reason)
        except Failure as failure:
            if self._settled(batch, failure, began) is not None:
                return
            # With fewer anchors than k there is no assignment to draw.
            failure.pictured = not stage.endswith(StageName.TOP_K)
            self._pass_on(batch, failure.verdict, None, began, failure)
            self._fail(failure)
            if self.shrinking is not None:
                self.shrinking.add(batch.id, failure)
            raise
        except NotSupported as unsupported:
            judgement = Judgement(batch.family, unsupported=unsupported.reason)
        self._pass_on(batch, judgement.verdict, judgement if judgement.unsupported else None, began)

    def _fail(self, failure: Failure) -> None:
        if not self.failed and self.announce is not None:
            self.announce(failure)
        self.failed = True

    def _note_formal(self, failure: Failure) -> None:
        """Store the smallest failure for each formal mistake (such as a wrong dtype), to be reported after the test.

        A mistake that first occurs while Hypothesis shrinks another failure is ignored: both may have the same cause.
        """
        outcome = failure.outcome
        mistakes = failure.formal or (() if outcome is None else outcome.formal)
        for mistake in mistakes:
            key = NUMBER.sub("#", mistake)
            known = self.formal.get(key)
            if known is None and self.failed:
                continue
            if known is None or _size(failure.batch) < _size(known.batch):
                alone = failure.formal == (mistake,)
                self.formal[key] = (
                    failure if alone else formal_failure(failure.subject, failure.batch, mistake, outcome)
                )

    def _settled(self, batch: Batch, failure: Failure, began: CallTiming) -> Judgement | None:
        """Log and return the judgement of a batch whose failure is a known issue or only a formal mistake.

        Return None if the failure must be raised.
        """
        self._note_formal(failure)
        if self._excuse(batch, failure, began):
            return failure.judgement or Judgement()
        return self._judged_behind(batch, failure, began) if failure.formal else None

    def _judged_behind(self, batch: Batch, failure: Failure, began: CallTiming) -> Judgement:
        """Log the verdict on the values of a result with a formal mistake (such as a wrong dtype), or the failure."""
        judgement = failure.judgement
        if judgement is not None:
            self.absent.update(judgement.absent)
            self._pass_on(batch, judgement.verdict, judgement, began)
            return judgement
        self._pass_on(batch, failure.verdict, None, began, failure)
        return Judgement(batch.family, inconclusive=True)

    def blame(self, what: str) -> Failure | None:
        """Return and count a failure for a side effect of the implementation during the test.

        Args:
            what: the side effect, as a sentence without its subject, such as "changed global torch state".

        Returns:
            A failure on the batch that was judged last; None if no batch was judged.
        """
        if self.last is None:
            return None
        failure = failure_from(self.subject, self.last, ImplementationFailed(what))
        self._pass_on(self.last, failure.verdict, None, self._begin(plain=False), failure)
        return failure

    @property
    def too_inconclusive(self) -> str | None:
        """Message of the failure if too large a share of the batches is inconclusive; None otherwise."""
        ceiling = MAX_INCONCLUSIVE_SHARE * self.judged
        if self.judged < ENOUGH_BATCHES or self.inconclusive <= ceiling:
            return None
        because = "".join(f" ({count} because {reason})" for reason, count in self.reasons.most_common(1))
        return (
            f"{self.subject.id} in {self.test}: {self.inconclusive} of {self.judged} batches are INCONCLUSIVE, "
            f"more than {MAX_INCONCLUSIVE_SHARE:.0%}{because}: expose the assignment in Loss.assignment"
        )

    def not_tested(self, reason: str) -> Never:
        """Skip the running test, and log that the implementation was not tested, with the reason."""
        skip_untested(self.sink, reason, self.subject.implementation.name)

    def _excuse(self, batch: Batch, failure: Failure, began: CallTiming) -> bool:
        """Return True, and log a known issue, if the ledger of known issues covers every stage that diverges."""
        met = [issue for issue in self.known_issues if issue.met_by(batch)]
        excuse = next((issue for issue in met if issue.excuses(failure)), None)
        if excuse is None or not failure.stages <= set().union(*(issue.covers() for issue in met)):
            return False
        self.excused += 1
        self._pass_on(batch, Verdict.KNOWN, failure.judgement, began, failure, excuse)
        return True

    def _begin(self, plain: bool) -> CallTiming:
        now = time.perf_counter()
        return CallTiming(now, calls.seconds, now - self.since, plain)

    def _pass_on(
        self,
        batch: Batch,
        verdict: Verdict,
        judgement: Judgement | None,
        began: CallTiming,
        failure: Failure | None = None,
        excuse: KnownIssue | None = None,
    ) -> None:
        self.since, self.last = time.perf_counter(), batch
        if not self.failed and verdict is not Verdict.NOT_SUPPORTED:
            self.judged += 1
            # whatever the implementation shows; without autocast nothing prescribes the dtypes of 16-bit code
            undefined = judgement is not None and judgement.undefined
            if verdict is Verdict.INCONCLUSIVE and not (undefined or in_half(batch)):
                self.inconclusive += 1
                self.reasons.update(judgement.notes if judgement is not None else ())
        judged = JudgedBatch(
            subject=self.subject,
            test=self.test,
            clause_group=self.clause_group,
            batch=batch,
            verdict=verdict,
            judgement=judgement,
            phase="shrink" if self.failed else "generate",
            milliseconds=(self.since - began.at) * 1000,
            failure=failure,
            known_issues=tuple(issue.id for issue in self.known_issues if issue.met_by(batch)),
            excused_by=excuse.id if excuse else None,
            call_milliseconds=(calls.seconds - began.called) * 1000 if began.plain else None,
            drawing_milliseconds=began.drawing * 1000 if began.plain else None,
            parameter=self.parameter,
        )
        self.sink.batch(judged)
        if self.after_batch is not None:
            self.after_batch()


def _size(batch: Batch) -> int:
    return batch.images * batch.anchors * (1 + len(batch.annotations))


def skip_untested(sink: Sink, reason: str, implementation: str | None = None) -> Never:
    """Skip the running test, and log what was not tested.

    Args:
        sink: receives the line of the log.
        reason: the reason, as one line.
        implementation: name of the implementation; None if the reason concerns all of them.
    """
    sink.line("not_tested", implementation=implementation, device=None, reason=reason)
    pytest.skip(reason)
