"""Calls of PyTorch's functions from Python: the device that they name, and the device of their results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

DEVICE = torch.device("cuda", 0)
"""The simulated device."""
CPU = torch.device("cpu")

FACTORIES = frozenset(
    getattr(torch, name)
    for name in (
        "arange", "empty", "empty_permuted", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand",
        "randint", "randn", "randperm", "range", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
        "bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window",
    )
)  # fmt: skip
"""Functions that make a tensor on the CPU unless `device` names another, wherever their other arguments are."""
CONVERSIONS = frozenset({torch.as_tensor, torch.asarray})
"""Functions that make a tensor from data, and return a tensor unchanged."""
MOVES: dict[str, tuple[torch.device, ...]] = {
    "Tensor.to": (),
    "Tensor.type_as": (),
    "Tensor.cpu": (CPU,),
    "Tensor.cuda": (DEVICE,),
}
"""Methods that move a tensor, with the destination if it is fixed; otherwise an argument names it."""


@dataclass
class Call:
    """A call of one of PyTorch's functions from Python, while it runs.

    Attributes:
        name: name in source code, such as `torch.where` or `Tensor.to`.
        caller: frame of the caller.
        target: the device that the keyword `device` names; None without this keyword.
        follows: True if tensors that the function allocates belong on its arguments' device (`torch.cartesian_prod`).
    """

    name: str
    caller: FrameType | None
    target: torch.device | None = None
    follows: bool = False


def name_of(func: Callable[..., Any]) -> str:
    """Return the name of a function of PyTorch in source code: `torch.where`, `Tensor.to`."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # of a property
        return f"Tensor.{getattr(getattr(func, '__self__', None), '__name__', name)}"
    if hasattr(func, "__objclass__") or getattr(func, "__qualname__", "").startswith("Tensor."):
        return f"Tensor.{name}"
    module = getattr(func, "__module__", None) or "torch"
    return f"torch.{name}" if module.startswith(("torch._C", "torch.functional")) else f"{module}.{name}"


def device_of(device: Any) -> torch.device | None:
    """Return `device` as a `torch.device`; a CUDA device without an index gets one."""
    if device is None:
        return None
    if isinstance(device, int):
        return torch.device("cuda", device)
    found = torch.device(device)
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def destination(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[torch.device | None, dict[str, Any]]:
    """Return the device that the arguments of `Tensor.to` name, if any, and the other arguments as keywords.

    Signatures: `(device, dtype, non_blocking, copy)`, `(dtype, non_blocking, copy)` or `(other, non_blocking, copy)`.
    """
    names = ["device", "dtype", "non_blocking", "copy"]
    if args and isinstance(args[0], torch.dtype):
        names = names[1:]
    if args and isinstance(args[0], Tensor):
        names = ["other", *names[2:]]
    named = dict(zip(names, args, strict=False)) | kwargs
    other = named.pop("other", None)
    if other is not None:
        named |= {"device": other.device, "dtype": other.dtype}
    target = device_of(named.pop("device", None))
    return target, {
        name: value for name, value in named.items() if value is not None and name != "non_blocking"
    }
