"""Two processes: check that an implementation reduces N (sum of target scores) over ranks as it declares (CALL-7)."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from tal_conformance.checks.calling.answers import Difference, Plain, difference
from tal_conformance.implementations.calling.call import GRADIENT, Answer
from tal_conformance.judgement.failure import Subject


def reduced(subject: Subject, answer: Answer, plains: Mapping[int, Plain]) -> Difference | None:
    """Return the difference between one rank's results and those expected with N reduced over all ranks, or None.

    The loss of a rank is divided by N, the sum of target scores. Items, total and gradients are linear in 1 / N. So the
    rank's results, multiplied by the quotient of the reduced N and the rank's own N, must equal the results of a plain
    call on the rank's batch, up to a few further roundings.

    Args:
        subject: the implementation, which declares `reduces_over_ranks`.
        answer: the results of one rank, divided by the reduced N.
        plains: the plain (ordinary) calls on the batches of all ranks.
    """
    if answer.failure is not None:
        return difference(subject, answer, plains[answer.call], True)
    floor = subject.implementation.dialect.score_sum_floor
    sums = {rank: score_sum(plain) for rank, plain in plains.items()}
    whole = sum(sums.values())
    common = whole / len(sums) if subject.implementation.reduces_over_ranks == "mean" else whole
    factor = max(common, floor) / max(sums[answer.call], floor)
    scaled = {name: _times(name, tensor, factor) for name, tensor in answer.tensors.items()}
    return difference(subject, replace(answer, tensors=scaled), plains[answer.call], False)


def score_sum(plain: Plain) -> float:
    """Return the sum of all target scores: the implementation's if its assignment is visible, else the reference's."""
    if plain.outcome.assignment is not None:
        return float(plain.outcome.assignment.scores.double().sum())
    return float(sum(image.weights.double().sum() for image in plain.expected.assignment))


def _times(name: str, tensor: Tensor, factor: float) -> Tensor:
    """Return the tensor `name` of a loss multiplied by a factor; tensors of the assignment are returned unchanged."""
    if name in ("items", "total") or name.startswith(GRADIENT):
        return (tensor.double() * factor).to(tensor.dtype)
    return tensor
