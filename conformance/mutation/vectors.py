"""Write test vectors: the batches that the suite's checks generate, as files for programs in any language."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.registry import CHECKS, Check
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import head_as_dict
from tal_conformance.core.progress import progress
from tal_conformance.core.task import DETECT
from tal_conformance.core.vectors import (
    FLAGS,
    Vector,
    VectorFile,
    VectorSet,
    save_inputs,
    sha256_of,
    write_set,
)
from tal_conformance.core.verdicts import Judgement, Uniqueness
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Subject
from tal_conformance.judgement.non_finite import is_finite
from tal_conformance.mutation.trials import collect
from tal_conformance.suite.coverage import REACHED_BY, TRUTHS
from tal_reference import Dialect

ASSIGNMENT, LOSS = "assignment", "loss"
"""Values of `Vector.asks`."""
OTHER_WAYS = (
    "relations between batches (META), ways of calling (CALL), sequences of calls (STATE), devices (DEVICE), all "
    "images of small scopes (EXHAUSTIVE) and trainings (TRAINING) need calls of the implementation: an adapter tests "
    "them"
)
OTHER_PRECISIONS = "precisions other than float32, and automatic mixed precision: an adapter tests them"

SELECTION = (
    "most batches of the suite's checks: the shipped set is a selection of them, and --profile ci writes more"
)


@dataclass(frozen=True)
class VectorBatch:
    """A batch to write as a vector.

    Attributes:
        batch: the batch.
        asks: "loss", or "assignment" if only an assigner is judged on the batch.
        checks: names of the tests that generate the batch.
    """

    batch: Batch
    asks: str
    checks: tuple[str, ...]


def batches_of_checks(number: int, dialect: Dialect, task: str = DETECT.name) -> list[VectorBatch]:
    """Return the float32 batches that all checks by the reference generate, each once, in the order of the checks.

    Args:
        number: number of examples of the profile.
        dialect: the dialect of the implementation to judge.
        task: name of the loss family.
    """
    found: dict[tuple[str, str], VectorBatch] = {}
    for check in vector_checks(task):
        for group in collect(check, dialect, number, task=task):
            for case in group:
                batch, asks = case.build(), asked_part(case.by)
                if batch.dtype != torch.float32 or batch.autocast:
                    continue
                name = case.test.removeprefix("test_")
                known = found.get((batch.id, asks))
                checks = (name,) if known is None else tuple(dict.fromkeys((*known.checks, name)))
                found[batch.id, asks] = VectorBatch(batch, asks, checks)
    losses = {batch for batch, asks in found if asks == LOSS}
    # judging a loss includes its assigner
    return [
        vector_batch
        for vector_batch in found.values()
        if vector_batch.asks == LOSS or vector_batch.batch.id not in losses
    ]


def asked_part(judging: Any) -> str:
    """Return the part that a judging function of a check judges: "assignment" if it judges an assigner alone."""
    return ASSIGNMENT if getattr(judging, "keywords", {}).get("alone") else LOSS


def vector_checks(task: str = DETECT.name) -> list[Check]:
    """Return the checks whose batches can be vectors: one call on a small batch, judged by the reference."""
    return [
        check
        for check in CHECKS.values()
        if check.mutants != "never" and (task == DETECT.name or check.strategy_of(task) is not None)
    ]


def left_out(task: str = DETECT.name, shipped: bool = False) -> list[str]:
    """Return sentences about the checks and batches that vectors do not contain; the shipped set is a selection."""
    if shipped:
        return [OTHER_WAYS, SELECTION]
    others = [check.name for check in CHECKS.values() if check not in vector_checks(task)]
    large = [name for name in others if name.startswith(("crossings", "large", "training_size"))]
    return [OTHER_WAYS, OTHER_PRECISIONS, *(f"test_{name}: its batches are large" for name in large)]


def write_vectors(
    folder: Path, batches: Sequence[VectorBatch], dialect: Dialect, facts: Mapping[str, Any], generator: str
) -> VectorSet:
    """Write batches as vectors with their list into an empty folder, and return the list.

    Args:
        folder: the folder, which exists.
        batches: the batches.
        dialect: dialect by which outcomes are judged.
        facts: further fields of `VectorSet`: task, profile, left_out, number.
        generator: name and version of this program.

    Raises:
        OSError: a file cannot be written.
    """
    for name in ("vectors", "assigner"):
        (folder / name).mkdir(exist_ok=True)
    with progress("Writing vectors", len(batches)) as advance:
        vectors = []
        for vector_batch in batches:
            vectors.append(write_vector(folder, vector_batch, dialect))
            advance()
    vector_set = VectorSet(dialect=dialect.name, generator=generator, vectors=vectors, **facts)
    write_set(folder, vector_set)
    return vector_set


def write_vector(folder: Path, vector_batch: VectorBatch, dialect: Dialect) -> Vector:
    """Write the files of one vector, and return its entry for the list.

    Raises:
        OSError: a file cannot be written.
    """
    batch, expected = vector_batch.batch, Expectation(vector_batch.batch, dialect)
    files = []
    for name in ("vectors", "assigner"):
        file = f"{name}/{batch.id}.safetensors"
        if name == "vectors":
            batch.save(folder / file)
        else:
            save_inputs(folder / file, expected.inputs)
        files.append(VectorFile(file, sha256_of(folder / file)))
    judgement = reference_judgement(vector_batch, dialect)
    return Vector(
        id=batch.id,
        batch=files[0],
        inputs=files[1],
        head=head_as_dict(batch.head),
        hyperparameters=asdict(batch.hyperparameters),
        dtype=str(batch.dtype).removeprefix("torch."),
        autocast=batch.autocast,
        asks=vector_batch.asks,
        result=result_of(judgement),
        flags=list(flags_of(vector_batch, judgement)),
        checks=list(vector_batch.checks),
        clauses=clauses_of(batch),
        hazards=sorted(batch.hazards),
        description=batch.describe(),
    )


def reference_judgement(vector_batch: VectorBatch, dialect: Dialect) -> Judgement:
    """Return the judgement of the reference itself on a batch, which says whether the batch has several answers.

    Raises:
        Failure: the reference does not conform, which is an error of this project.
    """
    reference = Subject(
        replace(implementation_from(ReferenceAdapter(dialect), "reference"), dialect=dialect), "cpu"
    )
    return judge_against_reference(reference, vector_batch.batch, alone=vector_batch.asks == ASSIGNMENT)


def result_of(judgement: Judgement) -> str:
    """Return which outcomes of a batch are accepted, given the reference's judgement: a value of `Vector.result`."""
    if judgement.rejected:
        return "raises"
    if judgement.inconclusive:
        return "undefined"
    return "unique" if judgement.uniqueness is Uniqueness.UNIQUE else "acceptable"


