"""Read the circumstances of a call of a loss: from the trainer, the training loop, torch, and the exception."""

import os
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.circumstances import Circumstances
from tal_conformance.training.capture import LossCall

FRAMES = 12
"""Maximum number of lines of a traceback that are stored: its end, where the exception was raised."""
LENGTH = 300
"""Maximum number of characters of an exception's message."""


def world() -> tuple[int, int]:
    """Return rank and world size of this process: from `torch.distributed`, a launcher's environment, or 0 and 1."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1


def learning_rates(optimizer: Any) -> tuple[float, ...]:
    """Return the learning rate of every parameter group of an optimizer; () without an optimizer."""
    groups = getattr(optimizer, "param_groups", None) or ()
    return tuple(float(group["lr"]) for group in groups if "lr" in group)


def loss_scale(scaler: Any) -> Tensor | float | None:
    """Return the present factor of a gradient scaler, or None without an enabled one, without waiting for a GPU.

    The factor of torch's scaler is a tensor, changed in place after the step, so that a copy is returned. A scaler that
    has scaled nothing yet only knows the factor that it begins with.
    """
    if scaler is None or not scaler.is_enabled():
        return None
    scale = getattr(scaler, "_scale", None)
    return scale.detach().clone() if isinstance(scale, Tensor) else float(scaler.get_scale())


def exception_facts(error: BaseException | None) -> dict[str, str]:
    """Return the fields of `Circumstances` about an exception; paths are left out, as case files are passed on."""
    if error is None:
        return {}
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames]
    message = " ".join(str(error).split())[:LENGTH]
    return {
        "exception": f"{type(error).__name__}: {message}",
        "raised_at": lines[-1] if lines else "",
        "traceback": "\n".join(lines[-FRAMES:]),
    }


def finished(known: Circumstances, call: LossCall) -> dict[str, Any]:
    """Return further fields of `Circumstances` of a detached call: precision, dtypes, exception and its origin."""
    return {
        "amp": known.amp if known.amp is not None else call.precision is not None,
        "autocast": "" if call.precision is None else str(call.precision).removeprefix("torch."),
        "dtypes": call.dtypes if len(call.dtypes) > 1 else (),
        "raised_by": call.raised_by,
        **exception_facts(call.error),
    }
