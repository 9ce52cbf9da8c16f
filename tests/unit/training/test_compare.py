from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Divergence
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_conformance.training import compare as training
from tal_conformance.training.compare import (
    Control,
    Ended,
    Reference,
    Subject,
    choice_of,
    compare_training,
    factor,
    gradient_on,
    own_targets,
    reference_training,
    same_choice,
)
from tal_conformance.training.yolov8n import RecordedTraining, Schedule, recorded_training
from tal_reference import ARTICLE, NEWEST, Head, Hyperparameters, detection_loss

SMALL = Schedule(steps=30, recorded=(0, 29), sizes=((64, 96),), pool=2)
STEPS = 4
Planted = Callable[[tuple[Tensor, ...], Tensor, Head, Hyperparameters], Loss]


@pytest.fixture(scope="module")
def recorded() -> RecordedTraining:
    return recorded_training(SMALL)


def an_implementation(loss: Planted) -> Implementation:
    class Adapter:
        name = "planted"

        def loss(self, *arguments: Any) -> Loss:
            return loss(*arguments)

    return implementation_from(Adapter(), "planted")


def with_numbers(exposes_assignment: bool = False, **changed: float) -> Planted:
    """Return the reference's loss with changed hyperparameters. If `exposes_assignment`, it exposes its assignment."""

    def loss(maps: tuple[Tensor, ...], rows: Tensor, head: Head, numbers: Hyperparameters) -> Loss:
        returned = ReferenceAdapter().loss(maps, rows, head, replace(numbers, **changed))
        return returned if exposes_assignment else replace(returned, assignment=None)

    return loss


def steeper_boxes(maps: tuple[Tensor, ...], rows: Tensor, head: Head, numbers: Hyperparameters) -> Loss:
    """Return a loss with correct values, whose gradient for the distance logits is one percent too large."""
    sides = 4 * head.reg_max
    steep = tuple(
        torch.cat(
            (level[:, :sides] + 0.01 * (level[:, :sides] - level[:, :sides].detach()), level[:, sides:]),
            dim=1,
        )
        for level in maps
    )
    return with_numbers()(steep, rows, head, numbers)


@pytest.mark.slow
def test_official_training_leads_to_the_same_weights(recorded: RecordedTraining):
    comparison = compare_training(find("ultralytics"), recorded, STEPS)
    assert comparison.agrees, comparison.summary
    assert comparison.steps == STEPS
    assert 0 < comparison.worst < comparison.bound / factor(training.CONTROLS)  # nearer than the controls are
    assert comparison.bound < 0.01
    assert "after 4 steps, the weights trained with the loss of ultralytics differ " in comparison.summary


@pytest.mark.slow
def test_a_training_of_an_earlier_process_is_compared_with_and_alone_never_refutes(
    recorded: RecordedTraining, monkeypatch: pytest.MonkeyPatch
):
    """A stored training of the reference gives the same verdict as a new training.

    An implementation is judged to be wrong only after the reference is trained anew.
    """
    implementation = find("ultralytics")
    ended = reference_training(recorded, NEWEST, STEPS)
    fresh = compare_training(implementation, recorded, STEPS)
    further = Ended(ended.weights + 1, ended.choices)
    assert compare_training(implementation, recorded, STEPS, ended=further) == fresh
    wrong = compare_training(an_implementation(with_numbers(topk=9)), recorded, STEPS, ended=ended)
    assert not wrong.agrees

    def not_again(*arguments: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "_reference_training", not_again)
    rms = 1.0  # a bound so wide that every implementation agrees
    assert compare_training(implementation, recorded, STEPS, rms=rms, ended=ended).worst == fresh.worst
    with pytest.raises(ValueError, match="zip"):
        compare_training(
            implementation, recorded, STEPS, rms=rms, ended=Ended(ended.weights, ended.choices[:1])
        )


def test_the_references_own_training_leads_to_the_very_same(recorded: RecordedTraining):
    comparison = compare_training(find("reference"), recorded, STEPS)
    assert (comparison.worst, comparison.agrees, comparison.followed) == (0.0, True, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(with_numbers(box_gain=7.45), id="box gain 7.45 for 7.5"),
        pytest.param(with_numbers(cls_gain=0.505), id="class gain 0.505 for 0.5"),
        pytest.param(with_numbers(dfl_gain=1.49), id="DFL gain 1.49 for 1.5"),
        pytest.param(with_numbers(topk=9), id="k 9 for 10"),
        pytest.param(with_numbers(beta=6.1), id="beta 6.1 for 6"),
        pytest.param(with_numbers(alpha=0.6), id="alpha 0.6 for 0.5"),
        pytest.param(with_numbers(exposes_assignment=True, topk=9), id="k 9 for 10, shown"),
        pytest.param(steeper_boxes, id="gradient alone"),
    ],
)
def test_a_wrong_loss_leads_elsewhere(recorded: RecordedTraining, loss: Planted):
    comparison = compare_training(an_implementation(loss), recorded, STEPS)
    assert not comparison.agrees
    assert comparison.worst > comparison.bound
    assert "NOT within the bound" in comparison.summary


