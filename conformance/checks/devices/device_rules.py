"""PyTorch's rules about operations on tensors of different devices, a CUDA device and the CPU.

All tensors of an operation must be on one device, with these exceptions:

- an elementwise operation accepts one 0-dimensional tensor on the CPU as a number;
- a tensor on a CUDA device can be indexed by tensors on the CPU, but a CPU tensor not by tensors on a CUDA device;
- the value of a fill or mask may be a 0-dimensional tensor on the CPU;
- `copy_` copies between devices.

Operations are named as ATen names them in `__torch_dispatch__`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INDEXING = frozenset(
    {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
)
"""Operations whose second argument is a list of index tensors."""
COPIES = frozenset({"copy_", "copy", "_foreach_copy_", "_foreach_copy"})
"""Operations that accept tensors on different devices."""
VALUES = frozenset({"fill", "fill_", "masked_fill", "masked_fill_", "index_fill", "index_fill_"})
"""Operations whose last tensor may be a 0-dimensional tensor on the CPU."""
ELEMENTWISE = frozenset({
    "floor_divide", "floor_divide_", "true_divide_", "rsub", "heaviside_", "eq_", "ne_", "ge_", "le_", "gt_", "lt_",
    "__and__", "__iand__", "__or__", "__ior__", "mse_loss", "smooth_l1_loss", "special_xlogy", "copysign_",
})  # fmt: skip
"""Elementwise operations without the tag `pointwise`."""
STRICT = frozenset({
    "clamp", "clamp_", "clamp_max", "clamp_max_", "clamp_min", "clamp_min_", "equal", "gcd", "lcm", "gelu_backward",
    "igamma", "igamma_", "igammac", "igammac_", "logaddexp", "logaddexp2", "logit_backward", "nextafter", "nextafter_",
    "native_dropout_backward", "sigmoid_backward", "silu_backward", "tanh_backward", "threshold_backward",
})  # fmt: skip
"""Elementwise operations whose CUDA kernels require a single device nevertheless."""


@dataclass(frozen=True, eq=False)
class Argument:
    """One tensor among the arguments of an operation.

    Attributes:
        name: "argument 2", "argument 2, item 1" or the name of the keyword argument.
        tensor: the tensor.
        on_device: True if the tensor is on the simulated device.
    """

    name: str
    tensor: Tensor
    on_device: bool


def arguments_of(args: Sequence[Any], kwargs: dict[str, Any], kind: type) -> list[Argument]:
    """Return the tensors of a call, including those in lists.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        kind: class of the tensors on the simulated device.
    """
    found = []
    for name, value in [
        *((f"argument {number}", value) for number, value in enumerate(args, 1)),
        *kwargs.items(),
    ]:
        if isinstance(value, Tensor):
            found.append(Argument(name, value, isinstance(value, kind)))
        elif isinstance(value, (list, tuple)):
            found += [
                Argument(f"{name}, item {number}", item, isinstance(item, kind))
                for number, item in enumerate(value, 1)
                if isinstance(item, Tensor)
            ]
    return found


def forbidden(func: Any, arguments: Sequence[Argument]) -> list[Argument]:
    """Return the arguments on the CPU that the operation does not accept together with arguments on the device.

    Args:
        func: an ATen operation, as passed to `__torch_dispatch__`.
        arguments: tensors of the call.
    """
    on_cpu = [argument for argument in arguments if not argument.on_device]
    name = func.overloadpacket.__name__
    if not on_cpu or len(on_cpu) == len(arguments) or name in COPIES:
        return []
    if name in INDEXING:
        return _of_indexing(arguments, on_cpu)
    if name == "where":
        return [argument for argument in on_cpu if argument.tensor.dim() > 0]
    if len(on_cpu) > 1 or on_cpu[0].tensor.dim() > 0 or _is_written(func, on_cpu[0]):
        return on_cpu
    elementwise = (torch.Tag.pointwise in func.tags or name in ELEMENTWISE) and name not in STRICT
    value = name in VALUES and on_cpu[0] is arguments[-1]
    return [] if elementwise or value else on_cpu


def _of_indexing(arguments: Sequence[Argument], on_cpu: list[Argument]) -> list[Argument]:
    """Return the arguments on the CPU that an indexing operation does not accept.

    Indices may be on the CPU if the indexed tensor is on the device; a value on the CPU must be 0-dimensional.
    """
    if not arguments[0].on_device:
        return [argument for argument in on_cpu if argument is arguments[0] or argument.tensor.dim() > 0]
    return [argument for argument in on_cpu if argument.name == "argument 3" and argument.tensor.dim() > 0]


def _is_written(func: Any, argument: Argument) -> bool:
    """Return True if the operation modifies the argument in place."""
    for number, formal in enumerate(func._schema.arguments, 1):
        if argument.name in (f"argument {number}", formal.name):
            return formal.alias_info is not None and formal.alias_info.is_write
    return False
