"""Judging the branches of an end-to-end loss on predictions of 16 bits.

The gradients of the whole loss are stored in 16 bits after they have been multiplied by the branch's weight. Dividing
them by the weight would round them once more, and in another place. Therefore the gradients of a branch are judged as
those of a loss whose gains are multiplied by the weight (LOSS-GAIN-1), and its values by themselves.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from tal_conformance.core.outcome import Outcome
from tal_conformance.core.verdicts import Judgement
from tal_conformance.judgement.expectation import Expectation

Judged = Callable[[Outcome, Expectation], Judgement]
"""Function that returns the judgement of an outcome, whether or not it fails."""
VALUES_LEFT = (
    "the loss hides this branch's assignment or values: in 16 bits, its values are judged with the whole loss"
)
"""Note on a branch of which the gradients alone are judged."""


def judged_coarsely(
    outcome: Outcome,
    part: Expectation,
    weight: float,
    gradients: tuple[Tensor, ...],
    terms: tuple[tuple[Tensor, ...], ...],
    judged: Judged,
) -> Judgement:
    """Return the judgement of a branch on predictions of 16 bits.

    Args:
        outcome: outcome of the branch.
        part: expectation of the branch, without its weight.
        weight: weight of the branch.
        gradients: gradients of the whole loss on the branch's feature maps.
        terms: gradients of each term of the whole loss on these feature maps.
        judged: judges an outcome.
    """
    assert outcome.loss is not None
    of_gradients = replace(
        outcome,
        loss=replace(
            outcome.loss, gradients=gradients, term_gradients=terms, shows_items=False, knows_total=False
        ),
    )
    judgement = judged(of_gradients, weighted(part, weight))
    judgement.open_items = tuple((value / weight, error / weight) for value, error in judgement.open_items)
    if not outcome.loss.knows_total or not outcome.from_loss:
        judgement.notes.append(VALUES_LEFT)
        return judgement
    values = judged(replace(outcome, loss=replace(outcome.loss, gradients=(), term_gradients=())), part)
    for name, stage in values.stages.items():
        judgement.stages[name].merge(stage)
    judgement.inconclusive = judgement.inconclusive or values.inconclusive
    judgement.undefined = judgement.undefined or values.undefined
    judgement.notes += [note for note in values.notes if note not in judgement.notes]
    return judgement


def weighted(part: Expectation, weight: float) -> Expectation:
    """Return the expectation of a branch whose gains are multiplied by its weight."""
    numbers = part.batch.hyperparameters
    gains = {term.gain: weight * getattr(numbers, term.gain) for term in part.batch.family.terms}
    return Expectation(replace(part.batch, hyperparameters=replace(numbers, **gains)), part.dialect)
