"""Write outcomes of test vectors as a program in another language would, from an implementation of this process."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Assignment
from tal_conformance.core.vectors import Vector, load_inputs, read_set

EVERYTHING = ("assignment", "loss", "gradients")
FIELDS = ("labels", "boxes", "scores", "foreground", "truth_index")


def write_outcomes(
    folder: Path, adapter: Any, gives: Sequence[str] = EVERYTHING, name: str = "program", **about: Any
) -> Path:
    """Write what an adapter computes for every vector of a folder, and return the folder of the outcomes."""
    own = folder / "outcomes" / name
    own.mkdir(parents=True)
    for vector in read_set(folder).vectors:
        texts, tensors = {"vector": vector.batch.sha256}, dict[str, Tensor]()
        try:
            tensors = outcome_of(folder, vector, adapter, gives)
        except ValueError as error:
            texts["raised"] = str(error)
        save_file(tensors, own / f"{vector.id}.safetensors", texts)
    fields = {"schema": 1, "name": name, "version": "1", "gives": list(gives)} | about
    (own / "implementation.json").write_text(json.dumps(fields), encoding="utf-8")
    return own


def outcome_of(folder: Path, vector: Vector, adapter: Any, gives: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of the outcome of one vector."""
    batch = Batch.load(folder / vector.batch.file)
    if vector.asks == "assignment" and "assignment" not in gives:
        return {}
    if "loss" not in gives or vector.asks == "assignment":
        return assignment_tensors(adapter.assign(load_inputs(folder / vector.inputs.file, batch)))
    maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
    loss = adapter.loss(maps, batch.annotations, batch.head, batch.hyperparameters)
    total = loss.total.sum()
    tensors = {"loss.total": total.detach(), "loss.items": loss.items.detach()}
    if "gradients" in gives:
        gradients = torch.autograd.grad(total, maps)
        tensors |= {f"loss.gradients.{level}": value for level, value in enumerate(gradients)}
    if "assignment" in gives:
        tensors |= assignment_tensors(loss.assignment)
    return {name: value.contiguous() for name, value in tensors.items()}


def assignment_tensors(assignment: Assignment) -> dict[str, Tensor]:
    """Return the tensors of an assignment by their names in an outcome file."""
    return {f"assignment.{name}": getattr(assignment, name).contiguous() for name in FIELDS}
