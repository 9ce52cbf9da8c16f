"""How much slower one implementation is than another, and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

RESAMPLES = 2000
COVERED = 0.95
"""Share of the resampled medians that the interval holds."""


class Ratio(NamedTuple):
    """A ratio of times with its interval; no interval where there was one round alone.

    Attributes:
        at: the median.
        low: lower end of the interval.
        high: upper end.
    """

    at: float
    low: float | None
    high: float | None

    def narrower_than(self, share: float) -> bool:
        """Whether the interval is narrower than `share` of the ratio."""
        return self.low is not None and self.high is not None and self.high - self.low < share * self.at


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Median over the rounds of an implementation's time divided by the baseline's time in the same round.

    What slows a whole round down cancels. The interval is the percentile bootstrap's over rounds. With fewer
    than about ten rounds it can only be as wide as what was seen, and holds the truth less often than said.

    Args:
        seconds: one time a round.
        baseline: the baseline's, of the same rounds.

    Raises:
        ValueError: not the same number of rounds, or none.
    """
    if len(seconds) != len(baseline) or not seconds:
        raise ValueError(f"{len(seconds)} and {len(baseline)} rounds make no pairs")
    ratios = torch.tensor(seconds, dtype=torch.float64) / torch.tensor(baseline, dtype=torch.float64)  # (n,)
    at = float(ratios.quantile(0.5))
    if len(ratios) == 1:
        return Ratio(at, None, None)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(ratios), (RESAMPLES, len(ratios)), generator=generator)
    medians = ratios[drawn].quantile(0.5, dim=1)  # (RESAMPLES,)
    ends = torch.tensor(((1 - COVERED) / 2, (1 + COVERED) / 2), dtype=torch.float64)
    low, high = medians.quantile(ends).tolist()
    return Ratio(at, low, high)
