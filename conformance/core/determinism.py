"""Fixed arithmetic settings of torch, so that two runs of the suite test the same arithmetic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def fixed_arithmetic() -> Iterator[None]:
    """Compute in full float32 precision, without TF32 and without cuDNN's benchmark mode, while the block runs.

    The settings are restored when the block ends.
    """
    cudnn: Any = torch.backends.cudnn
    names = "allow_tf32", "benchmark", "deterministic"
    precision, before = torch.get_float32_matmul_precision(), [getattr(cudnn, name) for name in names]
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for name, value in zip(names, before, strict=True):
            setattr(cudnn, name, value)


def arithmetic() -> dict[str, Any]:
    """Return torch's current arithmetic settings, for the run log."""
    cudnn: Any = torch.backends.cudnn
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda": torch.version.cuda,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "cudnn": cudnn.version() if cudnn.is_available() else None,
        "cudnn_tf32": cudnn.allow_tf32,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
    }
