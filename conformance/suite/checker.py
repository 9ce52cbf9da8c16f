"""TODO tal_conformance.suite.checker."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.rejection import check_all_reject
from tal_conformance.checks.relations.relations import NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.execute import calls
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.known_issues.ledger import KnownIssue
from tal_conformance.suite.run_log import RunLogWriter


class CallTiming(NamedTuple):
    """When the judging of a batch began.

    Attributes:
        at: on the clock, in seconds.
        called: seconds that implementations had computed until then.
        drawing: seconds since the batch before: drawing and building this one, and logging that one.
        plain: the implementation is called once, on this batch, and nothing else is made with it.
    """

    at: float
    called: float
    drawing: float
    plain: bool


@dataclass
class Checker:
    """What a test of the suite gets: call it with a recipe or a batch.

    Attributes:
        subject: who is tested.
        recorder: takes every judged batch.
        test: name of the test.
        clause_group: what the test is about.
        entries: of the ledger that concern the subject and have not expired.
        failed: a batch failed before; what follows is Hypothesis shrinking it.
        excused: batches on which a divergence was on record.
        since: when the batch before was done; what follows draws and builds the next one.
    """

    subject: Subject
    recorder: RunLogWriter
    test: str
    clause_group: str
    entries: tuple[KnownIssue, ...] = ()
    failed: bool = field(default=False)
    excused: int = field(default=0)
    since: float = field(default_factory=time.perf_counter)

    def __call__(
        self,
        drawn: Recipe | Batch,
        by: Callable[[Subject, Batch], Judgement] = judge_against_reference,
        relates: bool = False,
    ) -> Judgement:
        """Judge and record.

        Args:
            drawn: the batch, or how to make it.
            by: what judges: held to the dialect, or by a relation of specification section 7.
            relates: it compares the implementation with itself on another batch or device, which not every dialect
                allows; where it does not, the batch is held to the dialect.

        Raises:
            Failure: the implementation does not conform, and the ledger does not know of it.
            Exception: the judge itself failed; the batch counts as an error, never as judged.
        """
        batch = drawn.build() if isinstance(drawn, Recipe) else drawn
        if relates and not supports_relations(batch, self.subject.implementation.dialect):
            by = judge_against_reference
        began = self._begin(plain=by is judge_against_reference)
        try:
            judgement = by(self.subject, batch)
        except Failure as failure:
            if self._excused(batch, failure, began):
                return failure.judgement or Judgement()
            self._record(batch, failure.verdict, failure.judgement, began, failure)
            self.failed = True
            raise
        except (NotApplicable, NotObservable):
            raise
        except Exception:
            self._record(batch, Verdict.ERROR, None, began)
            raise
        self._record(batch, judgement.verdict, judgement, began)
        return judgement

    def must_reject(self, batch: Batch, stage: str, clause: str, because: str) -> None:
        """The batch is an error by `clause`: the implementation must raise, not return.

        Raises:
            Failure: it returned, were it something that the protocol refuses; and the ledger does not know of it.
        """
        began = self._begin(plain=False)
        try:
            check_all_reject(self.subject, batch, stage, clause, because)
        except Failure as failure:
            if self._excused(batch, failure, began):
                return
            failure.pictured = stage != "top-k"  # with fewer anchors than k there is no assignment to draw
            self._record(batch, Verdict.DIVERGENT, None, began, failure)
            self.failed = True
            raise
        self._record(batch, Verdict.EXACT, None, began)

    def _excused(self, batch: Batch, failure: Failure, began: CallTiming) -> bool:
        """Whether the ledger knows of this failure, in each stage that diverges; then it is recorded as known."""
        met = [each for each in self.entries if each.met_by(batch)]
        entry = next((each for each in met if each.excuses(failure)), None)
        if entry is None or not failure.stages <= set().union(*(each.covers() for each in met)):
            return False
        self.excused += 1
        self._record(batch, Verdict.KNOWN, failure.judgement, began, failure, entry)
        return True

    def _begin(self, plain: bool) -> CallTiming:
        now = time.perf_counter()
        return CallTiming(now, calls.seconds, now - self.since, plain)

    def _record(
        self,
        batch: Batch,
        verdict: Verdict,
        judgement: Judgement | None,
        began: CallTiming,
        failure: Failure | None = None,
        entry: KnownIssue | None = None,
    ) -> None:
        met = tuple(each.id for each in self.entries if each.met_by(batch))
        phase = "shrink" if self.failed else "generate"
        self.since = time.perf_counter()
        milliseconds = (self.since - began.at) * 1000
        shares = ((calls.seconds - began.called) * 1000, began.drawing * 1000) if began.plain else None
        self.recorder.batch(
            self.subject,
            self.test,
            self.clause_group,
            batch,
            verdict,
            judgement,
            phase,
            milliseconds,
            failure,
            met,
            entry.id if entry else None,
            shares,
        )
