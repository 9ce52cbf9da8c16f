"""Which batches of a training are worth keeping: the first, every n-th, and those that stand out."""

import math
from dataclasses import dataclass

FIRST, EVERY, NO_GT = "first", "every n-th", "no GT"
MOST, SMALLEST, LARGEST = "most GTs so far", "smallest GT so far", "largest loss so far"
RECORDS = (MOST, SMALLEST, LARGEST)
"""Of these the newest beats all before it."""
BEATS = 1.1
"""By this factor a record must be beaten: a loss that creeps upwards is not kept at each step."""


@dataclass(frozen=True)
class BatchFacts:
    """What of a batch decides whether it is kept.

    Attributes:
        truths: number of annotation rows.
        smallest: least area of a ground truth as a share of its image's; infinite without any.
        total: the loss that is differentiated; not a number counts as infinite.
    """

    truths: int
    smallest: float
    total: float


@dataclass
class BatchSelector:
    """What one loss of a training has received so far.

    Attributes:
        every: this many steps apart batches are kept anyway; 0: none are.
        step: number of the next step, from 0.
    """

    every: int
    step: int = 0
    _most: float = 0.0
    _smallest: float = math.inf
    _largest: float = 0.0
    _empty: bool = False

    def reasons(self, facts: BatchFacts) -> set[str]:
        """Why the next step's batch should be kept; nothing if it should not."""
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
