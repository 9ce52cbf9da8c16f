"""Median ratio of the times of two implementations, and its bootstrap interval."""

from math import comb

import pytest

from tal_conformance.benchmarks.intervals import Ratio, paired_ratio


def cumulative(k: int, n: int) -> float:
    """Return the probability that the median of n draws with replacement from 1..n is at most k."""
    return sum(comb(n, j) * (k / n) ** j * (1 - k / n) ** (n - j) for j in range(n // 2 + 1, n + 1))


def test_the_interval_is_the_bootstraps_own():
    """For the ratios 1 to 11, the interval equals the interval from the exact distribution of a resample's median."""
    n = 11
    low, high = (min(k for k in range(1, n + 1) if cumulative(k, n) >= share) for share in (0.025, 0.975))
    assert paired_ratio([float(k) for k in range(1, n + 1)], [1.0] * n) == Ratio(6.0, float(low), float(high))


def test_a_drift_of_the_machine_cancels():
    drift = [1.0, 3.0, 0.5, 8.0, 2.0]
    assert paired_ratio([2 * d for d in drift], drift) == Ratio(2.0, 2.0, 2.0)


def test_pairs_count_and_not_medians():
    """Times 2, 4, 6, 3, 1 and 1, 2, 3, 4, 5 have equal medians; the median of their ratios by round is 2."""
    assert paired_ratio([2.0, 4.0, 6.0, 3.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0]).at == 2.0


def test_one_outlier_does_not_move_the_ratio():
    assert paired_ratio([1.0] * 10 + [100.0], [1.0] * 11) == Ratio(1.0, 1.0, 1.0)


def test_one_round_has_no_interval():
    assert paired_ratio([3.0], [2.0]) == Ratio(1.5, None, None)
    assert not Ratio(1.5, None, None).narrower_than(1)


def test_it_says_the_same_every_time():
    times, baseline = [1.0, 1.2, 1.1, 0.9], [1.0, 1.0, 0.8, 1.1]
    assert paired_ratio(times, baseline) == paired_ratio(times, baseline)


def test_narrow_is_relative_to_the_ratio():
    assert Ratio(10.0, 9.8, 10.2).narrower_than(0.05)
    assert not Ratio(1.0, 0.8, 1.2).narrower_than(0.05)


@pytest.mark.parametrize(("times", "baseline"), [([], []), ([1.0, 2.0], [1.0])])
def test_rounds_that_make_no_pairs(times: list[float], baseline: list[float]):
    with pytest.raises(ValueError, match="expected as many times of the implementation as of the baseline"):
        paired_ratio(times, baseline)
