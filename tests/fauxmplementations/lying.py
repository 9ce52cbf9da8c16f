"""Adapters with deceptive results: tensor subclasses, results that change later, and shared memory."""

import threading
import time
from dataclasses import replace
from typing import Any

import torch
from misbehaving import RIGHT, Double
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss


class AnswersForItself(Tensor):
    """A tensor of ones whose methods return the results of the correct tensor."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        right = getattr(args[0], "right", None) if args else None
        return super().__torch_function__(
            func, types, args if right is None else (right, *args[1:]), kwargs or {}
        )


class LyingTensors(Double):
    """Returns wrong scores in a tensor whose methods return the correct results."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        lie = torch.ones_like(right.scores).as_subclass(AnswersForItself)
        lie.right = right.scores  # type: ignore[attr-defined]
        return replace(right, scores=lie)


class Computed(Tensor):
    """A tensor subclass without memory, whose values are computed in Python."""

    @staticmethod
    def __new__(cls: type["Computed"], like: Tensor) -> "Computed":
        return Tensor._make_wrapper_subclass(cls, like.size(), dtype=like.dtype)  # type: ignore[no-any-return]

    def __init__(self, like: Tensor) -> None:
        self.like = like

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(arg.like if isinstance(arg, Computed) else arg for arg in args), **(kwargs or {}))


class ComputedTensors(Double):
    """Returns a tensor type that computes its values in Python."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=Computed(right.scores))


class Pretender:
    """An object that is not a tensor, but passes `isinstance(_, Tensor)`."""

    def __init__(self, right: Tensor) -> None:
        self.right = right

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        return Tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.right, name)


class PretendsToBeATensor(Double):
    """Returns an object that is not a tensor, but passes `isinstance(_, Tensor)`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=Pretender(right.scores))  # type: ignore[arg-type]


class Forgetful(Assignment):
    """An assignment with correct scores at the first access, and wrong scores later."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name != "scores":
            return value
        count = self.__dict__["count"] = self.__dict__.get("count", 0) + 1
        return value + 1 if count == 1 else value


class AnswersOnce(Double):
    """Returns a wrong result at the first call, and correct results later."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return Forgetful(right.labels, right.boxes, right.scores, right.foreground, right.truth_index)


class SharesMemory(Double):
    """Returns correct results, two of which share memory; this is allowed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        both = torch.stack((right.labels, right.truth_index))
        return replace(right, labels=both[0], truth_index=both[1])


class ExpandsResults(Double):
    """Returns correct results, with boxes and scores as views of larger tensors; this is allowed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(
            right,
            scores=right.scores.repeat_interleave(2, -1)[..., ::2],
            boxes=right.boxes.transpose(1, 2).contiguous().transpose(1, 2),
        )


class ReturnsParameters(Double):
    """Returns correct results as `Parameter`, a subclass of Tensor without own code; this is allowed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=torch.nn.Parameter(right.scores, requires_grad=False))


class ReturnsItsInput(Double):
    """Returns the input scores as target scores."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=inputs.scores)


class ChangesFromAThread(Double):
    """Returns wrong scores, which a thread corrects after the return."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        wrong = right.scores + 1

        def repair() -> None:
            time.sleep(0.05)
            wrong.copy_(right.scores)

        threading.Thread(target=repair, daemon=True).start()
        return replace(right, scores=wrong)


class LyingLoss(Double):
    """A loss with items ten times too large, in a tensor whose methods return the correct results."""

    assign = None  # type: ignore[assignment]

    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        right = RIGHT.loss(feature_maps, annotations, head, hyperparameters)
        lie = (10 * right.items).as_subclass(AnswersForItself)
        lie.right = right.items  # type: ignore[attr-defined]
        return Loss(right.total, lie)
