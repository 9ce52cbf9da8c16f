"""Calls of a loss in a training loop of one's own, which reports them to the recorder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from tal_conformance.core.case_file import Content
from tal_conformance.core.circumstances import LOSS_OR_TRAINING, TRAINING
from tal_conformance.core.task import DETECT
from tal_conformance.training.capture import Rows, content_of, dtype_names, precision_of
from tal_conformance.training.circumstances import learning_rates
from tal_reference import Head, Hyperparameters

HALVES = (torch.float16, torch.bfloat16)
"""Dtypes of predictions under automatic mixed precision. Models in 16 bits without it have them, too."""


class LossName:
    """Object that identifies a loss of a training loop by its name."""


@dataclass(frozen=True, eq=False)
class LoopCall:
    """One call of a loss in a training loop; `capture.LossCall` documents what the recorder reads.

    Attributes:
        criterion: object that identifies the loss.
        feature_maps: feature maps (B, channels, H, W) of every level.
        annotations: annotation rows (N, 6 or more) of image, class, cx, cy, w, h.
        head: the head.
        hyperparameters: hyperparameters of assigner and loss.
        value: the value that is differentiated; None if it is unknown.
        task: name of the loss family.
        extras: further tensors of the task.
        precision: dtype of automatic mixed precision; None without it, or if it is unknown.
        error: exception that the loss raised, or the training after it; None if neither raised.
        raised_by: part of the training that raised `error`, as in `Circumstances.raised_by`; "" for the loss.
    """

    criterion: Any
    feature_maps: tuple[Tensor, ...]
    annotations: Tensor
    head: Head
    hyperparameters: Hyperparameters
    value: Tensor | None = None
    task: str = DETECT.name
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    precision: torch.dtype | None = None
    error: BaseException | None = None
    raised_by: str = ""

    @property
    def trains(self) -> bool:
        """True: a loop reports the calls that it wants to be recorded."""
        return True

    @property
    def total(self) -> Tensor | None:
        """The value that is differentiated, as a detached scalar tensor; None if it is unknown."""
        return None if self.value is None else torch.as_tensor(self.value).detach().sum()

    @property
    def columns(self) -> Rows:
        """The annotation rows, by column."""
        rows = self.annotations
        return Rows(rows[:, 0], rows[:, 1], rows[:, 2:])

    @property
    def images_and_classes(self) -> tuple[int, int]:
        """Number of images of the batch, and of classes of the head."""
        return len(self.feature_maps[0]), self.head.classes

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the dtypes of the predictions, without repetition."""
        return dtype_names(self.feature_maps)

    @property
    def unknown_precision(self) -> str:
        """Dtype of 16-bit predictions for which no automatic mixed precision was seen; "" otherwise."""
        dtype = self.feature_maps[0].dtype
        return dtype_names(self.feature_maps[:1])[0] if self.precision is None and dtype in HALVES else ""

    def detached(self) -> Self:
        """Return a copy of the call without autograd graph."""
        return replace(
            self,
            feature_maps=tuple(level.detach() for level in self.feature_maps),
            extras={name: tensor.detach() for name, tensor in self.extras.items()},
            value=self.total,
        )

    def content(self) -> Content:
        """Return the inputs as the content of a case file, on the CPU; see `capture.LossCall`."""
        maps = tuple(level.detach().cpu().clone() for level in self.feature_maps)
        extras = {name: tensor.detach().cpu().clone() for name, tensor in self.extras.items()}
        return content_of(
            maps, self.annotations.cpu().clone(), self.head, self.hyperparameters, self.precision,
            self.error is not None, self.task, extras,
        )  # fmt: skip


