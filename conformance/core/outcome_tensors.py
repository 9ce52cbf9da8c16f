"""Conversion of an outcome to tensors by name and back, for outcome files, worker messages, guards and device checks.

A name is a prefix, a dot and the field: `stages.overlap`. A loss has one gradient for every feature map and, if its
terms were differentiated, one for every term and feature map: `loss.gradients.0`, `loss.term_gradients.2.0`. Names of
the tensors of a branch begin with the branch: `branches.one2one.loss.items`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, LossOutcome, Outcome, Stages
from tal_conformance.core.task import DETECT, Task
from tal_reference import Head, Hyperparameters

GRADIENTS, TERM_GRADIENTS = "loss.gradients", "loss.term_gradients"
"""Prefixes of the gradients of a loss."""
BRANCHES = "branches"
"""Prefix of the tensors of the branches of an end-to-end loss."""


def equal_bits(first: Tensor, second: Tensor) -> bool:
    """Return True if two CPU tensors have the same shape, dtype and bits; NaN equals itself, and 0 is not -0."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    first_bytes, second_bytes = (
        tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (first, second)
    )
    return torch.equal(first_bytes, second_bytes)


def equal_tensors(first: Tensor, second: Tensor) -> bool:
    """Return True if two tensors are equal in shape, dtype, device and every element; NaN equals NaN."""
    if first.shape != second.shape or first.dtype != second.dtype or first.device != second.device:
        return False
    if first.device.type == "meta":
        return True
    return torch.equal(first, second) or bool(((first == second) | (first.isnan() & second.isnan())).all())


