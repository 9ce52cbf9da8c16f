"""Select which training batches to store: the first, every n-th, outliers, and batches on which something went wrong.

Outliers are the batches with the most ground truths, the first batch without ground truths, and the batches with the
smallest box and with the largest loss so far.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

FIRST, EVERY, NO_GT = "first", "every n-th", "no GT"
MOST, SMALLEST, LARGEST = "most GTs so far", "smallest GT so far", "largest loss so far"
RESUMED, BEFORE = "first after resuming", "before the batch that went wrong"
RAISED, NOT_FINITE = "raised", "loss not finite"
LABELS, IMAGES, ROWS_NOT_FINITE = "label outside the head", "image outside the batch", "row not finite"
ORDER, OUTSIDE = "rows out of order", "coordinates outside [0, 1]"
RECORDS = (MOST, SMALLEST, LARGEST)
"""Reasons of which only the newest batch is a record: it supersedes earlier batches with the same reason."""
FAILURES = (RAISED, NOT_FINITE)
"""Reasons for which the batch before is stored, too."""
ANOMALIES = (*FAILURES, LABELS, IMAGES, ROWS_NOT_FINITE, ORDER, OUTSIDE)
"""Reasons that say that something is wrong."""
ANOMALIES_STORED = 10
"""Number of batches of a loss that are stored for each anomaly. A training that has diverged, or whose every batch has
unsorted rows, would else fill the size limit with one anomaly, and would write a file at each step. All are counted."""
BEATS = 1.1
"""Factor by which a record must exceed the previous one, so that a slowly rising loss is not stored at each step."""


@dataclass(frozen=True)
class BatchFacts:
    """Facts of a training batch that decide whether it is stored.

    Attributes:
        truths: number of annotation rows.
        smallest: smallest area of a ground truth as a share of its image's; infinite without ground truths.
        total: the value of the loss that is differentiated; None if the loss raised or its value is unknown.
        anomalies: anomalies that were found before the value is known.
    """

    truths: int
    smallest: float
    total: float | None
    anomalies: frozenset[str] = frozenset()


@dataclass
class BatchSelector:
    """State of the selection for one loss of a training.

    Attributes:
        every: number of steps between two batches that are stored regularly; 0 to store none regularly.
        resumed: True if the training was resumed before its first step.
        step: number of the next step, from 0.
        counts: number of batches with each anomaly, stored or not.
        first_steps: step of the first batch with each anomaly.
    """

    every: int
    resumed: bool = False
    step: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first_steps: dict[str, int] = field(default_factory=dict)
    _most: float = 0.0
    _smallest: float = math.inf
    _largest: float = 0.0
    _empty: bool = False

    def reasons(self, facts: BatchFacts) -> set[str]:
        """Return the reasons to store the batch of the next step; an empty set if it is not stored."""
        step, self.step = self.step, self.step + 1
        total = facts.total if facts.total is not None and math.isfinite(facts.total) else -math.inf
        found = {
            FIRST: step == 0,
            RESUMED: step == 0 and self.resumed,
            EVERY: self.every > 0 and step > 0 and step % self.every == 0,
            NO_GT: facts.truths == 0 and not self._empty,
            MOST: facts.truths > BEATS * self._most,
            SMALLEST: facts.smallest * BEATS < self._smallest,
            LARGEST: total > BEATS * self._largest,
        }
        self._empty = self._empty or facts.truths == 0
        if found[MOST]:
            self._most = facts.truths
        if found[SMALLEST]:
            self._smallest = facts.smallest
        if found[LARGEST]:
            self._largest = total
        return {reason for reason, holds in found.items() if holds} | self._anomalies(facts, step)

    def _anomalies(self, facts: BatchFacts, step: int) -> set[str]:
        """Count the anomalies of a batch, and return those of which not enough batches are stored yet."""
        not_finite = facts.total is not None and not math.isfinite(facts.total)
        anomalies = facts.anomalies | ({NOT_FINITE} if not_finite else set())
        self.counts.update(anomalies)
        for anomaly in anomalies:
            self.first_steps.setdefault(anomaly, step)
        return {anomaly for anomaly in anomalies if self.counts[anomaly] <= ANOMALIES_STORED}
