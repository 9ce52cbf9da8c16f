"""Run every check of the suite on one given batch, so that a failure is reproduced whichever test found it.

Used by `pytest conformance --case`, `tal_conformance.check` and the command `replay`.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tal_conformance.batches.recipe import Recipe, grids
from tal_conformance.batches.strategies.detection import CELLS, IMAGES, STRIDES
from tal_conformance.checks.calling.check import applies, called
from tal_conformance.checks.devices.checks import allocates_on_device, repeatable, same_as_cpu
from tal_conformance.checks.reference import Judge, judge_against_reference
from tal_conformance.checks.relations.relations import RELATIONS_BY_TASK, NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.calling.ways import WAYS
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.implementations.on_device import on_device
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_conformance.judgement.non_finite import is_finite, judge_any
from tal_conformance.judgement.rejection import supports_relations

CheckFunction = Callable[[Subject, Batch], Judgement]
LARGEST_GENERATED = IMAGES * max(
    sum(rows * columns for rows, columns in grids(cells, strides)) for cells in CELLS for strides in STRIDES
)
"""Largest number of anchors of a generated batch, in all of its images together."""


def run_every_check(subject: Subject, batch: Batch, judge: Judge = judge_any) -> Judgement:
    """Run every check of the suite on one batch.

    Args:
        subject: the implementation, and the device to run it on.
        batch: any batch.
        judge: function that judges the outcome of the first run.

    Returns:
        The judgement of the whole implementation against its dialect. It is not a failure; its verdict is NOT_SUPPORTED
        if the implementation raised on a batch that its adapter does not support.

    Raises:
        Failure: a check failed; further checks are not run.
    """
    generated = is_generated_size(batch)
    try:
        judgement = judge_against_reference(subject, batch, each_term=generated, judge=judge)
    except NotSupported as unsupported:
        return Judgement(batch.family, unsupported=unsupported.reason)
    for further in _further_checks(subject, batch, generated):
        with suppress(NotApplicable, NotObservable, NotSupported):
            further(subject, batch)
    return judgement


def is_generated_size(batch: Batch) -> bool:
    """Return True if the generated tests could have produced the batch: finite, float32, not too many anchors.

    Only such batches are checked in about 80 further runs (relations, devices, single terms, ways of calling), because
    the suite never runs these checks on other batches. In 16 bits the result of zero times an overflow is not
    prescribed, and autocast chooses operations by device.
    """
    plain = batch.dtype == torch.float32 and not batch.autocast
    return plain and is_finite(batch) and batch.images * batch.anchors <= LARGEST_GENERATED


def _further_checks(subject: Subject, batch: Batch, generated: bool) -> Iterator[CheckFunction]:
    """Yield all checks but the comparison with the reference, which `run_every_check` runs first.

    They are: assigner alone, repeated runs, devices, relations, ways of calling.

    Tracing for `torch.compile` takes seconds, and is left out.
    """
    implementation, dialect = subject.implementation, subject.implementation.dialect
    if len(implementation.variants) > 1:
        yield partial(judge_against_reference, alone=True)
    if not generated or not supports_relations(batch, dialect):
        return
    yield repeatable
    if subject.device != "cpu":
        yield same_as_cpu
    elif not (implementation.in_subprocess or torch.cuda.is_available()):
        yield allocates_on_device
    yield from RELATIONS_BY_TASK[batch.task].values()
    for way in WAYS:
        if way != "compile" and applies(implementation, way) and way not in implementation.unsupported_ways:
            yield partial(called, way=way)


def check(
    implementation: Any,
    batch: Batch | Recipe | str | Path,
    device: str = "cpu",
    isolate: bool = False,
) -> Judgement:
    """Run every check of the suite on one batch, from Python.

    Args:
        implementation: an adapter, a class or function that makes one, or a value of the option `--implementation`.
        batch: a batch, a recipe, or the path of a case file.
        device: device to run it on, such as `cpu`, `cuda` or `mps`.
        isolate: run your own implementation in a worker process.

    Returns:
        The judgement of the first run. It is not a failure.

    Raises:
        Failure: the implementation diverges; the message names the stage.
        InvalidCase: the file is not a case file, or does not hold a valid batch.
        UnknownImplementation: the implementation was not found.
        ProtocolViolation: the adapter does not follow the protocol.
    """
    if isinstance(batch, Recipe):
        batch = batch.build()
    if not isinstance(batch, Batch):
        batch = Batch.load(Path(batch))
    return run_every_check(Subject(on_device(find(implementation, isolate), device), device), batch)