def flags_of(vector_batch: VectorBatch, judgement: Judgement) -> Iterator[str]:
    """Yield the flags of a vector, keys of `FLAGS`, given the reference's judgement."""
    batch = vector_batch.batch
    conditions = {
        "TIE": judgement.uniqueness is Uniqueness.TIE,
        "NEAR_TIE": judgement.uniqueness is Uniqueness.NEAR_TIE,
        "RAISES": judgement.rejected,
        "UNDEFINED": judgement.inconclusive,
        "NOT_FINITE": not is_finite(batch),
        "NO_TRUTHS": not len(batch.annotations),
        "ASSIGNER_ALONE": vector_batch.asks == ASSIGNMENT,
        "CLASS_WEIGHTS": batch.head.class_weights is not None,
        "TOPK2": batch.hyperparameters.effective_topk2 is not None,
        "ONE_BIN": batch.head.reg_max == 1,
        "MIXED_PRECISION": batch.autocast,
    }
    assert conditions.keys() == FLAGS.keys()
    return (flag for flag, holds in conditions.items() if holds)


def clauses_of(batch: Batch) -> list[str]:
    """Return the clauses that decide something in the batch, by its hazards (`suite.coverage`)."""
    present = batch.hazards | ({TRUTHS} if len(batch.annotations) else set())
    return [clause for clause, hazards in REACHED_BY.items() if present & set(hazards)]
