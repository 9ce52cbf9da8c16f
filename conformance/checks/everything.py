"""One batch in every way in which the suite's tests judge one: whichever of them found a failure, it shows again.

For a batch at hand: `pytest conformance --case`, `tal_conformance.check` and `python -m conformance replay`.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from tal_conformance.batches.recipe import Recipe, grids
from tal_conformance.batches.strategies import CELLS, IMAGES, STRIDES
from tal_conformance.checks.devices.checks import allocates_on_device, repeatable, same_as_cpu
from tal_conformance.checks.reference import Judge, judge_against_reference
from tal_conformance.checks.relations.relations import RELATIONS, NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_conformance.judgement.non_finite import is_finite, judge_any
from tal_conformance.judgement.rejection import rejection_for, supports_relations

Way = Callable[[Subject, Batch], Judgement]
LARGEST_GENERATED = IMAGES * max(
    sum(rows * columns for rows, columns in grids(cells, strides)) for cells in CELLS for strides in STRIDES
)
"""Anchors that a drawn batch has at most, in all of its images."""


def run_every_check(subject: Subject, batch: Batch, judge: Judge = judge_any) -> Judgement:
    """Judge an implementation on one batch in every way that a test does.

    Args:
        subject: the implementation, and the device to run it on.
        batch: any batch.
        judge: what judges the outcome, the first time.

    Returns:
        The first judgement: that of the implementation as a whole, held to its dialect. None fails.

    Raises:
        Failure: of the first way that finds one.
    """
    as_drawn = is_generated_size(batch)
    judgement = judge_against_reference(subject, batch, each_term=as_drawn, judge=judge)
    for way in _further(subject, batch, as_drawn):
        with suppress(NotApplicable, NotObservable):
            way(subject, batch)
    return judgement


def is_generated_size(batch: Batch) -> bool:
    """Whether it is one that tests judge in every way: finite, in float32, and no larger than what they draw.

    On others no test finds anything by a relation, on another device or in one term alone that could have to be shown
    again. It would take some forty runs; and in 16 bits what is zero times an overflow is nobody's fault, and autocast
    picks its operations device by device.
    """
    plain = batch.dtype == torch.float32 and not batch.autocast
    return plain and is_finite(batch) and batch.images * batch.anchors <= LARGEST_GENERATED


def _further(subject: Subject, batch: Batch, as_drawn: bool) -> Iterator[Way]:
    """Its assigner alone, on every device, every time, and related to itself on changed batches."""
    implementation, dialect = subject.implementation, subject.implementation.dialect
    if len(implementation.variants) > 1:
        yield partial(judge_against_reference, alone=True)
    if not as_drawn or rejection_for(batch, dialect) is not None or not supports_relations(batch, dialect):
        return
    yield repeatable
    if subject.device != "cpu":
        yield same_as_cpu
    elif not (implementation.in_subprocess or torch.cuda.is_available()):
        yield allocates_on_device
    yield from RELATIONS.values()


def check(
    implementation: str | Implementation,
    batch: Batch | Recipe | str | Path,
    device: str = "cpu",
    isolate: bool = False,
) -> Judgement:
    """Judge an implementation on one batch from Python, in every way that a test does.

    Args:
        implementation: its name, as behind `--implementation`, or an implementation.
        batch: a batch, a recipe, or the path of a case file.
        device: where to run it.
        isolate: run an implementation of one's own in a process of its own.

    Returns:
        A judgement that does not fail.

    Raises:
        Failure: it diverges; the message says where.
        InvalidCase: the file is not a case file, or does not hold a valid batch.
        UnknownImplementation, ProtocolViolation: there is no such implementation.
    """
    if isinstance(implementation, str):
        implementation = find(implementation, isolate)
    if isinstance(batch, Recipe):
        batch = batch.build()
    if not isinstance(batch, Batch):
        batch = Batch.load(Path(batch))
    return run_every_check(Subject(implementation, device), batch)
