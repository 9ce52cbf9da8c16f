"""Adapters whose results are not what they seem: other types, other answers at every question, shared memory."""

import threading
import time
from dataclasses import replace
from typing import Any

import torch
from misbehaving import RIGHT, Double
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss


class AnswersForItself(Tensor):
    """A tensor that holds ones and answers every question as the right tensor would."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        right = getattr(args[0], "right", None) if args else None
        return super().__torch_function__(
            func, types, args if right is None else (right, *args[1:]), kwargs or {}
        )


class LyingTensors(Double):
    """Wrong scores in a tensor whose methods see the right ones."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        lie = torch.ones_like(right.scores).as_subclass(AnswersForItself)
        lie.right = right.scores  # type: ignore[attr-defined]
        return replace(right, scores=lie)


class Computed(Tensor):
    """A tensor without memory: its values come from Python."""

    @staticmethod
    def __new__(cls: type["Computed"], like: Tensor) -> "Computed":
        return Tensor._make_wrapper_subclass(cls, like.size(), dtype=like.dtype)  # type: ignore[no-any-return]

    def __init__(self, like: Tensor) -> None:
        self.like = like

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(arg.like if isinstance(arg, Computed) else arg for arg in args), **(kwargs or {}))


class ComputedTensors(Double):
    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=Computed(right.scores))


class Pretender:
    """Not a tensor, but `isinstance` says so."""

    def __init__(self, right: Tensor) -> None:
        self.right = right

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        return Tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.right, name)


class PretendsToBeATensor(Double):
    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=Pretender(right.scores))  # type: ignore[arg-type]


class Forgetful(Assignment):
    """Right scores at the first access, and others at every later one."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name != "scores":
            return value
        count = self.__dict__["count"] = self.__dict__.get("count", 0) + 1
        return value + 1 if count == 1 else value


class AnswersOnce(Double):
    """Its first answer is wrong, and every later one right."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return Forgetful(right.labels, right.boxes, right.scores, right.foreground, right.truth_index)


class SharesMemory(Double):
    """Right, with two results in one memory: allowed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        both = torch.stack((right.labels, right.truth_index))
        return replace(right, labels=both[0], truth_index=both[1])


class ExpandsResults(Double):
    """Right, with boxes and scores in views of larger tensors: allowed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(
            right,
            scores=right.scores.repeat_interleave(2, -1)[..., ::2],
            boxes=right.boxes.transpose(1, 2).contiguous().transpose(1, 2),
        )


class ReturnsParameters(Double):
    """Right, as a subclass of Tensor without code of its own: allowed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=torch.nn.Parameter(right.scores, requires_grad=False))


class ReturnsItsInput(Double):
    """The input scores as target scores."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=inputs.scores)


class ChangesFromAThread(Double):
    """Wrong scores, made right by a thread after the return."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        wrong = right.scores + 1

        def repair() -> None:
            time.sleep(0.05)
            wrong.copy_(right.scores)

        threading.Thread(target=repair, daemon=True).start()
        return replace(right, scores=wrong)


class LyingLoss(Double):
    """Items ten times too large, in a tensor whose methods see the right ones."""

    assign = None  # type: ignore[assignment]

    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        right = RIGHT.loss(feature_maps, annotations, head, hyperparameters)
        lie = (10 * right.items).as_subclass(AnswersForItself)
        lie.right = right.items  # type: ignore[attr-defined]
        return Loss(right.total, lie)
