"""Losses without exposed assignment, on batches with so many admissible assignments that not all can be tried."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.judgement.hidden.test_inferred import MANY_EQUALS, TIED, Hidden, OtherWay, drawn

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.reordered import ReorderedAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.hidden.fit import AssignmentFit, gradient_evidence
from tal_conformance.judgement.hidden.read import WeightRange
from tal_conformance.judgement.oracle.admissible import Ownership
from tal_reference import NEWEST, detection_loss


class Changed(Hidden):
    """A loss without exposed assignment; `before` changes its arguments and `factors` its items.

    Attributes:
        before: a function that returns changed annotations and hyperparameters; None changes nothing.
        factors: factors (3,) of the box, cls and dfl loss.
    """

    def __init__(
        self, before: Callable[..., Any] | None = None, factors: tuple[float, ...] = (1, 1, 1)
    ) -> None:
        super().__init__(ReferenceAdapter())
        self.before, self.factors = before, torch.tensor(factors)

    def loss(self, maps: Any, annotations: Any, head: Any, numbers: Any) -> Loss:
        if self.before is not None:
            annotations, numbers = self.before(annotations, numbers)
        loss = super().loss(maps, annotations, head, numbers)
        return replace(loss, total=loss.total * self.factors, items=loss.items * self.factors)


FAULTS = {
    "every ground truth is lost": Changed(lambda rows, numbers: (rows[:0], numbers)),
    "the ground truths of one image are lost": Changed(lambda rows, numbers: (rows[rows[:, 0] > 0], numbers)),
    "half of k": Changed(lambda rows, numbers: (rows, replace(numbers, topk=numbers.topk // 2))),
    "everything times 100": Changed(factors=(100, 100, 100)),
    "everything times 1.01": Changed(factors=(1.01, 1.01, 1.01)),
    "box loss times 1.5": Changed(factors=(1.5, 1, 1)),
    "no DFL": Changed(factors=(1, 1, 0)),
}
STEP = Batch.load(next(path for path in recorded_cases() if "e20d83f654b5" in path.name))
"""A batch recorded in the 32nd step of a training: 146 anchors tie for the top k."""


def judged(adapter: Any, batch: Batch) -> Verdict:
    try:
        return judge_against_reference(Subject(implementation_from(adapter, "hidden"), "cpu"), batch).verdict
    except Failure as failure:
        return failure.verdict


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("batch", [TIED.build(), STEP], ids=["tied", "recorded"])
def test_a_fault_is_found_though_not_every_assignment_can_be_tried(batch: Batch, fault: str):
    assert judged(FAULTS[fault], batch) is Verdict.DIVERGENT


@pytest.mark.parametrize(
    "batch", [TIED.build(), MANY_EQUALS.build(), STEP], ids=["tied", "equals", "recorded"]
)
@pytest.mark.parametrize("right", [Changed(), Hidden(OtherWay()), Hidden(ReorderedAdapter(torch.float64))])
def test_a_right_loss_is_decided(batch: Batch, right: Any):
    assert judged(right, batch) in (Verdict.EXACT, Verdict.WITHIN_BOUND, Verdict.ADMISSIBLE)


@pytest.mark.slow
def test_at_most_two_percent_of_all_batches_are_inconclusive():
    """A correct loss that breaks ties unlike the reference is INCONCLUSIVE on at most 2 % of batches."""
    verdicts = Counter(judged(Hidden(OtherWay()), batch) for batch in drawn())
    assert not verdicts[Verdict.DIVERGENT] + verdicts[Verdict.ERROR]
    assert verdicts[Verdict.INCONCLUSIVE] <= 0.02 * verdicts.total()


def test_the_reference_has_weights_within_their_range():
    """The reference's target weights lie within `WeightRange`, and many of its lower limits are above 0."""
    certain = 0
    for batch in (TIED.build(), STEP, MANY_EQUALS.build(), *drawn()[:10]):
        for fit, weights in fits_of(batch):
            admits = WeightRange.of(fit)
            assert (weights <= admits.high).all()
            assert (weights >= admits.low).all()
            assert weights.sum() >= admits.least
            certain += int((admits.low > 0).sum()) + int(admits.least > 0)
    assert certain > 50


def fits_of(batch: Batch) -> list[tuple[AssignmentFit, torch.Tensor]]:
    """Return, for each image with ground truths, an `AssignmentFit` and the reference's target scores (A, C)."""
    expected = Expectation(batch, NEWEST)
    if expected.rejection is not None:
        return []
    maps = tuple(level.detach().requires_grad_() for level in batch.feature_maps)
    loss = detection_loss(maps, batch.annotations, batch.head, batch.hyperparameters, NEWEST)
    gradients = torch.autograd.grad(loss.total, maps)
    evidence = gradient_evidence(Gradients(gradients), expected)  # type: ignore[arg-type]
    found = []
    for image, count in enumerate(expected.counts):
        if count:
            oracle = expected.image(image, expected.inputs, expected.input_errors[image])
            fit = AssignmentFit(expected, image, oracle, evidence)
            own = expected.assignment[image]
            owners = Ownership(own.foreground, own.truth_index)
            found.append((fit, fit.targets(owners).scores(batch.head.classes).double()))
    return found


class Gradients:
    """Stand-in for the result of a loss call, with gradients only."""

    def __init__(self, gradients: Any) -> None:
        self.gradients = gradients
