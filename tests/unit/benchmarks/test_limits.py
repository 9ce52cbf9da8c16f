"""Minimum number of bytes that a loss must read and write, from which the lower limit of its time follows."""

import re

import pytest

from tal_conformance.benchmarks.limits import copy_rate, distances, least_bytes
from tal_conformance.benchmarks.plans import Plan
from tal_conformance.benchmarks.workloads import SMALL

ANCHORS = 20**2 + 10**2 + 5**2
MAPS = 2 * ANCHORS * (64 + 80) * 4


@pytest.mark.parametrize(
    ("lap", "expected"),
    [
        ("assign forward", 2 * ANCHORS * 84 * 4),
        ("loss forward", MAPS),
        ("loss forward+backward", 3 * MAPS),
    ],
)
def test_least_bytes(lap: str, expected: int):
    assert least_bytes(SMALL.build(), lap) == expected


def test_a_copy_reads_and_writes():
    assert copy_rate(2**16) > 0


def test_each_lap_has_its_limit_in_milliseconds():
    lines = distances(SMALL.build(), MAPS / 0.005, Plan((), rounds=2, most=2, seconds=0))
    assert [line.split(":")[0] for line in lines] == [
        "assign forward", "loss forward", "loss forward+backward",
    ]  # fmt: skip
    assert "at least 5 ms; ultralytics " in lines[1]
    assert "at least 15 ms; ultralytics " in lines[2]
    assert all(re.search(r"ultralytics [\d.]+x, reference [\d.]+x$", line) for line in lines)
