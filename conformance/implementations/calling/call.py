"""One call of an implementation, its results, and the caller that makes the call and detects side effects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
from tal_conformance.core.outcome_tensors import BRANCHES, equal_tensors, tensors_of
from tal_conformance.core.task import task_of
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.guards.plain_copies import PlainCopies
from tal_conformance.implementations.guards.side_effects import (
    ReturnedTensors,
    SideEffectError,
    check_inputs_unchanged,
)
from tal_conformance.implementations.guards.torch_state import unchanged_torch_state
from tal_conformance.implementations.kept import KeptAdapter
from tal_conformance.implementations.validation import Findings, check_loss
from tal_reference import Head, Hyperparameters

GRADIENT = "gradients."
"""Prefix of the gradients among an answer's tensors; the number of the feature map follows."""
Maps = tuple[Tensor, ...]


class Mode(StrEnum):
    """The autograd mode in which a call is made."""

    TRAIN = "train"
    NO_GRAD = "no_grad"
    INFERENCE = "inference_mode"


@dataclass(frozen=True)
class Call:
    """The arguments of one call.

    Attributes:
        kind: "loss", or "assign" to call the assigner alone.
        head: head of the batch.
        hyperparameters: hyperparameters of the batch.
        tensors: arguments by name: "level.0", "level.1", ... and "annotations" for a loss; the fields of
            `AssignerInputs` for an assigner.
        autocast: dtype of automatic mixed precision; None if it is off.
        mode: autograd mode.
    """

    kind: str
    head: Head
    hyperparameters: Hyperparameters
    tensors: Mapping[str, Tensor]
    autocast: torch.dtype | None = None
    mode: Mode = Mode.TRAIN

    @property
    def maps(self) -> Maps:
        """The arguments "level.0", "level.1", ... of a loss: the feature maps."""
        count = sum(name.startswith("level.") for name in self.tensors)
        return tuple(self.tensors[f"level.{level}"] for level in range(count))

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return next(iter(self.tensors.values())).device


def call_of(batch: Batch, inputs: AssignerInputs | None, mode: Mode = Mode.TRAIN) -> Call:
    """Return the arguments of the call of an implementation on a batch.

    Args:
        batch: the batch.
        inputs: inputs of the assigner, to call the assigner alone; None to call the loss.
        mode: autograd mode.
    """
    autocast = batch.dtype if batch.autocast else None
    if inputs is not None:
        tensors = {name: value for name, value in vars(inputs).items() if isinstance(value, Tensor)}
        return Call("assign", inputs.head, inputs.hyperparameters, tensors, autocast, mode)
    levels = {f"level.{level}": values for level, values in enumerate(batch.feature_maps)}
    tensors = {**levels, "annotations": batch.annotations}
    return Call("loss", batch.head, batch.hyperparameters, tensors, autocast, mode)


@dataclass(frozen=True)
class Answer:
    """The results of one call.

    Attributes:
        call: index of the call.
        how: description of the call, which messages append to "called", such as "with the total times 2".
        tensors: results by name: "total", "items", "gradients.0", ... of a loss, without gradients of frozen feature
            maps; "Assignment.labels", "Stages.overlap", "AssignerInputs.scores", ... if exposed by the implementation;
            "branches.one2one.items", ... of the branches of an end-to-end loss, if exposed.
        failure: the problem, as a sentence without its subject ("raised ..."); None if the call succeeded.
        details: traceback if the implementation raised; else None.
    """

    call: int
    how: str
    tensors: Mapping[str, Tensor]
    failure: str | None = None
    details: str | None = None