class Step:
    """One call of a loss that a training loop has begun: it ends with the next call, or with its `with` block.

    Attributes:
        call: the inputs.
        facts: epoch, optimizer and gradient scaler, if they are known.
    """

    def __init__(
        self,
        finish: Callable[[BaseException | None], None],
        call: LoopCall,
        facts: "StepFacts",
        total: Tensor | float | None = None,
    ) -> None:
        """Begin a step.

        Args:
            finish: function that ends the step, with the exception that left its block or None.
            call: the inputs.
            facts: epoch, optimizer and gradient scaler, if they are known.
            total: the value that is differentiated, if the loss was called already.
        """
        self.call, self.facts = call, facts
        self._finish, self._total, self._in_block = finish, total, False
        self._precisions: list[torch.dtype | None] = []
        self._see_precision()

    @property
    def total(self) -> Tensor | float | None:
        """The value that is differentiated; set it in the `with` block, or call `rec(..., total=...)`."""
        return self._total

    @total.setter
    def total(self, value: Tensor | float | None) -> None:
        self._see_precision()
        self._total = value

    def __enter__(self) -> Self:
        self._in_block = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._see_precision()
        self._finish(error)

    def _see_precision(self) -> None:
        self._precisions.append(precision_of(self.call.feature_maps))

    def finished(self, error: BaseException | None) -> LoopCall:
        """Return the call with its result, its precision, and the exception that ended the step.

        Automatic mixed precision is known at the begin of the step, where `total` is set, and at the end of the `with`
        block. If it was enabled at one of them in the dtype of the predictions, the loss was called with it.

        Args:
            error: exception that ended the step; None if it ended by itself.
        """
        seen = [precision for precision in self._precisions if precision is not None]
        fitting = [precision for precision in seen if precision is self.call.feature_maps[0].dtype]
        return replace(
            self.call,
            value=None if self.total is None or error is not None else torch.as_tensor(self.total),
            precision=next(iter(fitting + seen), None),
            error=error if isinstance(error, Exception) else None,
            raised_by=self._raised_by() if isinstance(error, Exception) else "",
        )

    def _raised_by(self) -> str:
        """Return the part of the training that raised the exception: the loss returned if its value is known."""
        if self.total is not None:
            return TRAINING
        return "" if self._in_block else LOSS_OR_TRAINING


@dataclass
class StepFacts:
    """Objects of a training loop from which the circumstances of a step are read.

    Attributes:
        epoch: epoch of the training.
        optimizer: optimizer, with parameter groups that have a learning rate.
        scaler: gradient scaler of automatic mixed precision.
        rates: learning rate of every parameter group at the begin of the step, as `read_rates` found them.
    """

    epoch: int | None = None
    optimizer: Any = None
    scaler: Any = None
    rates: tuple[float, ...] = ()

    def read_rates(self) -> None:
        """Read the learning rates from the optimizer, before a scheduler changes them."""
        self.rates = learning_rates(self.optimizer)


def loop_call(
    criterion: Any,
    feature_maps: Any,
    annotations: Any,
    head: Any,
    hyperparameters: Hyperparameters,
    task: str,
    extras: Mapping[str, Tensor] | None,
) -> LoopCall:
    """Return the call of a loss in a training loop; `Recording.__call__` documents the arguments.

    Annotation rows are copied: the loss and the loop may write to them.

    Raises:
        TypeError: an argument has another type.
    """
    maps = tuple(feature_maps)
    if not maps or not all(isinstance(level, Tensor) and level.dim() == 4 for level in maps):
        raise TypeError(f"expected feature maps (B, channels, H, W), got {type(feature_maps).__name__}")
    if not isinstance(annotations, Tensor) or annotations.dim() != 2 or annotations.shape[1] < 6:
        raise TypeError(
            f"expected a tensor of annotation rows (N, 6), got {getattr(annotations, 'shape', type(annotations))}"
        )
    if not isinstance(head, Head):
        raise TypeError(f"expected a tal_reference.Head, got {head!r:.100}")
    rows = annotations.detach().clone()
    return LoopCall(criterion, maps, rows, head, hyperparameters, task=task, extras=extras or {})
