"""Detect changes of torch's global state and of the official modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch

OFFICIAL = ("ultralytics.utils.tal", "ultralytics.utils.loss", "ultralytics.utils.metrics")
"""Modules whose code must not change."""


class StateChanged(Exception):
    """Global state was changed; it has been restored."""


def torch_state() -> dict[str, Any]:
    """Return torch's global state, by name."""
    return {
        "default dtype": torch.get_default_dtype(),
        "gradients enabled": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "random numbers": torch.get_rng_state(),
    }


def restore(state: dict[str, Any]) -> None:
    """Restore torch's global state."""
    torch.set_default_dtype(state["default dtype"])
    torch.set_grad_enabled(state["gradients enabled"])
    torch.set_num_threads(state["threads"])
    torch.use_deterministic_algorithms(state["deterministic algorithms"])
    torch.set_float32_matmul_precision(state["float32 matmul precision"])
    torch.backends.cudnn.allow_tf32 = state["TF32 in cuDNN"]
    torch.backends.cudnn.benchmark = state["cuDNN benchmark"]
    torch.set_rng_state(state["random numbers"])


@contextmanager
def unchanged_torch_state() -> Iterator[None]:
    """Restore torch's global state after the block, also if the block raises.

    Raises:
        StateChanged: the block changed the state; the message names the settings.
    """
    before = torch_state()
    try:
        yield
    finally:
        after = torch_state()
        changed = [name for name in before if not _same(before[name], after[name])]
        if changed:
            restore(before)
    if changed:
        what = [name if name == "random numbers" else f"{name} to {after[name]}" for name in changed]
        raise StateChanged(f"changed global torch state: {', '.join(what)}")


def _same(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


def official_code() -> dict[str, dict[str, CodeType]]:
    """Return the code objects of each loaded official module, by name.

    Code objects are immutable: in a later comparison they are nearly always identical objects.
    """
    return {
        name: {
            label: code
            for entry, value in list(vars(sys.modules[name]).items())
            for label, code in _codes(entry, value)
        }
        for name in OFFICIAL
        if name in sys.modules
    }


def _codes(name: str, value: Any) -> Iterator[tuple[str, CodeType]]:
    """Yield the code object of a function, and of every method of a class."""
    if isinstance(value, type):
        for method, content in vars(value).items():
            yield from _codes(f"{name}.{method}", content)
    code = getattr(getattr(value, "__wrapped__", value), "__code__", None)
    if isinstance(code, CodeType):
        yield name, code
