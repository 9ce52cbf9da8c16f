"""Detect changes of torch's global state and of the official modules."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import is_
from types import CodeType
from typing import Any

import torch
import torch.overrides
from torch.utils import _python_dispatch as python_dispatch

OFFICIAL = ("ultralytics.utils.tal", "ultralytics.utils.loss", "ultralytics.utils.metrics")
"""Modules whose code must not change."""


class StateChanged(Exception):
    """Error: an implementation changed global state, which was restored."""


def torch_state() -> dict[str, Any]:
    """Return torch's global state: default dtype, threads, modes and other settings, by name."""
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients enabled": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "denormal numbers flushed": SMALL * 1.0 == 0.0,
        "function modes": _function_modes(),
        "dispatch modes": _dispatch_modes(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "warnings about deterministic algorithms": torch.is_deterministic_algorithms_warn_only_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "cuDNN deterministic": torch.backends.cudnn.deterministic,
        "random numbers": torch.get_rng_state(),
    } | {
        f"{what} on {device}": value
        for device in AUTOCAST_DEVICES
        for what, value in (
            ("autocast", torch.is_autocast_enabled(device)),
            ("autocast dtype", torch.get_autocast_dtype(device)),
        )
    }


AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Types of devices whose autocast must stay as it was, present or not."""
SMALL = 5e-324
"""A denormal number: the processor's setting concerns Python's numbers too, which no mode of torch intercepts."""


def _function_modes() -> tuple[Any, ...]:
    return tuple(torch.overrides._get_current_function_mode_stack())


def _dispatch_modes() -> tuple[Any, ...]:
    return tuple(python_dispatch._get_current_dispatch_mode_stack())


def restore(state: dict[str, Any]) -> None:
    """Restore torch's global state, except the number of inter-op threads, which a process can set only once."""
    _set_modes(
        state["dispatch modes"], _dispatch_modes, python_dispatch._pop_mode, python_dispatch._push_mode
    )
    _set_modes(
        state["function modes"], _function_modes, torch.overrides._pop_mode, torch.overrides._push_mode
    )
    if torch.get_default_device() != state["default device"]:
        torch.set_default_device(state["default device"])
        _set_modes(
            state["function modes"], _function_modes, torch.overrides._pop_mode, torch.overrides._push_mode
        )
    torch.set_default_dtype(state["default dtype"])
    if torch.is_inference_mode_enabled() != state["inference mode"]:
        _guards.append(torch._C._InferenceMode(state["inference mode"]))
    torch.set_grad_enabled(state["gradients enabled"])
    torch.set_anomaly_enabled(state["anomaly detection"])
    torch.set_num_threads(state["threads"])
    torch.set_flush_denormal(state["denormal numbers flushed"])
    torch.use_deterministic_algorithms(
        state["deterministic algorithms"], warn_only=state["warnings about deterministic algorithms"]
    )
    torch.set_float32_matmul_precision(state["float32 matmul precision"])
    torch.backends.cudnn.allow_tf32 = state["TF32 in cuDNN"]
    torch.backends.cudnn.benchmark = state["cuDNN benchmark"]
    torch.backends.cudnn.deterministic = state["cuDNN deterministic"]
    torch.set_rng_state(state["random numbers"])
    for device in AUTOCAST_DEVICES:
        torch.set_autocast_enabled(device, state[f"autocast on {device}"])
        torch.set_autocast_dtype(device, state[f"autocast dtype on {device}"])


_guards: list[Any] = []
"""Guards that keep inference mode as it was; a guard ends with its last reference."""


def _set_modes(
    wanted: tuple[Any, ...],
    now: Callable[[], tuple[Any, ...]],
    pop: Callable[[], Any],
    push: Callable[[Any], Any],
) -> None:
    """Replace the stack of active modes `now` by `wanted`."""
    if all(map(is_, now(), wanted)) and len(now()) == len(wanted):
        return
    while now():
        pop()
    for mode in wanted:
        push(mode)


def changes(before: dict[str, Any], random_numbers: bool = True) -> list[str]:
    """Return names and present values of the settings that differ from `before`, and restore these settings.

    Args:
        before: the settings at an earlier time.
        random_numbers: True if a changed state of the random number generators counts as a change.
    """
    after = torch_state()
    changed = [name for name in before if not _same(before[name], after[name])]
    if changed:
        restore(before)
    return [
        name if name in UNPRINTED else f"{name} to {after[name]}"
        for name in changed
        if random_numbers or name != "random numbers"
    ]


UNPRINTED = ("random numbers", "function modes", "dispatch modes")
"""Settings whose values say nothing to a reader."""


@contextmanager
def unchanged_torch_state() -> Iterator[None]:
    """Restore torch's global state after the block, also if the block raises.

    Raises:
        StateChanged: the block changed the state; the message names the settings.
    """
    before = torch_state()
    what: list[str] = []
    try:
        yield
    finally:
        what = changes(before)
    if what:
        raise StateChanged(f"changed global torch state: {', '.join(what)}")


def _same(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


def official_code() -> dict[str, dict[str, CodeType]]:
    """Return the code objects of each loaded official module, by name.

    Code objects are immutable, so that a later comparison is mostly one of identities.
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
    """Yield the name and the code object of a function, or of every method of a class."""
    if isinstance(value, type):
        for method, content in vars(value).items():
            yield from _codes(f"{name}.{method}", content)
    code = getattr(getattr(value, "__wrapped__", value), "__code__", None)
    if isinstance(code, CodeType):
        yield name, code
