"""Implementations on devices that cannot compute in float64, such as MPS: they run there, and are judged on the CPU.

The expectation needs float64. The adapter receives copies of its arguments on the device, and its results are moved
back; the gradients flow through both moves.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.devices import lacks_float64
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.protocol import Implementation

METHODS = ("assign", "loss", "make")
"""Methods of the protocol that compute."""


class MovedAdapter(SimpleNamespace):
    """An adapter whose methods compute on another device than their arguments are on.

    Attributes:
        original: the adapter itself.
    """

    original: Any


def on_device(implementation: Implementation, device: str) -> Implementation:
    """Return the implementation as it is tested on a device: with moved arguments, if the device lacks float64.

    Raises:
        ProtocolViolation: the implementation runs in a process of its own, which would compute on the CPU.
    """
    return moved(implementation, torch.device(device)) if lacks_float64(device) else implementation


def can_be_moved(implementation: Implementation, device: str) -> bool:
    """Return True if the implementation can be tested on a device."""
    return not (implementation.in_subprocess and lacks_float64(device))


def moved(implementation: Implementation, device: torch.device) -> Implementation:
    """Return the implementation with every call moved to `device` and its results moved back, in float32 alone.

    Raises:
        ProtocolViolation: the implementation runs in a process of its own.
    """
    if implementation.in_subprocess:
        raise ProtocolViolation(
            f"{implementation.name} runs in a process of its own, which --device {device.type} does not support: "
            "test the installed release or an adapter without --isolate"
        )
    factory = implementation.factory
    return replace(
        implementation,
        adapter=_moved_adapter(implementation.adapter, device),
        factory=None if factory is None else lambda: _moved_adapter(factory(), device),
        precisions=(),  # which operations autocast computes in 16 bits is known of the CPU and CUDA
    )


def at_home(implementation: Implementation) -> Implementation:
    """Return the implementation as it runs on the device of its arguments."""
    adapter = implementation.adapter
    if not isinstance(adapter, MovedAdapter):
        return implementation
    return replace(implementation, adapter=adapter.original, factory=None)


def _moved_adapter(adapter: Any, device: torch.device) -> MovedAdapter:
    methods = {name: MovedCall(getattr(adapter, name), device) for name in METHODS if hasattr(adapter, name)}
    return MovedAdapter(original=adapter, **methods)


class MovedCall:
    """A function or criterion that computes on `device`; so does a criterion that it returns.

    Args:
        called: the function or criterion, which provides all other attributes, such as `update`.
        device: the device.
    """

    def __init__(self, called: Callable[..., Any], device: torch.device) -> None:
        self._called, self._device = called, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._called, name)

    def __call__(self, *arguments: Any) -> Any:
        """Call with the arguments on the device, and return the result on the CPU."""
        moved_arguments = (_map_tensors(value, lambda tensor: tensor.to(self._device)) for value in arguments)
        result = self._called(*moved_arguments)
        if callable(result) and not isinstance(result, Tensor):
            return MovedCall(result, self._device)
        return _map_tensors(result, lambda tensor: _back(tensor, self._device))


def _back(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type != device.type:
        raise ProtocolViolation(
            f"a result is on {tensor.device}, expected {device.type}, the device of the inputs"
        )
    return tensor.cpu()


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with every tensor in its tuples, lists, mappings and dataclasses changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(part, change) for part in value)
    if isinstance(value, Mapping):
        return {name: _map_tensors(part, change) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _map_tensors(getattr(value, field.name), change) for field in fields(value)}
        return replace(value, **parts)
    return value