def tensors_of(part: object, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a dataclass, named `prefix`, a dot and the field's name; other fields are left out."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}  # type: ignore[arg-type] # any dataclass
    return {f"{prefix}.{name}": value for name, value in values.items() if issubclass(type(value), Tensor)}


def part_from(tensors: Mapping[str, Tensor], kind: type, prefix: str, **others: Any) -> Any:
    """Return an instance of the dataclass `kind`, made of tensors with the names that `tensors_of` gives.

    Args:
        tensors: tensors by name; names with another prefix are ignored.
        kind: AssignerInputs, Stages, Assignment or LossOutcome.
        prefix: the prefix of the names.
        others: values of the fields that are not tensors.

    Returns:
        The instance, or None if all of its tensors are missing.

    Raises:
        ValueError: some of the tensors are missing, but not all.
    """
    names = [field.name for field in fields(kind) if field.name not in others]
    found = {name: tensors[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in tensors}
    missing = [f"{prefix}.{name}" for name in names if name not in found]
    if not found:
        return None
    if missing:
        raise ValueError(f"missing tensors: {', '.join(missing)}")
    return kind(**found, **others)


OPTIONAL = ("labels", "truth_index")
"""Fields of an assignment that an implementation need not have."""


def assignment_from(tensors: Mapping[str, Tensor], stages: Stages | None) -> Assignment | None:
    """Return the assignment in the tensors of a call's results, with None for optional fields without a tensor.

    Args:
        tensors: tensors by name, with the prefix "Assignment".
        stages: stages of the assignment.

    Returns:
        The assignment, or None if all of its tensors are missing.

    Raises:
        ValueError: a required tensor is missing, but not all tensors are.
    """
    prefix = Assignment.__name__
    if not any(name.startswith(f"{prefix}.") for name in tensors):
        return None
    absent = {name: None for name in OPTIONAL if f"{prefix}.{name}" not in tensors}
    assignment: Assignment = part_from(tensors, Assignment, prefix, stages=stages, **absent)
    return assignment


def named_tensors(outcome: Outcome) -> dict[str, Tensor]:
    """Return every tensor of an outcome by name, in the order of the fields."""
    named = tensors_of(outcome.inputs, "inputs")
    if outcome.assignment is not None:
        if outcome.assignment.stages is not None:
            named |= tensors_of(outcome.assignment.stages, "stages")
        named |= tensors_of(outcome.assignment, "assignment")
    if outcome.loss is not None:
        named |= tensors_of(outcome.loss, "loss")
        named |= _levels(GRADIENTS, outcome.loss.gradients)
        for term, gradients in enumerate(outcome.loss.term_gradients):
            named |= _levels(f"{TERM_GRADIENTS}.{term}", gradients)
    for branch, part in outcome.branches.items():
        named |= {f"{BRANCHES}.{branch}.{name}": tensor for name, tensor in named_tensors(part).items()}
    return named


def _levels(prefix: str, gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {f"{prefix}.{level}": gradient for level, gradient in enumerate(gradients)}


def outcome_from(
    tensors: Mapping[str, Tensor],
    head: Head,
    hyperparameters: Hyperparameters,
    exposes_inputs: bool,
    from_loss: bool,
    task: Task = DETECT,
    shows_items: bool = True,
    knows_total: bool = True,
    branches: Mapping[str, Outcome] | None = None,
) -> Outcome:
    """Rebuild an outcome from tensors with the names that `named_tensors` gives.

    Args:
        tensors: tensors by name.
        head: head of the batch.
        hyperparameters: hyperparameters of the batch.
        exposes_inputs: True if the implementation exposed the assigner's inputs; a field of `Outcome`.
        from_loss: True if the loss used the assignment; a field of `Outcome`.
        task: the loss family, which decides the number of terms.
        shows_items: True if each loss item is known; a field of `LossOutcome`.
        knows_total: True if the total is known; a field of `LossOutcome`.
        branches: outcomes of the branches by name, made from their own tensors; a field of `Outcome`.

    Raises:
        ValueError: a tensor is missing, or its name is not a name of an outcome's tensors.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{BRANCHES}.")}
    inputs = part_from(tensors, AssignerInputs, "inputs", head=head, hyperparameters=hyperparameters)
    stages = part_from(tensors, Stages, "stages")
    assignment = part_from(tensors, Assignment, "assignment", stages=stages)
    levels = sum(name.startswith(f"{GRADIENTS}.") for name in tensors)
    terms = len(task.terms) if any(name.startswith(f"{TERM_GRADIENTS}.") for name in tensors) else 0
    nothing = torch.empty(0)  # a missing gradient: the check of the shapes rejects it

    def gradients(prefix: str) -> tuple[Tensor, ...]:
        return tuple(tensors.get(f"{prefix}.{level}", nothing) for level in range(levels))

    loss = part_from(
        tensors,
        LossOutcome,
        "loss",
        gradients=gradients(GRADIENTS),
        shows_items=shows_items,
        knows_total=knows_total,
        term_gradients=tuple(gradients(f"{TERM_GRADIENTS}.{term}") for term in range(terms)),
    )
    if inputs is None or (assignment is None and (stages is not None or loss is None)):
        raise ValueError(f"expected the tensors of an outcome, got {sorted(tensors)}")
    outcome = Outcome(inputs, exposes_inputs, assignment, loss, from_loss)
    if set(tensors) - set(named_tensors(outcome)):
        raise ValueError(f"expected the tensors of an outcome, got {sorted(tensors)}")
    return replace(outcome, branches=dict(branches or {}))


def branch_tensors(tensors: Mapping[str, Tensor], branch: str) -> dict[str, Tensor]:
    """Return the tensors of a branch's outcome, by the names that they have in that outcome."""
    prefix = f"{BRANCHES}.{branch}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def map_tensors(outcome: Outcome, change: Callable[[Tensor], Tensor]) -> Outcome:
    """Return a copy of the outcome with the function `change` applied to every tensor."""

    def changed(part: Any) -> Any:
        return replace(
            part, **{name.partition(".")[2]: change(tensor) for name, tensor in tensors_of(part, "").items()}
        )

    assignment, loss = outcome.assignment, outcome.loss
    if assignment is not None:
        stages = None if assignment.stages is None else changed(assignment.stages)
        assignment = replace(changed(assignment), stages=stages)
    if loss is not None:
        loss = replace(
            changed(loss),
            gradients=tuple(map(change, loss.gradients)),
            term_gradients=tuple(tuple(map(change, gradients)) for gradients in loss.term_gradients),
        )
    branches = {name: map_tensors(part, change) for name, part in outcome.branches.items()}
    inputs = changed(outcome.inputs)
    return replace(outcome, inputs=inputs, assignment=assignment, loss=loss, branches=branches)