class Caller:
    """Caller of one implementation, which checks each call for side effects.

    Args:
        adapter: the implementation.
        calls: the calls to make, by index.
    """

    def __init__(self, adapter: KeptAdapter, calls: Sequence[Call]) -> None:
        self.adapter, self.calls = adapter, calls
        self._returned = ReturnedTensors()

    def leaves(self, call: int = 0) -> Maps:
        """Return copies of the feature maps of the call with index `call`; the copies require gradients."""
        return tuple(level.detach().clone().requires_grad_() for level in self.calls[call].maps)

    def forward(
        self,
        maps: Maps,
        call: int = 0,
        annotations: Tensor | None = None,
        through: Callable[[Callable[..., Loss]], Callable[..., Loss]] | None = None,
    ) -> Loss:
        """Call the loss and return its result.

        Args:
            maps: feature maps with the values of the call's feature maps, perhaps in another memory layout.
            call: index of the call.
            annotations: annotation rows with the values of the call's rows; None for a copy of the call's rows.
            through: decorator that is applied to the loss before the call.

        Raises:
            ProtocolViolation: the result does not follow the protocol.
            SideEffectError: an input, its `.grad` or an earlier result was changed.
            StateChanged: torch's global state was changed.
        """
        own = self.calls[call]
        rows = own.tensors["annotations"].clone() if annotations is None else annotations
        gradients = [level.grad if level.is_leaf else None for level in maps]
        copies = [None if gradient is None else gradient.clone() for gradient in gradients]
        function = self.adapter.loss if through is None else through(self.adapter.loss)
        self._returned.begin()
        with unchanged_torch_state(), _autocast(own):
            returned = function(maps, rows, own.head, own.hyperparameters)
            loss = PlainCopies(self._returned, own.device).loss(returned, maps)
        after = {f"level.{level}": values.detach() for level, values in enumerate(maps)}
        check_inputs_unchanged(own.tensors, after | {"annotations": rows.detach()})
        _check_grad_attributes(maps, gradients, copies)
        learns = torch.is_grad_enabled() and any(level.requires_grad for level in maps)
        task = task_of(own.head, rows.shape[1], len(maps))
        loss = check_loss(loss, maps, task, learns, Findings())
        self._returned.check()
        return loss

    def assign(
        self,
        tensors: Mapping[str, Tensor] | None = None,
        call: int = 0,
        through: Callable[[Callable[..., Assignment]], Callable[..., Assignment]] | None = None,
    ) -> dict[str, Tensor]:
        """Call the assigner and return its result.

        Args:
            tensors: inputs with the values of the call's inputs; None for copies of the call's inputs.
            call: index of the call.
            through: decorator that is applied to the assigner before the call.

        Raises:
            ProtocolViolation, SideEffectError, StateChanged: as `forward`.
        """
        own = self.calls[call]
        given = {name: tensor.clone() for name, tensor in own.tensors.items()} if tensors is None else tensors
        function = self.adapter.assign if through is None else through(self.adapter.assign)
        inputs = AssignerInputs(**given, head=own.head, hyperparameters=own.hyperparameters)
        self._returned.begin()
        with unchanged_torch_state(), _autocast(own):
            assignment = PlainCopies(self._returned, own.device).assignment(function(inputs))
        check_inputs_unchanged(own.tensors, given)
        if not isinstance(assignment, Assignment):
            raise ProtocolViolation(f"assign returned a {type(assignment).__name__}, expected an Assignment")
        self._returned.check()
        return copied(_assignment_tensors(assignment))

    def train(self, how: str, maps: Maps | None = None, call: int = 0, **options: Any) -> Answer:
        """Call the loss, differentiate its total with respect to the feature maps, and return the results.

        Args:
            how: description of the call, as in `Answer`.
            maps: feature maps, as in `forward`; None for `leaves`.
            call: index of the call.
            options: further arguments of `forward`.
        """
        maps = self.leaves(call) if maps is None else maps
        loss = self.forward(maps, call, **options)
        return Answer(call, how, answer_tensors(loss, gradients_of(loss.total.sum(), maps)))

    def plain(self, how: str, call: int = 0) -> Answer:
        """Make an ordinary call in the call's own autograd mode, and return the results.

        `how` describes the call, as in `Answer`.
        """
        own = self.calls[call]
        with _mode(own.mode):
            if own.kind == "assign":
                return Answer(call, how, self.assign(call=call))
            if own.mode is Mode.TRAIN:
                return self.train(how, call=call)
            maps = tuple(level.clone() for level in own.maps)
            return Answer(call, how, copied(answer_tensors(self.forward(maps, call), {})))


