"""Costs of implementations: times, measured in rounds in which all implementations take turns, and peak memory."""

from tal_conformance.benchmarks.bench import (
    BASELINES,
    Bench,
    Benchmark,
    Cost,
    OutOfTime,
    compared_implementations,
)
from tal_conformance.benchmarks.intervals import Ratio, paired_ratio
from tal_conformance.benchmarks.memory import MemoryUnknown, peak_bytes
from tal_conformance.benchmarks.operations import LAPS, Operation, operation
from tal_conformance.benchmarks.plans import PLANS, Plan, plan_for
from tal_conformance.benchmarks.recorded_timer import RecordedTimer
from tal_conformance.benchmarks.table import table
from tal_conformance.benchmarks.timing import Clock, Timings, clock_of, interleave
from tal_conformance.benchmarks.uninstrumented import uninstrumented
from tal_conformance.benchmarks.workloads import CASES, SMALL, Case

__all__ = [
    "BASELINES",
    "CASES",
    "LAPS",
    "PLANS",
    "SMALL",
    "Bench",
    "Benchmark",
    "Case",
    "Clock",
    "Cost",
    "MemoryUnknown",
    "Operation",
    "OutOfTime",
    "Plan",
    "Ratio",
    "RecordedTimer",
    "Timings",
    "clock_of",
    "compared_implementations",
    "interleave",
    "operation",
    "paired_ratio",
    "peak_bytes",
    "plan_for",
    "table",
    "uninstrumented",
]
