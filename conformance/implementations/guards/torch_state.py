"""An implementation may not change what others compute with: torch's global state and the official modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import torch

OFFICIAL = ("ultralytics.utils.tal", "ultralytics.utils.loss", "ultralytics.utils.metrics")
"""Modules whose loaded code must stay what it was."""


class StateChanged(Exception):
    """Global state is not what it was before; it has been put back."""


def torch_state() -> dict[str, Any]:
    """Torch's global state, by name."""
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
    """Put torch's global state back."""
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
    """Torch's global state afterwards is that of before, also if an exception passes.

    Raises:
        StateChanged: it was changed; the message names what.
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
        raise StateChanged(f"it changed torch's global state: {', '.join(what)}")


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def official_code() -> dict[str, dict[str, CodeType]]:
    """The code that is loaded in each official module, by name; modules that are not loaded are left out.

    Code never changes in place: what is compared with it later is nearly always the very same object.
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
    """The code of a function, and of every method of a class."""
    if isinstance(value, type):
        for method, content in vars(value).items():
            yield from _codes(f"{name}.{method}", content)
    code = getattr(getattr(value, "__wrapped__", value), "__code__", None)
    if isinstance(code, CodeType):
        yield name, code
