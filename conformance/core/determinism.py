"""The settings with which a CUDA device computes, fixed: otherwise two runs of one suite would test two arithmetics."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def fixed_arithmetic() -> Iterator[None]:
    """Float32 is float32: no TF32 in matrix products and convolutions, and no choosing of cuDNN kernels by their time.

    Everything is as before afterwards.
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
    """The settings as they are, for the run log."""
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
