"""What implementations cost: time as ratios of interleaved rounds, and the peak of the memory they take."""

from conformance.benchmarks.bare import bare
from conformance.benchmarks.bench import BESIDE, Bench, Benchmark, Cost, OutOfTime, contenders
from conformance.benchmarks.cases import CASES, SMALL, Case
from conformance.benchmarks.intervals import Ratio, paired_ratio
from conformance.benchmarks.memory import MemoryUnknown, peak_bytes
from conformance.benchmarks.operations import LAPS, Operation, operation
from conformance.benchmarks.plans import PLANS, Plan, plan_for
from conformance.benchmarks.replay import Replay
from conformance.benchmarks.table import table
from conformance.benchmarks.timing import Clock, Timings, clock_of, interleave

__all__ = [
    "BESIDE",
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
    "Replay",
    "Timings",
    "bare",
    "clock_of",
    "contenders",
    "interleave",
    "operation",
    "paired_ratio",
    "peak_bytes",
    "plan_for",
    "table",
]
