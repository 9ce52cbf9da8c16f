"""What Python's calls of PyTorch's functions ask for: which device, and where their results belong."""

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
"""Functions that make a tensor on the CPU unless they are told otherwise, whatever their other arguments are on."""
CONVERSIONS = frozenset({torch.as_tensor, torch.asarray})
"""Functions that make a tensor of data, and leave a tensor as it is."""
MOVES: dict[str, tuple[torch.device, ...]] = {
    "Tensor.to": (),
    "Tensor.type_as": (),
    "Tensor.cpu": (CPU,),
    "Tensor.cuda": (DEVICE,),
}
"""Methods that move a tensor, with the device that they move it to where that is no argument."""


@dataclass
class Call:
    """A call of one of PyTorch's functions from Python, while it runs.

    Attributes:
        name: as one writes it: `torch.where`, `Tensor.to`.
        caller: the frame that called it.
        target: the device that its keyword `device` names; None if it names none.
        follows: what it makes of nothing belongs on the device, where its arguments are (`torch.cartesian_prod`).
    """

    name: str
    caller: FrameType | None
    target: torch.device | None = None
    follows: bool = False


def written(func: Callable[..., Any]) -> str:
    """How one writes a function of PyTorch: `torch.where`, `Tensor.to`."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # of a property
        return f"Tensor.{getattr(getattr(func, '__self__', None), '__name__', name)}"
    if hasattr(func, "__objclass__") or getattr(func, "__qualname__", "").startswith("Tensor."):
        return f"Tensor.{name}"
    module = getattr(func, "__module__", None) or "torch"
    return f"torch.{name}" if module.startswith(("torch._C", "torch.functional")) else f"{module}.{name}"


def device_of(device: Any) -> torch.device | None:
    """The device that an argument names, CUDA devices always with their index."""
    if device is None:
        return None
    if isinstance(device, int):
        return torch.device("cuda", device)
    found = torch.device(device)
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def destination(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[torch.device | None, dict[str, Any]]:
    """What the arguments of `Tensor.to` ask for: a device, if they name one, and the other arguments as keywords.

    They are `(device, dtype, non_blocking, copy)`, `(dtype, non_blocking, copy)` or `(other, non_blocking, copy)`.
    """
    names = ["device", "dtype", "non_blocking", "copy"]
    if args and isinstance(args[0], torch.dtype):
        names = names[1:]
    if args and isinstance(args[0], Tensor):
        names = ["other", *names[2:]]
    asked = dict(zip(names, args, strict=False)) | kwargs
    other = asked.pop("other", None)
    if other is not None:
        asked |= {"device": other.device, "dtype": other.dtype}
    target = device_of(asked.pop("device", None))
    return target, {
        name: value for name, value in asked.items() if value is not None and name != "non_blocking"
    }
