"""Bounds of 16-bit losses contain torch's results, are close to the real errors, and reveal faults."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Judgement, Mismatch, Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.comparators import Bounded, Quantity, assert_within
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rounding.mixed_precision import (
    box_sequences,
    class_scores,
    distance_sequences,
    hull,
    log_probability_sequences,
    pixel_boxes,
)
from tal_reference import NEWEST

DTYPES = (torch.float16, torch.bfloat16)
ROWS = 500
BATCHES = tuple(
    Recipe(images=((Truth("huge"), Truth("ordinary", label=1)), (Truth("ordinary", at=(5, 4), size=(9, 7)),)),
           classes=2, cells=(8, 8), predictions="near", seed=seed)
    for seed in (1, 2, 3)
)  # fmt: skip
ILL_CONDITIONED = Recipe(
    images=(
        (Truth("ordinary", at=(8, 11), size=(6, 0)), Truth("off_lattice", at=(3, 5), size=(1, 1)),
         Truth("ordinary", at=(5, 2), size=(9, 2)), Truth("off_lattice", label=1, at=(12, 13), size=(4, 4)),
         Truth("ordinary", size=(15, 0)), Truth("off_lattice", at=(1, 10), size=(12, 12))),
        (Truth("off_lattice", at=(7, 8), size=(2, 0)),),
    ),
    strides=(8, 16, 32), classes=3, predictions="near", levels=1, seed=5941, streams=(135, 253),
)  # fmt: skip
"""A batch with metrics so small that rounding of u changes target scores by factors of millions."""


def logits(reg_max: int, dtype: torch.dtype, offset: float = 0.0) -> Tensor:
    """Return random distance logits (ROWS, 4R), plus `offset`, in a 16-bit dtype."""
    random = torch.Generator().manual_seed(reg_max)
    return (3 * torch.randn(ROWS, 4 * reg_max, generator=random) + offset).to(dtype)


def official(sides: Tensor, bins: Tensor) -> Tensor:
    return sides.softmax(-1) @ bins


def multiplied(sides: Tensor, bins: Tensor) -> Tensor:
    return (sides.softmax(-1) * bins).sum(-1)


def float32_softmax(sides: Tensor, bins: Tensor) -> Tensor:
    """Return distances (ROWS, 4) as CUDA's autocast does: softmax in float32, product in 16 bits."""
    return sides.float().softmax(-1).to(sides.dtype) @ bins


def float32(sides: Tensor, bins: Tensor) -> Tensor:
    return sides.float().softmax(-1) @ bins.float()


