"""Lower limit of benchmark times: bytes that must be moved, at the rate at which this machine copies memory.

`python -m tal_conformance.benchmarks.limits` measures this rate, the official release and the reference. The limit
ignores computation; it counts one read of each input and one write of each output per pass:

- assign forward: only the dense outputs count, target scores (B, A, C) and boxes (B, A, 4), or (B, A, 5) with
  angles. The inputs that an assigner must read are small in comparison.
- loss forward: all feature maps are read.
- loss forward+backward: the feature maps are read a second time, and their gradients are written.

Measured on one core of a shared machine, torch 2.14.1, ultralytics 8.4.190, which copied 17.5 GB/s: the limits of the
batches 16x640 are 3, 4 and 13 ms. The reference took 32 to 135, 53 to 93 and 28 to 41 times as long (10 to 150 ground
truths an image), the official release 48 to 387, 132 to 277 and 59 to 112 times.

The reference is slower than the limit because it is written for readability: each operation of torch reads and writes
whole tensors, and the maps of all levels and their gradients are concatenated.
"""

import time
from functools import cache
from statistics import median

import torch
from torch import Tensor

from tal_conformance.benchmarks.operations import LAPS, operation
from tal_conformance.benchmarks.plans import Plan
from tal_conformance.benchmarks.timing import WallClock, interleave
from tal_conformance.benchmarks.workloads import CASES, TRAINING
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.registry import find
from tal_text import say

ROUNDS = 10
NAMES = ("ultralytics", "reference")


def least_bytes(batch: Batch, lap: str) -> int:
    """Return the minimum number of bytes that an assigner or loss reads and writes up to the end of the part `lap`."""
    maps = sum(_bytes(level) for level in batch.feature_maps)
    width = batch.feature_maps[0].element_size()
    outputs = batch.images * batch.anchors * (batch.head.classes + len(batch.family.box_columns)) * width
    return {"assign forward": outputs, "loss forward": maps, "loss forward+backward": 3 * maps}[lap]


@cache
def least_bytes_of(case: str, lap: str) -> int:
    """Return `least_bytes` of the case with this name; large batches take long to build."""
    return least_bytes(CASES[case].build(), lap)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def copy_rate(size: int = 64 * 2**20, device: str = "cpu") -> float:
    """Return the rate of copying `size` bytes into allocated memory, in bytes read and written per second."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    seconds = []
    for _ in range(ROUNDS):
        wait()
        began = time.perf_counter()
        target.copy_(source)
        wait()
        seconds.append(time.perf_counter() - began)
    return 2 * size / median(seconds)


def _nothing() -> None:
    """Return at once: a copy on the CPU is done when it returns."""


def distances(batch: Batch, rate: float, plan: Plan) -> list[str]:
    """Time the implementations on a batch, and return a line of text for each lap (timed part) of assigner and loss.

    A line contains the lower limit of the time in ms, and each implementation's time divided by the limit.
    """
    lines = []
    for capability, laps in LAPS.items():
        operations = {name: operation(capability, find(name), batch) for name in NAMES}
        timings = interleave(operations, WallClock(), plan)
        for at, lap in enumerate(laps):
            limit = least_bytes(batch, lap) / rate
            times = [median(timings.seconds(name, at)) / limit for name in NAMES]
            said = ", ".join(f"{name} {factor:.1f}x" for name, factor in zip(NAMES, times, strict=True))
            lines.append(f"{lap}: at least {limit * 1000:.0f} ms; {said}")
    return lines


def main() -> None:
    """Measure the copy rate and the times of the implementations, and print the results."""
    rate = copy_rate()
    say(f"{rate / 1e9:.1f} GB/s copied, {torch.get_num_threads()} threads")
    for case in TRAINING:
        for line in distances(CASES[case.name].build(), rate, Plan((), ROUNDS, ROUNDS, 0)):
            say(f"{case.name} {line}")


if __name__ == "__main__":
    main()