def test_a_factor_on_everything_is_left_to_the_stage_total(recorded: RecordedTraining):
    def loss(*arguments: Any) -> Loss:
        right = with_numbers(exposes_assignment=True)(*arguments)
        return replace(right, total=right.total * 1.01)

    implementation = an_implementation(loss)
    # the factor has no effect: the gradient is clipped
    assert compare_training(implementation, recorded, STEPS).agrees
    with pytest.raises(Divergence, match="total"):
        judge(execute(implementation, recorded.batches[1]), Expectation(recorded.batches[1], NEWEST))


def test_a_loss_that_raises_is_reported(recorded: RecordedTraining):
    def loss(*arguments: Any) -> Loss:
        raise RuntimeError("out of ideas")

    with pytest.raises(ImplementationFailed, match="out of ideas"):
        compare_training(an_implementation(loss), recorded, 1)


def test_the_bound_holds_for_one_training_in_so_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "FALSE_ALARM", 0.05)
    source = torch.Generator().manual_seed(0)
    ends = torch.randn(200_000, 1 + training.CONTROLS, generator=source).abs()
    rms = ends[:, 1:].square().mean(1).sqrt()
    beyond = (ends[:, 0] > factor(training.CONTROLS) * rms).float().mean()
    assert beyond == pytest.approx(0.05, abs=0.003)  # six standard deviations of 200,000 draws


def test_the_bound_holds_for_more_where_many_directions_scatter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "FALSE_ALARM", 0.05)
    source = torch.Generator().manual_seed(0)
    ends = torch.randn(20_000, 1 + training.CONTROLS, 5, generator=source).norm(dim=2)
    rms = ends[:, 1:].square().mean(1).sqrt()
    assert (ends[:, 0] > factor(training.CONTROLS) * rms).float().mean() < 0.005


# A single training step


@pytest.fixture(scope="module")
def batch(recorded: RecordedTraining) -> Batch:
    return recorded.batches[1]


def own_choice(batch: Batch) -> list[Tensor]:
    return choice_of(own_targets(batch, NEWEST), batch)


def equal_maps(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Return True if two sets of feature maps differ by at most 1e-6 of the largest value."""
    largest = max(float(level.abs().max()) for level in first)
    return all(
        torch.allclose(left, right, rtol=0, atol=1e-6 * largest)
        for left, right in zip(first, second, strict=True)
    )


def test_the_later_stages_on_ones_own_choice_are_the_whole_loss(batch: Batch):
    maps = [level.clone().requires_grad_() for level in batch.feature_maps]
    total = detection_loss(maps, batch.annotations, batch.head).total
    assert equal_maps(gradient_on(batch, own_choice(batch)), torch.autograd.grad(total, maps))


def test_a_choice_is_the_same_whoever_shows_it(batch: Batch):
    for name in ("reference", "ultralytics"):
        exposes_assignment = execute(find(name), batch).assignment
        assert exposes_assignment is not None
        assert same_choice(choice_of(exposes_assignment, batch), own_choice(batch))


def without_one(choice: list[Tensor]) -> list[Tensor]:
    """Return assignments (masks of positives (M, A) for each image) with one positive removed."""
    image = next(number for number, positives in enumerate(choice) if positives.any())
    truth, anchor = choice[image].nonzero()[0].tolist()
    changed = [positives.clone() for positives in choice]
    changed[image][truth, anchor] = False
    return changed


def test_an_allowed_choice_is_followed(batch: Batch):
    subject = Subject(find("reference"))
    subject(0, batch)
    subject.choices = [without_one(subject.choices[0])]  # all else is right
    reference = Reference(NEWEST, subject)
    gradients = reference(0, batch)
    assert (reference.followed, reference.problem) == (1, "")
    assert same_choice(reference.choices[0], subject.choices[0])
    assert equal_maps(gradients, gradient_on(batch, subject.choices[0]))
    assert not equal_maps(gradients, gradient_on(batch, own_choice(batch)))


def test_a_wrong_choice_is_not_followed(batch: Batch):
    subject = Subject(an_implementation(with_numbers(exposes_assignment=True, topk=3)))
    subject(0, batch)
    reference = Reference(NEWEST, subject)
    assert equal_maps(reference(0, batch), gradient_on(batch, own_choice(batch)))
    assert reference.followed == 0
    assert "at step 1 the implementation diverges from the reference" in reference.problem


def test_a_dialect_makes_its_own_choices(recorded: RecordedTraining):
    batch = recorded.batches[0]  # shows neckties narrower than 16 px: only NEWEST widens their boxes
    assert not same_choice(choice_of(own_targets(batch, ARTICLE), batch), own_choice(batch))


def test_controls_move_the_gradient_a_little_and_differently(batch: Batch):
    choices = [own_choice(batch)]
    exact, first, same, second = (
        torch.cat([level.flatten() for level in gradients])
        for gradients in (
            gradient_on(batch, choices[0]),
            *(Control(choices, seed)(0, batch) for seed in (1, 1, 2)),
        )
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, second)
    share = (first - exact).norm() / exact.norm()
    assert 1e-7 < share < 1e-3
