"""Copy the results of an implementation into plain tensors, before anything is compared.

A subclass of `torch.Tensor` can return different values on each access, and so can a subclass of `Assignment`. A result
may share memory with an input or with another result, and may be changed after it was returned. Therefore each field is
read once, and each tensor is copied once, without running code of the implementation. Arrays of other frameworks become
tensors first; arrays of other libraries than NumPy run the implementation's code, their `__dlpack__`.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.given_gradients import GivenGradients
from tal_conformance.implementations.guards.arrays import as_tensor, is_tensor
from tal_conformance.implementations.guards.side_effects import ReturnedTensors

TRUSTED: set[type] = {Tensor}
"""Types of tensors whose own operations copy them: `Tensor`, and the simulated device's tensors."""


class PlainCopies:
    """Copies of the results of an implementation for one batch.

    Attributes:
        memory: stores every returned tensor with its copy, so that a later change is detected.
        device: device of the inputs, to which arrays of other frameworks are moved.
    """

    def __init__(self, memory: ReturnedTensors, device: torch.device) -> None:
        self.memory, self.device = memory, device

    def assignment(self, value: Any) -> Any:
        """Return a copy of `value` with its stages if it is an `Assignment`; otherwise return it unchanged."""
        return self._part(value, Assignment, lambda name, part: self._part(part, Stages, self._copy))

    def inputs(self, value: Any) -> Any:
        """Return a copy of `value` if it is an `AssignerInputs`; otherwise return it unchanged."""
        return self._part(value, AssignerInputs, self._copy)

    def loss(self, value: Any, feature_maps: tuple[Tensor, ...]) -> Any:
        """Return a copy of `value`, whose total keeps its graph, if it is a `Loss`; otherwise return it unchanged.

        The copy of a loss with given gradients has a total whose graph returns them.

        Args:
            value: the value that an adapter returned.
            feature_maps: feature maps of the call.
        """
        if not isinstance(value, Loss):
            return value
        total, items, assignment, inputs = value.total, value.items, value.assignment, value.inputs
        gradients = value.gradients
        total = plain("Loss.total", as_tensor("Loss.total", total, self.device))
        if gradients is not None and len(gradients):
            total, gradients = self._with_gradients(total, gradients, feature_maps), None
        branches = self._branches(value.branches, feature_maps)
        return Loss(
            total, self._items(items), self.assignment(assignment), self.inputs(inputs), gradients, branches
        )

    def _with_gradients(self, total: Any, gradients: Any, feature_maps: tuple[Tensor, ...]) -> Any:
        """Return the sum of a total without a graph, with a graph that returns the given gradients.

        Raises:
            ProtocolViolation: the total has a graph of its own, or the gradients do not fit the feature maps.
        """
        if not is_tensor(total):
            return total
        if total.requires_grad:
            raise ProtocolViolation(
                "Loss.gradients is set, but Loss.total requires gradients: return one of the two"
            )
        if len(gradients) != len(feature_maps):
            raise ProtocolViolation(
                f"Loss.gradients has {len(gradients)} elements, expected {len(feature_maps)}: one for each feature map"
            )
        copies = []
        for level, (value, values) in enumerate(zip(gradients, feature_maps, strict=True)):
            name = f"Loss.gradients[{level}]"
            gradient = self._copy(name, value)
            if not is_tensor(gradient) or gradient.shape != values.shape or not gradient.is_floating_point():
                found = (
                    f"{tuple(gradient.shape)} {gradient.dtype}" if is_tensor(gradient) else f"{value!r:.80}"
                )
                raise ProtocolViolation(f"{name} is {found}, expected {tuple(values.shape)} of floats")
            copies.append(gradient)
        return GivenGradients.apply(total.sum(), copies, *feature_maps)

    def _branches(self, value: Any, feature_maps: tuple[Tensor, ...]) -> Any:
        """Return a copy of the losses of the branches, if `value` is a dict of them; otherwise return it unchanged."""
        if not isinstance(value, dict):
            return value
        return {name: self.loss(loss, feature_maps) for name, loss in value.items()}

    def _items(self, value: Any) -> Any:
        """Return a copy of the loss items; if the items require gradients (an error), so does the copy."""
        value = as_tensor("Loss.items", value, self.device)
        copy = self._copy("Loss.items", value)
        if is_tensor(value) and plain("Loss.items", value).requires_grad:
            copy.requires_grad_()
        return copy

    def gradient(self, level: int, value: Tensor) -> Tensor:
        """Return a copy of the gradient on a feature map."""
        copy: Tensor = self._copy(f"the gradient on feature map {level}", value)
        return copy

    def _part(self, value: Any, kind: type, others: Callable[[str, Any], Any]) -> Any:
        """Return a copy of a dataclass of class `kind`; `others` copies the fields that are not tensors."""
        if not isinstance(value, kind):
            return value
        copied = {}
        for field in fields(kind):
            name = f"{kind.__name__}.{field.name}"
            content = as_tensor(name, getattr(value, field.name), self.device)
            copied[field.name] = self._copy(name, content) if is_tensor(content) else others(name, content)
        return kind(**copied)

    def _copy(self, name: str, value: Any) -> Any:
        """Return a copy of a tensor or array without its history; any other value is returned unchanged."""
        value = as_tensor(name, value, self.device)
        if not is_tensor(value):
            return value
        alias = plain(name, value).detach()
        copy = alias.clone()
        self.memory.keep(name, alias, copy)
        return copy


def plain(name: str, value: Any) -> Any:
    """Return the tensor as a plain `Tensor` with the same memory and graph; return any other value unchanged.

    Args:
        name: name of the field, for the message.
        value: a tensor of any type, or another value.

    Raises:
        ProtocolViolation: the tensor has no memory, because its type computes the values by code of its own.
    """
    if not is_tensor(value) or type(value) in TRUSTED:
        return value
    if torch._C._dispatch_keys(value).has(torch._C.DispatchKey.Python):
        raise ProtocolViolation(
            f"{name} is a {type(value).__name__}, a tensor type that computes its values in __torch_dispatch__: "
            "return a plain torch.Tensor"
        )
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(value, Tensor)
