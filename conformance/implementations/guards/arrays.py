"""Conversion of arrays of other frameworks, in the results of an adapter, to tensors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.guards.exceptions import exception_text


def is_tensor(value: Any) -> bool:
    """Return True if the type of the value is a tensor type. `isinstance` would trust the value's `__class__`."""
    return issubclass(type(value), Tensor)


def as_tensor(name: str, value: Any, device: torch.device | None = None) -> Any:
    """Return a NumPy array or scalar, or an object with `__dlpack__`, as a tensor; return any other value unchanged.

    The tensor shares memory with the array if possible, so that a later change of the array is detected.

    Args:
        name: name of the field, for the message.
        value: the field's value.
        device: device of the inputs, to which an array is moved; None to leave it.

    Raises:
        ProtocolViolation: the array cannot be converted.
    """
    if is_tensor(value):
        return value
    is_numpy = issubclass(type(value), np.ndarray | np.generic)
    if not is_numpy and not hasattr(type(value), "__dlpack__"):
        return value
    try:
        tensor = _from_numpy(np.asarray(value)) if is_numpy else from_dlpack(value)
        return tensor if device is None else tensor.to(device)
    except Exception as error:
        raise ProtocolViolation(
            f"{name} is a {type(value).__name__} that torch cannot read ({exception_text(error)}): return a tensor or "
            "a NumPy array of floats, integers or bools"
        ) from error


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """Return the array as a tensor; read-only arrays, byte-swapped arrays and reversed views are copied."""
    usable = array.flags.writeable and array.dtype.isnative and all(step >= 0 for step in array.strides)
    return torch.from_numpy(array if usable else array.astype(array.dtype.newbyteorder("="), copy=True))
