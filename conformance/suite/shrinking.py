"""Shrink one failing test for each cause, within a budget of processor time.

One cause makes many tests fail. Hypothesis shrinks the failing batch of the first of these tests. A later test that
fails in the same way reports its failing batch as it was generated. Hypothesis has no setting for this: during
shrinking, batches of such a test are rejected, and the shrinker, found on the call stack, is told to stop.
"""

import re
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tal_conformance.core.verdicts import Value
from tal_conformance.judgement.failure import Failure
from tal_reports import CLEAR, share_of_bound

SHRINKING = "shrink_interesting_test_cases", "shrink_interesting_examples"
"""Names of the function of Hypothesis that shrinks, in its present and in older versions."""

SHARE = 0.25
"""Largest share of the budget for one test, so that the failures of several causes are shrunk."""

Signature = tuple[str, str, str]
"""Id of the subject, first diverging stage, and for failures without a stage the summary without its numbers."""


def signature_of(failure: Failure) -> Signature:
    """Return the signature of a failure, which is mostly equal for failures with the same cause."""
    text = "" if failure.stage else re.sub(r"\d+", "#", failure.summary)
    return failure.subject.id, failure.stage, text


def is_clear(failure: Failure) -> bool:
    """Return True if the error of the first differing value is at least `CLEAR` times its bound, or has no bound."""
    share = share_of_bound(_fields(failure.values[0])) if failure.values else None
    return share is None or share >= CLEAR


def _fields(value: Value) -> dict[str, Any]:
    return {"reference": value.reference, "implementation": value.implementation, "bound": value.bound}


@dataclass
class ShrinkBudget:
    """The failures of a session that were shrunk, and the processor time that this took.

    Attributes:
        seconds: budget of processor time for all tests of an implementation in this process. A single test may use the
            share `SHARE` of the budget.
        used: seconds spent on shrinking, by id of the subject.
        shrunk: signatures of the failures that have been shrunk.
        spared: number of tests whose failure was not shrunk, by reason.
    """

    seconds: float = float("inf")
    used: dict[str, float] = field(default_factory=dict)
    shrunk: set[Signature] = field(default_factory=set)
    spared: dict[str, int] = field(default_factory=dict)

    def spare(self, reason: str) -> None:
        """Count a test whose failure is not shrunk, or not shrunk any further, for the given reason."""
        self.spared[reason] = self.spared.get(reason, 0) + 1


@dataclass
class TestShrinking:
    """The failing batches of one test. It decides which batches are judged while Hypothesis shrinks the failure.

    Attributes:
        budget: the session's budget, and the failures that were shrunk so far.
        subject: id of the subject.
        failing: keys of the batches that failed. If Hypothesis runs one of them again, it is judged and fails again.
        fresh: True if a failure of this test has a signature that no earlier test has shrunk.
        clear: True if the error of the first failure was well above its bound (`is_clear`). Then a batch whose error is
            close to the bound does not count as a smaller example.
        since: reading of the clock of processor time at the last batch, in seconds.
        used: seconds that this test has spent on shrinking.
        stopped: True once `refuses` returned True for a batch.
    """

    __test__ = False

    budget: ShrinkBudget
    subject: str
    failing: set[object] = field(default_factory=set)
    fresh: bool = False
    clear: bool = False
    since: float = 0.0
    used: float = 0.0
    stopped: bool = False

    def refuses(self, key: object) -> bool:
        """Return True if a batch must not be judged, because the failure of this test is not shrunk any further.

        Args:
            key: identifies the batch.
        """
        if not self.failing:
            return False
        now = time.process_time()
        passed, self.since = now - self.since, now
        self.used += passed
        total = self.budget.used[self.subject] = self.budget.used.get(self.subject, 0.0) + passed
        spent = total > self.budget.seconds or self.used > SHARE * self.budget.seconds
        if (self.fresh and not spent) or key in self.failing or not stop_shrinking():
            return False
        if not self.stopped:
            self.stopped = True
            self.budget.spare(
                "the budget was used up" if self.fresh else "an earlier test failed in the same way"
            )
        return True

    def add(self, key: object, failure: Failure) -> bool:
        """Add a failing batch; return False if it is not a smaller example of the first failure (see `clear`).

        Args:
            key: identifies the batch.
            failure: the failure on the batch.
        """
        if not self.failing:
            self.since, self.clear = time.process_time(), is_clear(failure)
        elif self.clear and key not in self.failing and is_shrinking() and not is_clear(failure):
            return False
        self.failing.add(key)
        signature = signature_of(failure)
        if signature not in self.budget.shrunk:
            self.budget.shrunk.add(signature)
            self.fresh = True
        return True


def is_shrinking() -> bool:
    """Return True if Hypothesis is shrinking a failing batch of the running test."""
    return _caller(lambda code, scope: code in SHRINKING) is not None


def stop_shrinking() -> bool:
    """Return True if Hypothesis is shrinking a failing batch of the running test, and tell it to stop."""
    shrinker = _caller(lambda code, scope: hasattr(scope.get("self"), "max_stall"))
    if shrinker is None:
        return is_shrinking()
    shrinker["self"].max_stall = 0  # number of calls without an improvement after which it stops
    return True


def _caller(matches: Any) -> dict[str, Any] | None:
    """Return the local variables of the innermost calling function for which `matches` is true, or None.

    Args:
        matches: predicate of the name of a function and its local variables.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if matches(frame.f_code.co_name, frame.f_locals):
            return frame.f_locals
        frame = frame.f_back
    return None
