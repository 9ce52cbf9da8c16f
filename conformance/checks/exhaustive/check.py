"""Judge every image of a scope; of what is not surely right, the ordinary judge has the last word."""

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from tal_conformance.checks.checker import BatchChecker, JudgedBatch
from tal_conformance.checks.exhaustive.chunks import PACK, ChunkResult, check_chunk
from tal_conformance.checks.exhaustive.scope import Scope
from tal_conformance.core.verdicts import Judgement, Uniqueness, Verdict
from tal_conformance.implementations.errors import ImplementationFailed

FEW = 32
"""Suspects with each number of ground truths that are judged alone, before company is what may be wrong."""


NONE = torch.zeros(0, dtype=torch.long)


def judge_scope(checker: BatchChecker, scope: Scope) -> None:
    """Judge all images of a scope, and write down how many there were.

    Raises:
        Failure: the implementation does not conform, on the smallest image that shows it; or on the smallest batch,
            where no image shows it alone.
    """
    counts, began = Counter[str](), time.perf_counter()
    try:
        _settle(checker, scope, _suspicious(checker, scope, counts), counts)
        counts["conforming"] = len(scope) if not checker.excused else 0  # what is on record still diverges
    finally:
        checker.sink.line(
            "scope",
            implementation=checker.subject.implementation.name,
            device=checker.subject.device,
            scope=scope.name,
            description=scope.describe(),
            images=len(scope),
            conforms=counts["conforming"] == len(scope),
            tie=counts["tie"],
            near_tie=counts["near_tie"],
            alone=counts["alone"],
            milliseconds=round((time.perf_counter() - began) * 1000),
        )


def _suspicious(checker: BatchChecker, scope: Scope, counts: Counter[str]) -> list[ChunkResult]:
    """The packs in which not everything is surely right; the others are recorded as batches."""
    suspicious = []
    for numbers in torch.arange(len(scope)).split(PACK):
        began = time.perf_counter()
        found = _look(checker, scope, numbers)
        counts.update(tie=int(found.tie.sum()), near_tie=int(found.near_tie.sum()))
        if found.suspects.any() or not found.sums:
            suspicious.append(found)
        else:
            _record(checker, scope, found, (time.perf_counter() - began) * 1000)
    return suspicious


def _look(checker: BatchChecker, scope: Scope, numbers: Tensor) -> ChunkResult:
    """The dense check; where the implementation fails on the pack, everything in it is suspect."""
    subject = checker.subject
    try:
        return check_chunk(subject.implementation, scope, numbers, subject.device)
    except ImplementationFailed:
        none = torch.zeros(len(numbers), dtype=torch.bool)
        return ChunkResult(numbers, none, none, none, False, none)


def _record(checker: BatchChecker, scope: Scope, found: ChunkResult, milliseconds: float) -> None:
    """One line of the log for a pack; its bits were not compared, only its bounds."""
    kinds = {Uniqueness.TIE: found.tie, Uniqueness.NEAR_TIE: found.near_tie}
    kind = next((kind for kind, those in kinds.items() if those.any()), Uniqueness.UNIQUE)
    judged = JudgedBatch(
        subject=checker.subject,
        test=checker.test,
        clause_group=checker.clause_group,
        batch=scope.batch(found.numbers),
        verdict=Verdict.WITHIN_BOUND,
        judgement=Judgement(uniqueness=kind),
        phase="generate",
        milliseconds=milliseconds,
    )
    checker.sink.batch(judged)


def _settle(checker: BatchChecker, scope: Scope, suspicious: list[ChunkResult], counts: Counter[str]) -> None:
    """Judge the suspects: those whose assignment is hidden alone, all of them; of the others the smallest alone.

    Raises:
        Failure: a suspect is wrong.
    """
    hidden = [found.numbers[found.hidden] for found in suspicious]
    others = [found.numbers[found.suspects & ~found.hidden] for found in suspicious]
    for number in [
        *_few(scope, torch.cat(others or [NONE])),
        *_smallest_first(scope, torch.cat(hidden or [NONE])),
    ]:
        counts["alone"] += 1
        checker(scope.image(number))
    for found in suspicious:
        if (found.suspects & ~found.hidden).any() or not found.sums:
            _judge_company(checker, scope, found.numbers)


def _smallest_first(scope: Scope, numbers: Tensor) -> list[int]:
    """The numbers (B,) in the order of their images' ground truths."""
    ordered: list[int] = numbers[scope.images(numbers).present.sum(1).argsort(stable=True)].tolist()
    return ordered


def _few(scope: Scope, numbers: Tensor) -> list[int]:
    """The first of them with each number of ground truths, smallest first."""
    truths = scope.images(numbers).present.sum(1)  # (B,)
    return [number for count in range(scope.truths + 1) for number in numbers[truths == count][:FEW].tolist()]


def _judge_company(checker: BatchChecker, scope: Scope, numbers: Tensor) -> None:
    """Judge the smallest batch that is still suspect, then the whole pack.

    Raises:
        Failure: one of them is wrong. If neither is, what was suspect is within what the ordinary judge allows.
    """

    def suspect(those: Tensor) -> bool:
        found = _look(checker, scope, those)
        return bool((found.suspects & ~found.hidden).any()) or not found.sums

    checker(scope.batch(smallest(numbers, suspect)))
    checker(scope.batch(numbers))


def smallest(numbers: Tensor, suspect: Callable[[Tensor], bool]) -> Tensor:
    """As few of these numbers as are still suspect together: no part of them can be left out.

    Args:
        numbers: (B,) suspect together.
        suspect: whether some numbers are.
    """
    parts = 2
    while len(numbers) > 1:
        chunks = numbers.tensor_split(min(parts, len(numbers)))
        rests = [torch.cat([*chunks[:at], *chunks[at + 1 :]]) for at in range(len(chunks))]
        less = next(
            (those for those in (*chunks, *rests) if len(those) < len(numbers) and suspect(those)), None
        )
        if less is not None:
            numbers, parts = less, max(2, parts - 1)
        elif parts >= len(numbers):
            break
        else:
            parts *= 2
    return numbers