def gradients_of(total: Tensor, maps: Maps, **options: Any) -> dict[str, Tensor]:
    """Return the gradients of the total loss on all feature maps that require gradients, by names as in `Answer`.

    Args:
        total: scalar total of the loss.
        maps: feature maps of the levels.
        options: further arguments of `torch.autograd.grad`.

    Raises:
        ProtocolViolation: a feature map has no gradient.
    """
    places = [level for level, values in enumerate(maps) if values.requires_grad]
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        total, [maps[level] for level in places], allow_unused=True, **options
    )
    return named_gradients(dict(zip(places, gradients, strict=True)))


def named_gradients(gradients: Mapping[int, Tensor | None]) -> dict[str, Tensor]:
    """Return a dict from names ("gradients.0", ...) to the gradients of the levels with these indices.

    Raises:
        ProtocolViolation: a feature map has no gradient.
    """
    named = {}
    for level, gradient in gradients.items():
        if gradient is None:
            raise ProtocolViolation(
                f"Loss.total has no gradient on feature map {level} (LOSS-GRAD-1: zero, not None)"
            )
        named[f"{GRADIENT}{level}"] = gradient
    return named


def answer_tensors(loss: Loss, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a dict from names to the tensors of a loss and the given gradients, in the form of `Answer.tensors`."""
    items: Tensor | None = loss.items
    shown = {} if items is None else {"items": items}
    return copied({"total": loss.total.sum(), **shown, **gradients, **_visible(loss)})


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous, detached copies of tensors; the copies are usable outside inference mode."""
    with torch.inference_mode(False):
        return {name: torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor.detach())
                for name, tensor in tensors.items()}  # fmt: skip


@contextmanager
def _mode(mode: Mode) -> Iterator[None]:
    """Set an autograd mode while the `with` block runs."""
    with ExitStack() as stack:
        if mode is Mode.NO_GRAD:
            stack.enter_context(torch.no_grad())
        if mode is Mode.INFERENCE:
            stack.enter_context(torch.inference_mode())
        yield


def in_mode(call: Call, mode: Mode) -> Call:
    """Return a copy of the call with another autograd mode."""
    return replace(call, mode=mode)


@contextmanager
def _autocast(call: Call) -> Iterator[None]:
    """Turn on automatic mixed precision while the `with` block runs, if the call uses it."""
    enabled = call.autocast is not None
    with torch.autocast(call.device.type, dtype=call.autocast or torch.bfloat16, enabled=enabled):
        yield


def _check_grad_attributes(maps: Maps, before: list[Tensor | None], copies: list[Tensor | None]) -> None:
    """Raise if the `.grad` of a feature map differs from its value before the call.

    Raises:
        SideEffectError: the attribute was written, cleared or changed in place.
    """
    for level, (values, old, copy) in enumerate(zip(maps, before, copies, strict=True)):
        now = values.grad if values.is_leaf else None
        if now is not old or (now is not None and copy is not None and not equal_tensors(now, copy)):
            raise SideEffectError(f"changed the .grad of feature map {level}, which belongs to the trainer")


def _visible(loss: Loss) -> dict[str, Tensor]:
    """Return the tensors of the assigner (inputs, outputs, stages) that the loss exposes, by name.

    The tensors of a branch, with its total and items, have names that begin with "branches." and the branch's name.
    """
    named = {} if loss.assignment is None else _assignment_tensors(loss.assignment)
    named |= {} if loss.inputs is None else tensors_of(loss.inputs, AssignerInputs.__name__)
    for branch, part in (loss.branches or {}).items():
        items: Tensor | None = part.items
        own = {"total": part.total.sum(), **({} if items is None else {"items": items}), **_visible(part)}
        named |= {f"{BRANCHES}.{branch}.{name}": tensor for name, tensor in own.items()}
    return named


def _assignment_tensors(assignment: Assignment) -> dict[str, Tensor]:
    named = tensors_of(assignment, Assignment.__name__)
    if assignment.stages is not None:
        named |= tensors_of(assignment.stages, Stages.__name__)
    return named
