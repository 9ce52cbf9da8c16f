"""Judge every image of a scope: all images with a vectorised check, and the suspects with the ordinary judge.

A scope is a set of small images that is enumerated completely. Suspects are images for which the dense oracle, a fast
vectorised judge, could not prove that all values are correct.
"""

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from tal_conformance.checks.checker import BatchChecker, JudgedBatch
from tal_conformance.checks.exhaustive.chunks import CHUNK_SIZE, ChunkResult, check_chunk
from tal_conformance.checks.exhaustive.scope import Scope
from tal_conformance.core.verdicts import Judgement, Uniqueness, Verdict
from tal_conformance.implementations.errors import ImplementationFailed

MAX_SINGLE_SUSPECTS = 32
"""Maximum number of suspects that are judged as single images, for each number of ground truths an image can have.

If none of them fails, the cause may be the combination of images in the chunk, which is judged next.
"""


EMPTY = torch.zeros(0, dtype=torch.long)


def judge_scope(checker: BatchChecker, scope: Scope) -> None:
    """Judge all images of a scope, and write their number to the run log.

    Raises:
        Failure: the implementation does not conform. The failure is on the smallest failing image or, if every image
            conforms on its own, on the smallest failing batch of several images.
    """
    counts, began = Counter[str](), time.perf_counter()
    try:
        _judge_suspects(checker, scope, _suspicious(checker, scope, counts), counts)
        counts["conforming"] = len(scope) if not checker.excused else 0  # known issues diverge too
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
    """Check a scope (enumerated set of images) in chunks; return chunks with suspects, record others as conforming."""
    suspicious = []
    for numbers in torch.arange(len(scope)).split(CHUNK_SIZE):
        began = time.perf_counter()
        found = _check_chunk(checker, scope, numbers)
        counts.update(tie=int(found.tie.sum()), near_tie=int(found.near_tie.sum()))
        if found.suspects.any() or not found.sums:
            suspicious.append(found)
        else:
            _record(checker, scope, found, (time.perf_counter() - began) * 1000)
    return suspicious


def _check_chunk(checker: BatchChecker, scope: Scope, numbers: Tensor) -> ChunkResult:
    """Return the dense oracle's result for the images `numbers`: all are suspects if the implementation raises."""
    subject = checker.subject
    try:
        return check_chunk(subject.implementation, scope, numbers, subject.batch_device)
    except ImplementationFailed:
        none = torch.zeros(len(numbers), dtype=torch.bool)
        return ChunkResult(numbers, none, none, none, False, none)


def _record(checker: BatchChecker, scope: Scope, found: ChunkResult, milliseconds: float) -> None:
    """Write a chunk of images to the run log as one batch, with the verdict "within bound", not "exact".

    The check does not compare bitwise.
    """
    kinds = {Uniqueness.TIE: found.tie, Uniqueness.NEAR_TIE: found.near_tie}
    kind = next((kind for kind, images in kinds.items() if images.any()), Uniqueness.UNIQUE)
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


def _judge_suspects(
    checker: BatchChecker, scope: Scope, suspicious: list[ChunkResult], counts: Counter[str]
) -> None:
    """Judge the suspects (images that the dense oracle could not prove right) with the ordinary judge.

    Images that the dense oracle left undecided are judged one by one. Of the other suspects, the smallest images are
    judged one by one, and then their whole chunks.

    Raises:
        Failure: a suspect diverges.
    """
    undecided = [found.numbers[found.undecided] for found in suspicious]
    others = [found.numbers[found.suspects & ~found.undecided] for found in suspicious]
    for number in [
        *_first_of_each_count(scope, torch.cat(others or [EMPTY])),
        *_smallest_first(scope, torch.cat(undecided or [EMPTY])),
    ]:
        counts["alone"] += 1
        checker(scope.image(number))
    for found in suspicious:
        if (found.suspects & ~found.undecided).any() or not found.sums:
            _judge_together(checker, scope, found.numbers)


def _smallest_first(scope: Scope, numbers: Tensor) -> list[int]:
    """Return the image numbers (B,), sorted by the number of ground truths in the image."""
    ordered: list[int] = numbers[scope.images(numbers).present.sum(1).argsort(stable=True)].tolist()
    return ordered


def _first_of_each_count(scope: Scope, numbers: Tensor) -> list[int]:
    """Return a few image numbers for each number of ground truths: the first ones, fewest ground truths first."""
    truths = scope.images(numbers).present.sum(1)  # (B,)
    return [
        number
        for count in range(scope.truths + 1)
        for number in numbers[truths == count][:MAX_SINGLE_SUSPECTS].tolist()
    ]


def _judge_together(checker: BatchChecker, scope: Scope, numbers: Tensor) -> None:
    """Judge two batches: the smallest subset of a chunk that the dense oracle still suspects, then the whole chunk.

    If both conform, the dense oracle was stricter than the ordinary judge.

    Raises:
        Failure: the implementation diverges on one of the two batches.
    """

    def suspect(part: Tensor) -> bool:
        found = _check_chunk(checker, scope, part)
        return bool((found.suspects & ~found.undecided).any()) or not found.sums

    checker(scope.batch(smallest(numbers, suspect)))
    checker(scope.batch(numbers))


def smallest(numbers: Tensor, suspect: Callable[[Tensor], bool]) -> Tensor:
    """Return a minimal subset of image numbers for which `suspect` is still true (delta debugging).

    Args:
        numbers: (B,) image numbers for which `suspect` is true.
        suspect: returns True if a batch of the images with the given numbers is suspect.
    """
    parts = 2
    while len(numbers) > 1:
        chunks = numbers.tensor_split(min(parts, len(numbers)))
        rests = [torch.cat([*chunks[:at], *chunks[at + 1 :]]) for at in range(len(chunks))]
        less = next((part for part in (*chunks, *rests) if len(part) < len(numbers) and suspect(part)), None)
        if less is not None:
            numbers, parts = less, max(2, parts - 1)
        elif parts >= len(numbers):
            break
        else:
            parts *= 2
    return numbers