@pytest.mark.parametrize("offset", [0.0, 12.0, 90.0])
@pytest.mark.parametrize("decoding", [official, multiplied, float32_softmax, float32])
@pytest.mark.parametrize("reg_max", [2, 16, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_boxes_of_every_order_of_operations_lie_within_their_interval(
    dtype: torch.dtype, reg_max: int, decoding: Callable[[Tensor, Tensor], Tensor], offset: float
):
    distances = logits(reg_max, dtype, offset)
    centres, strides = (
        torch.arange(ROWS)[:, None] % 40 + torch.full((ROWS, 2), 0.5),
        torch.full((ROWS, 1), 32.0),
    )
    bins = torch.arange(reg_max).to(dtype)
    sides = decoding(distances.unflatten(1, (4, reg_max)), bins)  # (ROWS, 4)
    places = centres.to(sides.dtype)
    cells = torch.cat((places - sides[:, :2], places + sides[:, 2:]), 1)  # (ROWS, 4)
    pixels = cells * strides.to(sides.dtype)
    exact = distances.double()
    for observed, interval in (
        (sides, hull(distance_sequences(exact, reg_max, dtype))),
        (cells, hull(box_sequences(exact, centres.double(), reg_max, dtype))),
        (pixels, pixel_boxes(exact, centres.double(), strides.double(), reg_max, dtype)),
    ):
        assert (interval.low <= observed.double()).all()
        assert (observed.double() <= interval.high).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_sequence_of_roundings_is_what_torch_computes(dtype: torch.dtype):
    """Each modelled order of rounding gives narrow intervals of distances; torch's distances fit one order."""
    distances = logits(16, dtype)
    sides = official(distances.unflatten(1, (4, 16)), torch.arange(16).to(dtype)).double()
    sequences = distance_sequences(distances.double(), 16, dtype)
    narrow = [interval for interval in sequences if float((interval.radius / sides).median()) < 1e-5]
    assert len(narrow) == len(sequences)
    assert any(float((interval.middle == sides).double().mean()) > 0.95 for interval in sequences)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probabilities_and_scores_lie_within_their_intervals(dtype: torch.dtype):
    distances = logits(16, dtype)
    sides, exact = distances.unflatten(1, (4, 16)), distances.double()
    for observed in (sides.log_softmax(-1), sides.float().log_softmax(-1)):
        interval = hull(list(log_probability_sequences(exact, 16, dtype)))
        assert (interval.low <= observed.double()).all()
        assert (observed.double() <= interval.high).all()
    scores = class_scores(exact, dtype)
    for score in (distances.sigmoid(), distances.float().sigmoid()):
        assert (scores.low <= score.double()).all()
        assert (score.double() <= scores.high).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", BATCHES)
def test_the_allowed_error_of_hidden_boxes_is_close_to_the_real_one(recipe: Recipe, dtype: torch.dtype):
    expected = Expectation(replace(recipe.build().to(dtype=dtype), autocast=True), NEWEST)
    strides = expected.predictions.anchors.strides
    real = (expected.inputs.boxes.double() - expected.predictions.boxes * strides).abs().amax()
    allowed = torch.stack([errors.boxes for errors in expected.input_errors]).amax()
    assert allowed <= 2 * real


class Changed:
    """The reference with a changed loss; if `shows` is False, the adapter does not expose the assignment."""

    dialect = NEWEST

    def __init__(self, change: Callable[[Loss], Loss], shows: bool) -> None:
        self.change, self.shows, self.name = change, shows, "changed"

    def loss(self, *arguments: Any) -> Loss:
        loss = self.change(ReferenceAdapter().loss(*arguments))
        shown = None if loss.assignment is None else replace(loss.assignment, stages=None)
        return replace(loss, assignment=shown if self.shows else None, inputs=None)


def items_times(*factors: float) -> Callable[[Loss], Loss]:
    """Return a function that multiplies box, cls and dfl of a loss, and their gradients, by factors."""

    def change(loss: Loss) -> Loss:
        factor = torch.tensor(factors)
        return replace(loss, items=loss.items * factor, total=loss.total * factor)

    return change


def smaller_scores(loss: Loss) -> Loss:
    """Return the loss with its exposed target scores multiplied by 0.95, and all other values unchanged."""
    assert loss.assignment is not None
    return replace(loss, assignment=replace(loss.assignment, scores=loss.assignment.scores * 0.95))


CHANGES: dict[str, tuple[Callable[[Loss], Loss], bool]] = {
    "box loss x 1.5": (items_times(1.5, 1, 1), False),
    "no DFL": (items_times(1, 1, 0), False),
    "cls x 1.2": (items_times(1, 1.2, 1), False),
    "DFL x 0.95": (items_times(1, 1, 0.95), False),
    "scores x 0.95, shown": (smaller_scores, True),
}


def judged(change: Callable[[Loss], Loss], shows: bool, batch: Batch) -> Judgement:
    return judge_against_reference(
        Subject(implementation_from(Changed(change, shows), "changed"), "cpu"), batch
    )


def verdict_of(change: Callable[[Loss], Loss], shows: bool, batch: Batch) -> Verdict:
    try:
        return judged(change, shows, batch).verdict
    except Failure as failure:
        return failure.verdict


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", BATCHES)
def test_the_unchanged_loss_conforms(recipe: Recipe, dtype: torch.dtype):
    batch = replace(recipe.build().to(dtype=dtype), autocast=True)
    for shows in (False, True):
        assert judged(items_times(1, 1, 1), shows, batch).verdict in (
            Verdict.EXACT, Verdict.WITHIN_BOUND, Verdict.ADMISSIBLE,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recipe", BATCHES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_loss_is_not_green_under_autocast(change: str, recipe: Recipe, dtype: torch.dtype):
    """Under autocast a changed loss is DIVERGENT or, in bfloat16 without exposed assignment, INCONCLUSIVE."""
    batch = replace(recipe.build().to(dtype=dtype), autocast=True)
    changed, shows = CHANGES[change]
    if dtype is torch.float16 or shows:
        with pytest.raises(Failure):
            judged(changed, shows, batch)
        return
    assert verdict_of(changed, shows, batch) in (Verdict.INCONCLUSIVE, Verdict.DIVERGENT)


def test_a_hidden_loss_of_ill_conditioned_weights_is_never_green_if_it_is_a_hundred_times_too_large():
    """A loss 100 times too large never conforms, even if target scores are unknown because of rounding."""
    batch = ILL_CONDITIONED.build()
    conforming = judged(items_times(1, 1, 1), False, batch)
    assert conforming.verdict in (Verdict.EXACT, Verdict.WITHIN_BOUND, Verdict.ADMISSIBLE)
    verdict = verdict_of(items_times(100, 100, 100), False, batch)
    assert verdict in (Verdict.INCONCLUSIVE, Verdict.DIVERGENT)


def test_a_bound_of_more_than_half_the_range_is_inconclusive():
    judgement, quantity = Judgement(), Quantity("dfl loss", "LOSS-DFL-1")
    wide = Bounded(torch.tensor(2.5), torch.tensor(3e6), value_range=torch.tensor(4.0))
    judgement.note("dfl", assert_within, quantity, torch.tensor(250.0), wide)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.notes == [
        "dfl loss is not judged: its bound, 3e+06, is more than 50% of the range in which it can lie, 4"
    ]
    narrow = Bounded(torch.tensor(2.5), torch.tensor(1.9), value_range=torch.tensor(4.0))
    assert not assert_within(quantity, torch.tensor(2.6), narrow).too_wide
    with pytest.raises(Mismatch):
        assert_within(quantity, torch.tensor(4.6), narrow)


def overflowing(dtype: torch.dtype, autocast: bool) -> Batch:
    """Return a batch of 430,080 class logits with a loss of 1.3 each, whose sum exceeds float16's range."""
    batch = Recipe(
        images=((Truth("huge"),),), cells=(32, 32), strides=(8, 16, 32), classes=80, predictions="near"
    ).build()
    channels = 4 * batch.head.reg_max
    maps = [
        torch.cat((level[:, :channels], torch.ones_like(level[:, channels:])), 1)
        for level in batch.feature_maps
    ]
    return replace(replace(batch, feature_maps=tuple(maps)).to(dtype=dtype), autocast=autocast)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_class_loss_that_overflows_in_float16_is_judged(autocast: bool):
    """If the class loss overflows in float16, correct losses conform and a wrong class loss fails."""
    batch = overflowing(torch.float16, autocast)
    for name in ("ultralytics", "reference"):
        judge_against_reference(Subject(find(name), "cpu"), batch)
    with pytest.raises(Failure):
        judged(items_times(1, float("inf") if autocast else 0.5, 1), True, batch)
