"""Program that measures, in a new process, how much memory a call of an assigner or a loss takes."""

import ctypes
import gc
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tal_conformance.benchmarks.memory import MemoryUnknown
from tal_conformance.benchmarks.operations import operation
from tal_conformance.benchmarks.workloads import SMALL
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.guards.exceptions import exceptions_as_failures
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def main(arguments: list[str]) -> None:
    """Measure the peak memory of a call of an assigner or a loss, and write it into a JSON file."""
    name, capability, threads, case, answer = arguments
    torch.set_num_threads(int(threads))
    said: dict[str, Any]
    try:
        said = {"bytes": _measure(find(name), Batch.load(Path(case)), capability)}
    except ImplementationFailed as failure:
        said = {"failed": failure.what, "details": failure.details}
    except MemoryUnknown as unknown:
        said = {"unknown": str(unknown)}
    Path(answer).write_text(json.dumps(said), encoding="utf-8")


def _measure(implementation: Implementation, batch: Batch, capability: str) -> int:
    # A small batch first, so that threads, lazy imports and everything that torch allocates on first use do not count.
    operation(capability, implementation, SMALL.build()).run()
    call = operation(capability, implementation, batch)
    with exceptions_as_failures():
        state = call.prepare()
        _give_back()
        before = _reset_peak()
        for step in call.steps:
            state = step(state)
        return max(0, _peak() - before)


def _give_back() -> None:
    """Return free memory to the system (GNU C library only), so that memory which the operation reuses is measured."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> int:
    """Reset the peak of the resident set, if the system supports it, and return the present peak in bytes."""
    with suppress(OSError):  # not Linux, or no permission: a peak below an earlier peak is then not measured
        RESET.write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    """Return the largest resident set of this process, in bytes.

    On Linux, this is the kernel's figure for this program alone: `ru_maxrss` starts with the parent process's value.
    Linux counts resident pages in batches on each core, so that two readings may differ by some 100 KB without a cause.

    Raises:
        MemoryUnknown: this system does not report the resident set.
    """
    with suppress(OSError, StopIteration):
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError as error:
        raise MemoryUnknown(f"cannot measure the resident set size on {sys.platform}") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
