"""The judge of masks: correct losses conform on fixed batches of every strategy, and wrong losses do not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.common.hidden import HidesEverything, subject_of
from torch import Tensor
from torch.nn import functional

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import SEGMENT, StageName, task_of
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.judgement.failure import Failure
from tal_conformance.judgement.rounding.enclosure import Enclosure
from tal_conformance.judgement.rounding.masks import ImageErrors, box_edges, insides, interpolation_slack
from tal_conformance.mutation.planted_faults import FaultyReference
from tal_conformance.mutation.planted_faults.keypoints import SHARED
from tal_conformance.mutation.planted_faults.masks import MASK_FAULTS
from tal_reference import Head, Hyperparameters
from tal_reference.masks import inside, size_of

LEFT_OUT = ("crossings", "long_batches", "loss_of_large_boxes", "rows_in_any_order")
"""Strategies whose batches take seconds, or that the newest dialect does not accept."""
NAMES = [name for name in STRATEGIES_BY_TASK[SEGMENT.name] if name not in LEFT_OUT]
MASKED = Recipe(
    images=(
        (Truth("ordinary", 0, (3, 5), (9, 4)), Truth("ordinary", 1, (8, 8), (3, 6))),
        (Truth("ordinary", 1, (1, 1), (7, 7)),),
    ),
    classes=2,
    predictions="near",
    hyperparameters=Hyperparameters(box_gain=3.0),
    task=SEGMENT.name,
    prototypes=3,
)
"""Two images with different numbers of ground truths."""


@pytest.mark.parametrize("name", NAMES)
def test_correct_losses_conform(name: str):
    """Official code and the reference conform on fixed batches of every strategy of masks."""
    for recipe in sample_recipes(STRATEGIES_BY_TASK[SEGMENT.name][name], 3):
        for adapter in (UltralyticsAdapter(), ReferenceAdapter()):
            judge_against_reference(subject_of(adapter), recipe.build(), each_term=True)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("ratio", [4, 8, 2])
def test_official_masks_of_every_encoding_and_size_conform(ratio: int, overlapping: bool):
    batch = replace(MASKED, mask_ratio=ratio, overlapping_masks=overlapping).build()
    judgement = judge_against_reference(subject_of(UltralyticsAdapter()), batch, each_term=True)
    assert judgement.verdict is not Verdict.INCONCLUSIVE


def test_a_hidden_assignment_conforms():
    judgement = judge_against_reference(subject_of(HidesEverything()), MASKED.build())
    assert judgement.verdict is not Verdict.INCONCLUSIVE


@pytest.mark.parametrize("hidden", [False, True])
def test_a_mask_loss_that_is_wrong_by_a_thousandth_diverges(hidden: bool):
    """A factor of 1.001 on the term seg is found at its stage, also if the assignment is hidden."""

    class WrongFactor(HidesEverything if hidden else ReferenceAdapter):  # type: ignore[misc]
        def loss(self, *arguments: Any) -> Loss:
            result: Loss = super().loss(*arguments)
            factor = result.total.new_tensor((1, 1.001, 1, 1, 1))
            return replace(result, total=result.total * factor, items=result.items * factor)

    with pytest.raises(Failure) as caught:
        judge_against_reference(subject_of(WrongFactor()), MASKED.build())
    assert caught.value.stage == StageName.SEG


@pytest.mark.parametrize("place", ["coefficients", "prototypes"])
def test_a_gradient_that_is_wrong_by_a_thousandth_diverges(place: str):
    """The gradients on coefficients and on prototypes are judged, each in its place."""

    class WrongGradient(ReferenceAdapter):
        def loss(self, maps: tuple[Tensor, ...], rows: Tensor, head: Head, numbers: Hyperparameters) -> Loss:
            def scaled(values: Tensor) -> Tensor:
                return values + 0.001 * (values - values.detach())

            levels = [
                torch.cat((level[:, : head.channels], scaled(level[:, head.channels :])), dim=1)
                for level in maps[:-1]
            ]
            changed = (*levels, maps[-1]) if place == "coefficients" else (*maps[:-1], scaled(maps[-1]))
            return super().loss(changed, rows, head, numbers)

    with pytest.raises(Failure) as caught:
        judge_against_reference(subject_of(WrongGradient()), MASKED.build())
    assert caught.value.stage == StageName.GRADIENTS
    quantity = "mask coefficients" if place == "coefficients" else "prototypes"
    assert f"gradient of total on {quantity}" in str(caught.value)


def fails_with(name: str, recipe: Recipe) -> Failure | None:
    """Return the failure of the reference with a fault planted, on one batch."""
    try:
        judge_against_reference(
            subject_of(FaultyReference(MASK_FAULTS[name])), recipe.build(), each_term=True
        )
    except Failure as failure:
        return failure
    return None


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in MASK_FAULTS if name not in SHARED])
def test_a_planted_fault_is_found_at_its_stage(name: str):
    fault = MASK_FAULTS[name]
    recipes = sample_recipes(STRATEGIES_BY_TASK[SEGMENT.name][fault.check], 250)
    failures = (fails_with(name, recipe) for recipe in recipes)
    assert any(failure.stage == fault.stage for failure in failures if failure is not None)


def test_a_box_without_area_leaves_gradients_of_masks_open():
    """SEG-3: the mask loss is 0 / 0. NaN is expected, a number diverges, and no gradient on masks is judged."""
    truths = (Truth("zero_area", 0, (3, 1), (2, 0)),)
    large = replace(MASKED, images=(truths,), cells=(4, 8), strides=(8, 16, 32, 64), predictions="random")
    batch = large.build()
    assert ReferenceAdapter().loss(*arguments_of(batch)).items[1].isnan()
    judgement = judge_against_reference(subject_of(UltralyticsAdapter()), batch, each_term=True)
    assert not judgement.verdict.fails

    class Finite(ReferenceAdapter):
        def loss(self, *arguments: Any) -> Loss:
            result: Loss = super().loss(*arguments)
            return replace(result, total=result.total.nan_to_num(), items=result.items.nan_to_num())

    with pytest.raises(Failure, match="seg loss"):
        judge_against_reference(subject_of(Finite()), batch)


def test_a_box_whose_area_may_be_zero_has_unlimited_errors_and_none_that_are_nan():
    """SEG-2: where the scale is unlimited, losses of exactly zero have no bound; NaN would compare as a failure."""
    boxes = torch.tensor([[2.0, 2.0, 2.0, 6.0], [1.0, 1.0, 5.0, 5.0]]).double()  # (2, 4): one without area
    logits = torch.tensor([[1000.0], [-1000.0]]).double()  # (2, 1): losses of 0 or 1000
    true = torch.ones(2, 8, 8).double()
    prototypes, around = torch.ones(1, 8, 8).double(), torch.zeros(1).double()
    errors = ImageErrors.of(logits, prototypes, around, true, Enclosure.around(boxes, 1e-6, 1e-7), 1e-7)
    parts = (errors.loss, errors.untrained, errors.coefficients, errors.prototypes, errors.gradient)
    assert not any(part.isnan().any() for part in parts)
    assert errors.loss.isinf()
    assert errors.coefficients[0].isinf().all()
    assert errors.coefficients[1].isfinite().all()


def arguments_of(batch: Batch) -> tuple[Any, ...]:
    return batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters


@pytest.mark.parametrize(("edge", "pixels", "certain"), [(16.0, 24, True), (38.4, 5, False)])
def test_edges_on_pixels_are_certain_if_every_order_is_exact(edge: float, pixels: int, certain: bool):
    """T8: x / W w_m of 96 pixels is exact for masks of 24; for those of 5, rounding decides about a column."""
    boxes = torch.tensor([[edge, 8.0, 90.0, 40.0]]).double()
    edges = box_edges(boxes, (96, 96), (pixels, pixels), 0.0, 1e-7)
    surely, perhaps = insides(edges, (pixels, pixels))
    assert torch.equal(surely, perhaps) is certain
    assert not (surely & ~perhaps).any()


ORDERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum of products": lambda c, p: (c[:, :, None, None] * p).sum(1),
    "matrix product": lambda c, p: (c @ p.flatten(1)).unflatten(1, p.shape[1:]),
    "backwards": lambda c, p: torch.einsum("pn,nhw->phw", c.flip(1), p.flip(0)),
}


def losses_in_boxes(logits: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
    """Return the mask loss of each box, summed row by row and divided by the area."""
    losses = functional.binary_cross_entropy_with_logits(logits, true, reduction="none")  # (P, h, w)
    kept = inside(boxes, size_of(true))  # (P, h, w)
    return (losses * kept).sum(2).sum(1) / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


@pytest.mark.parametrize("order", ORDERS)
def test_other_orders_of_summation_conform(order: str):
    """A mask's logits may be summed in any order, and losses row by row, without a mean over all pixels."""

    class Reordered(ReferenceAdapter):
        def loss(self, *arguments: Any) -> Loss:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tal_reference.masks.mask_logits", ORDERS[order])
                patch.setattr("tal_reference.masks.mask_loss", losses_in_boxes)
                return super().loss(*arguments)

    for recipe in sample_recipes(STRATEGIES_BY_TASK[SEGMENT.name]["loss"], 6):
        judge_against_reference(subject_of(Reordered()), recipe.build(), each_term=True)


