"""TODO tal_conformance.core.outcome_tensors."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, LossOutcome, Outcome, Stages
from tal_reference import Head, Hyperparameters


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two CPU tensors have the same shape, dtype and bits; NaN equals itself, and 0 is not -0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    first, second = (tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in shape, dtype and every element; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.device.type == "meta":
        return True
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def named_tensors(outcome: Outcome) -> dict[str, Tensor]:
    """Every tensor of an outcome by its name, in the order of the data: `stages.overlap`, `loss.gradients.0`."""
    parts: list[tuple[str, object]] = [("inputs", outcome.inputs)]
    if outcome.assignment is not None:
        parts += [("stages", outcome.assignment.stages), ("assignment", outcome.assignment)]
    named = {
        f"{prefix}.{field.name}": getattr(part, field.name)
        for prefix, part in parts
        if part is not None
        for field in fields(part)  # type: ignore[arg-type]
        if isinstance(getattr(part, field.name), Tensor)
    }
    if outcome.loss is not None:
        named |= {"loss.items": outcome.loss.items, "loss.total": outcome.loss.total}
        named |= {
            f"loss.gradients.{level}": gradient for level, gradient in enumerate(outcome.loss.gradients)
        }
        named |= {
            f"loss.term_gradients.{term}.{level}": gradient
            for term, gradients in enumerate(outcome.loss.term_gradients)
            for level, gradient in enumerate(gradients)
        }
    return named


def mapped(outcome: Outcome, change: Callable[[Tensor], Tensor]) -> Outcome:
    """The same outcome with every tensor changed."""
    tensors = {name: change(tensor) for name, tensor in named_tensors(outcome).items()}
    changed = _outcome(tensors, outcome.exposes_inputs, outcome.inputs.head, outcome.inputs.hyperparameters)
    return replace(changed, from_loss=outcome.from_loss)


def _outcome(
    tensors: dict[str, Tensor], exposes_inputs: bool, head: Head, hyperparameters: Hyperparameters
) -> Outcome:
    """The inverse of `named_tensors`.

    Raises:
        ValueError: a tensor is missing, or is one that no outcome has.
    """
    rest = dict(tensors)

    def part(prefix: str, kind: type, **others: Any) -> Any:
        names = [field.name for field in fields(kind) if field.name not in others]
        if not any(f"{prefix}.{name}" in rest for name in names):
            return None
        missing = [f"{prefix}.{name}" for name in names if f"{prefix}.{name}" not in rest]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return kind(**{name: rest.pop(f"{prefix}.{name}") for name in names}, **others)

    inputs = part("inputs", AssignerInputs, head=head, hyperparameters=hyperparameters)
    stages = part("stages", Stages)
    assignment = part("assignment", Assignment, stages=stages)
    levels = sum(name.startswith("loss.gradients.") for name in rest)
    gradients = tuple(rest.pop(f"loss.gradients.{level}", torch.empty(0)) for level in range(levels))
    split = 3 if any(name.startswith("loss.term_gradients.") for name in rest) else 0
    terms = tuple(
        tuple(rest.pop(f"loss.term_gradients.{term}.{level}", torch.empty(0)) for level in range(levels))
        for term in range(split)
    )
    loss = part("loss", LossOutcome, gradients=gradients, term_gradients=terms)
    if rest or inputs is None or (assignment is None and (stages is not None or loss is None)):
        raise ValueError(f"its tensors {sorted(tensors)} are not those of an outcome")
    return Outcome(inputs, exposes_inputs, assignment, loss)
