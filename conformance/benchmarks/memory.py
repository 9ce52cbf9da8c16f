"""Peak memory of one forward and backward pass, minus the memory in use before it.

On the CPU a new process measures its resident set. In a process that has run other code, the pass could reuse memory
that the allocator holds already, which the resident set does not show. On CUDA the allocator's statistics are read.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tal_conformance.benchmarks.operations import operation
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.guards.exceptions import exceptions_as_failures
from tal_conformance.implementations.protocol import Implementation

TIMEOUT = 600
"""Seconds after which a measuring process is killed."""


class MemoryUnknown(RuntimeError):
    """Error: this system does not report the memory of a process."""


def peak_bytes(implementation: Implementation, batch: Batch, device: str, capability: str = "loss") -> int:
    """Return the peak memory in bytes of a call of an assigner or loss, with its results but not its inputs.

    Args:
        implementation: implementation whose memory is measured.
        batch: input of the call, on the CPU.
        device: device on which the call runs.
        capability: "assign" or "loss".

    Raises:
        ImplementationFailed: the implementation raised, or the process died or did not end.
        MemoryUnknown: this system does not report the memory of a process.
    """
    if device == "cuda":
        return _peak_on_cuda(implementation, batch, capability)
    return _peak_in_fresh_process(implementation.spec, batch, capability)


def _peak_on_cuda(implementation: Implementation, batch: Batch, capability: str) -> int:
    call = operation(capability, implementation, batch.to("cuda"))
    call.run()  # a first call, so that handles and workspaces do not count
    with exceptions_as_failures():
        state = call.prepare()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for step in call.steps:
            state = step(state)
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_in_fresh_process(name: str, batch: Batch, capability: str) -> int:
    with tempfile.TemporaryDirectory(prefix="tal-conformance-memory-") as folder:
        case, answer = Path(folder, "case.safetensors"), Path(folder, "answer.json")
        batch.save(case)
        arguments = [name, capability, str(torch.get_num_threads()), str(case), str(answer)]
        command = [sys.executable, "-m", "tal_conformance.benchmarks.fresh_process", *arguments]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        try:
            done = subprocess.run(  # noqa: S603
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            what = f"did not end within {TIMEOUT} s while its memory was measured in a separate process"
            raise ImplementationFailed(what) from error
        if not answer.exists():
            what = f"the process that measures memory ended with status {done.returncode}, expected 0"
            raise ImplementationFailed(what, done.stderr)
        said: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "unknown" in said:
        raise MemoryUnknown(said["unknown"])
    if "failed" in said:
        raise ImplementationFailed(said["failed"], said["details"])
    return int(said["bytes"])