def test_rows_and_heads_of_masks():
    """A batch has a column for each pixel; masks that overlap, rows and heads that do not fit are rejected."""
    batch = MASKED.build()
    assert batch.head.masks == (8, 8)
    assert batch.annotations.shape[1] == 6 + 64
    assert "3 prototypes 8x8, overlapping masks 8x8" in batch.describe()
    assert task_of(batch.head, 70) is SEGMENT
    with pytest.raises(ValueError, match=r"expected \(N, 70\)"):
        replace(batch, annotations=batch.annotations[:, :-1])
    with pytest.raises(ValueError, match="expects the height and width of the true masks"):
        replace(batch, head=Head((8,), 2))
    with pytest.raises(ValueError, match="expected one per stride, and one of prototypes"):
        replace(batch, feature_maps=batch.feature_maps[:-1])
    wrong = batch.annotations.clone()
    wrong[:, 6] = 1.0
    with pytest.raises(ValueError, match="masks of one image overlap or have values between 0 and 1"):
        replace(batch, annotations=wrong)
    replace(batch, annotations=wrong, head=replace(batch.head, overlapping_masks=False))
    wrong[:, 6] = 2.0
    with pytest.raises(ValueError, match=r"a pixel of a mask lies outside \[0, 1\]"):
        replace(batch, annotations=wrong, head=replace(batch.head, overlapping_masks=False))
    for place, value, words in (
        ((0, 0), 1e9, "names image 1e[+]09, expected 0 to 1"),
        ((0, 9), float("nan"), "row 0 is not finite: column 9 is nan"),
    ):
        wrong = batch.annotations.clone()
        wrong[place] = value
        with pytest.raises(ValueError, match=words):
            replace(batch, annotations=wrong)
    with pytest.raises(ValueError, match="expected a number of at least 1, a height and a width"):
        Head((8,), 2, prototypes=3)


def test_stages_of_masks_follow_those_of_detection():
    assert list(SEGMENT.clauses)[8:] == ["cls", "box", "dfl", "seg", "sem", "total", "gradients"]
    assert SEGMENT.item_of == {"cls": 2, "box": 0, "dfl": 3, "seg": 1, "sem": 4}
    assert [term.name for term in SEGMENT.terms if not term.weighted] == [StageName.SEG, StageName.SEM]


@pytest.mark.parametrize(("size", "to"), [(160, 97), (33, 49), (97, 160), (20, 13), (8, 31)])
def test_the_interpolation_of_prototypes_rounds_within_its_bound(size: int, to: int):
    """A checkerboard has the largest differences of neighbours."""
    places = torch.arange(size)
    board = ((places[:, None] + places) % 2 * 2 - 1)[None, None].float()  # (1, 1, size, size)
    coarse, exact = (
        functional.interpolate(maps, (to, to), mode="bilinear", align_corners=False)
        for maps in (board, board.double())
    )
    error = float((coarse.double() - exact).abs().max())
    eps = torch.finfo(torch.float32).eps
    assert 0 < error <= interpolation_slack((size, size), eps)
    assert interpolation_slack((size, size), eps) < 1e-3  # still finds an error of a thousandth
