"""Ratio of the times of two implementations, with a confidence interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95
"""Confidence level of the interval."""


class Ratio(NamedTuple):
    """A ratio of times with its confidence interval. A single round gives no interval.

    Attributes:
        at: the median.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    at: float
    low: float | None
    high: float | None

    def narrower_than(self, share: float) -> bool:
        """Return True if the interval is narrower than `share` of the ratio."""
        return self.low is not None and self.high is not None and self.high - self.low < share * self.at


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Return the median over the rounds of an implementation's time divided by the baseline's time in the same round.

    A slow round affects both times and cancels out. The interval is a percentile bootstrap over rounds. With fewer than
    about ten rounds it is at most as wide as the range of the observed ratios, and covers the true median less often
    than its confidence level.

    Args:
        seconds: (n,) times of the implementation.
        baseline: (n,) times of the baseline in the same rounds.

    Raises:
        ValueError: the numbers of rounds differ, or are zero.
    """
    if len(seconds) != len(baseline) or not seconds:
        raise ValueError(
            "expected as many times of the implementation as of the baseline, at least one; "
            f"got {len(seconds)} and {len(baseline)}"
        )
    times = np.asarray(seconds), np.asarray(baseline)
    at = float(_median_ratio(*times))
    if len(seconds) == 1:
        return Ratio(at, None, None)
    from scipy import stats  # takes a second to import

    interval = stats.bootstrap(
        times,
        _median_ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    ).confidence_interval
    return Ratio(at, float(interval.low), float(interval.high))


def _median_ratio(seconds: Times, baseline: Times, axis: int = -1) -> Times:
    median: Times = np.median(seconds / baseline, axis=axis)
    return median
