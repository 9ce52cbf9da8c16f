"""Select which training batches to store: the first, every n-th, and outliers.

Outliers are the batches with the most ground truths, the first batch without ground truths, and the batches with the
smallest box and with the largest loss so far.
"""

import math
from dataclasses import dataclass

FIRST, EVERY, NO_GT = "first", "every n-th", "no GT"
MOST, SMALLEST, LARGEST = "most GTs so far", "smallest GT so far", "largest loss so far"
RECORDS = (MOST, SMALLEST, LARGEST)
"""Reasons of which only the newest batch is a record: it supersedes earlier batches with the same reason."""
BEATS = 1.1
"""Factor by which a record must exceed the previous one, so that a slowly rising loss is not stored at each step."""


@dataclass(frozen=True)
class BatchFacts:
    """Facts of a training batch that decide whether it is stored.

    Attributes:
        truths: number of annotation rows.
        smallest: smallest area of a ground truth as a share of its image's; infinite without ground truths.
        total: the value of the loss that is differentiated; NaN counts as infinite.
    """

    truths: int
    smallest: float
    total: float


@dataclass
class BatchSelector:
    """State of the selection for one loss of a training.

    Attributes:
        every: number of steps between two batches that are stored regularly; 0 to store none regularly.
        step: number of the next step, from 0.
    """

    every: int
    step: int = 0
    _most: float = 0.0
    _smallest: float = math.inf
    _largest: float = 0.0
    _empty: bool = False

    def reasons(self, facts: BatchFacts) -> set[str]:
        """Return the reasons to store the batch of the next step; an empty set if it is not stored."""
        step, self.step = self.step, self.step + 1
        total = math.inf if math.isnan(facts.total) else facts.total
        found = {
            FIRST: step == 0,
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
        return {reason for reason, holds in found.items() if holds}
