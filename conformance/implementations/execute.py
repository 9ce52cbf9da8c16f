"""Run an implementation on a batch: what it showed, or how it failed. Nothing is judged here."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, LossOutcome, Outcome
from tal_conformance.core.outcome_tensors import tensors_of
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.guards.exceptions import exceptions_as_failures
from tal_conformance.implementations.guards.side_effects import (
    check_inputs_unchanged,
    forbid_side_effects,
    returned_tensors,
)
from tal_conformance.implementations.guards.torch_state import unchanged_torch_state
from tal_conformance.implementations.protocol import (
    Implementation,
    check_assignment,
    check_inputs,
    check_loss,
)
from tal_reference import ground_truths
from tal_reference.loss import read_predictions


@dataclass
class Stopwatch:
    """How long the implementations under test computed: their calls and their gradients, nothing of the suite's.

    Attributes:
        seconds: in all calls of this process.
    """

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what passes until the block ends, also if it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


calls = Stopwatch()
"""Of this process."""


def assigner_inputs(batch: Batch) -> AssignerInputs:
    """What an assigner reads of a batch, decoded by the reference in the batch's dtype (PRE-*, ANC-1, DEC-*, ANN-*).

    Predicted boxes come in the ground truths' float32, whatever the batch's dtype: so official code hands them over.
    """
    predictions = read_predictions(batch.feature_maps, batch.head)
    truths = ground_truths(batch.annotations, batch.images, batch.size)
    labels = pad_sequence([image.labels.float() for image in truths], batch_first=True)  # (B, M)
    boxes = pad_sequence([image.boxes for image in truths], batch_first=True)  # (B, M, 4)
    real = pad_sequence([image.real.float() for image in truths], batch_first=True)  # (B, M)
    return AssignerInputs(
        scores=predictions.logits.detach().sigmoid(),
        boxes=(predictions.boxes * predictions.anchors.strides).to(boxes.dtype),
        anchors=predictions.anchors.pixels,
        strides=predictions.anchors.strides,
        labels=labels[..., None],
        truth_boxes=boxes,
        truth_mask=real[..., None],
        head=batch.head,
        hyperparameters=batch.hyperparameters,
    )


def execute(
    implementation: Implementation, batch: Batch, each_term: bool = False, alone: bool = False
) -> Outcome:
    """Run `implementation` on `batch`, which it can neither change nor keep.

    Args:
        implementation: what is run.
        batch: what it is run on.
        each_term: differentiate box, cls and dfl one by one as well, where its total is of three.
        alone: its assigner alone, on the reference's inputs, whether it has a loss or not.

    Raises:
        ImplementationFailed: it raised, or returned something that the protocol does not allow.
    """
    own = assigner_inputs(batch)
    with (
        exceptions_as_failures(),
        unchanged_torch_state(),
        nullcontext() if implementation.in_subprocess else forbid_side_effects(),
        torch.autocast(batch.device.type, dtype=batch.dtype, enabled=batch.autocast),
    ):
        outcome = _observe(implementation, batch, own, each_term, alone)
        memory = returned_tensors(implementation.identity)
        memory.check()
        memory.keep(_shown(outcome))
        return outcome


def _observe(
    implementation: Implementation, batch: Batch, own: AssignerInputs, each_term: bool, alone: bool
) -> Outcome:
    if "loss" in implementation.capabilities and not alone:
        return _observe_loss(implementation, batch, own, each_term)
    return Outcome(own, False, _observe_assigner(implementation, own), None)


def _shown(outcome: Outcome) -> dict[str, Tensor]:
    """The tensors that the implementation itself returned, by name."""
    shown = {} if outcome.loss is None else {"Loss.items": outcome.loss.items}
    parts = [] if outcome.assignment is None else [outcome.assignment, outcome.assignment.stages]
    for part in parts:
        shown |= {} if part is None else tensors_of(part, type(part).__name__)
    return shown


def _observe_assigner(implementation: Implementation, inputs: AssignerInputs) -> Assignment:
    originals = {name: value for name, value in vars(inputs).items() if isinstance(value, Tensor)}
    copies: dict[str, Any] = {name: value.clone() for name, value in originals.items()}
    private = replace(inputs, **copies)
    with calls.running():
        returned = implementation.adapter.assign(private)
    check_inputs_unchanged(copies, originals)
    return check_assignment(returned, inputs, implementation.exposes_stages)


def _observe_loss(
    implementation: Implementation, batch: Batch, own: AssignerInputs, each_term: bool
) -> Outcome:
    feature_maps = tuple(level.detach().clone().requires_grad_() for level in batch.feature_maps)
    annotations = batch.annotations.clone()
    with calls.running():
        returned = implementation.adapter.loss(feature_maps, annotations, batch.head, batch.hyperparameters)
    given = {f"feature_maps[{level}]": each.detach() for level, each in enumerate(feature_maps)}
    originals = {f"feature_maps[{level}]": each.detach() for level, each in enumerate(batch.feature_maps)}
    check_inputs_unchanged(
        given | {"annotations": annotations}, originals | {"annotations": batch.annotations}
    )
    loss = check_loss(returned, feature_maps, batch.family)
    total = loss.total.sum()
    terms = loss.total.unbind() if each_term and loss.total.ndim else ()
    term_gradients = tuple(_gradients(term, feature_maps, retain=True) for term in terms)
    with calls.running():
        gradients = _gradients(total, feature_maps)
    outcome = LossOutcome(loss.items.detach(), total.detach(), gradients, term_gradients)
    inputs = own if loss.inputs is None else check_inputs(loss.inputs, own)
    if loss.assignment is not None:
        assignment = check_assignment(loss.assignment, inputs, implementation.exposes_stages)
        return Outcome(inputs, loss.inputs is not None, assignment, outcome, True, own)
    if "assign" in implementation.capabilities:
        return Outcome(own, False, _observe_assigner(implementation, own), outcome)
    if implementation.exposes_stages:
        raise ProtocolViolation(
            "the adapter declares exposes_stages, but Loss.assignment is None: "
            "return the assignment that the loss used, with its stages"
        )
    return Outcome(own, False, None, outcome)


def _gradients(total: Tensor, feature_maps: tuple[Tensor, ...], retain: bool = False) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        total, feature_maps, retain_graph=retain, allow_unused=True
    )
    missing = [level for level, gradient in enumerate(gradients) if gradient is None]
    if missing:
        raise ProtocolViolation(
            f"Loss.total has no gradient on feature map {missing[0]} (LOSS-GRAD-1: zero, not None)"
        )
    return tuple(gradient for gradient in gradients if gradient is not None)
