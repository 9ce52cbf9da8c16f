"""Relations of losses with another N or another factor: they hold, because each loss is compared with itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.devices.checks import judged_against
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import RELATIONS, NotApplicable, NotObservable
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import NEWEST, Head

FEW = Recipe(images=((Truth("ordinary"),), (Truth("ordinary"),)), cells=(6, 8), strides=(8, 16), classes=2)
"""The sum of all target scores is below 1."""
MANY = Recipe(
    images=((Truth("huge"), Truth("ordinary")), (Truth("huge"), Truth("ordinary"))),
    cells=(6, 8),
    strides=(8, 16),
    classes=2,
    predictions="near",
)
"""The sum of the target scores of each image is above 1."""
NONE = Recipe(images=((), ()), cells=(4, 6), strides=(8, 16), classes=2)
"""The sum of all target scores is 0."""
Factor = Callable[[Tensor, Tensor], Tensor | float]
"""Returns the factor of the loss from target scores (B, A, C) and the mask (B, A) of positives."""


def score_sum(scores: Tensor) -> Tensor:
    return scores.sum().clamp(min=1)


FACTORS: dict[str, Factor] = {
    "no floor": lambda scores, _: score_sum(scores) / scores.sum() if scores.any() else 1.0,
    "a floor of 0.1": lambda scores, _: score_sum(scores) / scores.sum().clamp(min=0.1),
    "the number of positives": lambda scores, positives: score_sum(scores) / positives.sum().clamp(min=1),
    "the mean over images": lambda scores, _: score_sum(scores) / (scores.sum() / len(scores)).clamp(min=1),
    "one more": lambda scores, _: score_sum(scores) / (scores.sum() + 1),
}


class OtherFactor(ReferenceAdapter):
    """The reference with another N, or with a total without the number of images."""

    def __init__(self, factor: Factor, hides: bool, of_images: bool = True, spoils: bool = False) -> None:
        super().__init__(NEWEST)
        self.name, self.exposes_stages = "other factor", not hides
        self.factor, self.hides, self.of_images, self.spoils = factor, hides, of_images, spoils

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        assert loss.assignment is not None
        assert loss.items is not None
        factor = self.factor(loss.assignment.scores, loss.assignment.foreground)
        items, total = loss.items * factor, loss.total * factor
        if not self.of_images:
            total = total / len(feature_maps[0])
        if self.spoils:  # once for a batch, not once for an image
            items = items + torch.tensor([0.0, 0.01, 0.0])
        changed = replace(loss, total=total, items=items)
        return replace(changed, assignment=None, inputs=None) if self.hides else changed


def subject(*arguments: Any, **named: Any) -> Subject:
    return Subject(implementation_from(OtherFactor(*arguments, **named), "other factor"), "cpu")


def failing_relations(tested: Subject, recipe: Recipe) -> set[str]:
    """Return the clauses of all relations that do not hold on the batch of a recipe."""
    failing = set()
    for clause, relation in RELATIONS.items():
        try:
            relation(tested, recipe.build())
        except Failure:
            failing.add(clause)
        except (NotApplicable, NotObservable):
            pass
    return failing


def test_the_batches_have_a_small_score_sum():
    expected = Expectation(FEW.build(), NEWEST)
    assert 0 < sum(float(image.weights.sum()) for image in expected.assignment) < 0.7
    assert not len(NONE.build().annotations)


def violated(name: str, recipe: Recipe) -> set[str]:
    """Return the relations that another N violates: it is not a sum over the parts, or images without ground truths
    change it."""
    if recipe is FEW and name in ("no floor", "a floor of 0.1", "one more"):
        return {"META-SPLIT"}
    return {"META-PADDING"} if recipe is NONE and name == "the mean over images" else set()


@pytest.mark.parametrize("recipe", [FEW, NONE], ids=["few", "none"])
@pytest.mark.parametrize("name", FACTORS)
def test_relations_report_another_score_sum_only_where_it_violates_them(name: str, recipe: Recipe):
    assert failing_relations(subject(FACTORS[name], False), recipe) == violated(name, recipe)


@pytest.mark.parametrize("recipe", [FEW, NONE], ids=["few", "none"])
@pytest.mark.parametrize("name", FACTORS)
def test_no_other_relation_reports_it_where_the_assignment_is_hidden(name: str, recipe: Recipe):
    assert failing_relations(subject(FACTORS[name], True), recipe) <= violated(name, recipe)


def test_an_empty_image_reports_a_mean_over_images():
    assert {"META-SPLIT", "META-EMPTY-IMAGE"} <= failing_relations(
        subject(FACTORS["the mean over images"], False), MANY
    )


ALL_POSITIVE = Recipe(
    images=((Truth("ordinary"),), (Truth("huge"),)), cells=(2, 5), strides=(8,), classes=1, predictions="near"
)


@pytest.mark.parametrize("name", ["no floor", "a floor of 0.1", "one more"])
def test_the_comparison_with_the_dialect_reports_it(name: str):
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject(FACTORS[name], False), FEW.build())
    assert caught.value.clause == "LOSS-SUM-1"


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("recipe", [FEW, NONE], ids=["few", "none"])
def test_relations_hold_without_the_number_of_images(recipe: Recipe, hides: bool):
    assert failing_relations(subject(lambda *_: 1.0, hides, of_images=False), recipe) == set()


@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", ["no floor", "one more"])
def test_a_term_with_a_part_that_is_added_once_for_a_batch_is_found(name: str, hides: bool):
    tested = subject(FACTORS[name], hides, spoils=True)
    found = failing_relations(tested, FEW)
    assert "META-PADDING" in found
    assert hides or {"META-SPLIT", "META-EMPTY-IMAGE"} <= found  # a hidden assignment may have changed


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("clause", ["META-SPLIT", "META-PADDING", "META-IMAGE-PERMUTATION"])
def test_without_background_gradients_do_not_determine_the_score_sum(clause: str, hides: bool):
    """An image whose ten anchors are all positives, with one class, has no logit with target 0."""
    batch = ALL_POSITIVE.build()
    subject = Subject(implementation_from(OtherFactor(lambda *_: 1.0, hides), "reference"), "cpu")
    expectation = Expectation(batch, NEWEST)
    assert bool(expectation.assignment[1].foreground.all())
    if hides and clause == "META-SPLIT":  # nothing tells the N of the second image alone
        with pytest.raises(NotApplicable, match="no gradient of background"):
            RELATIONS[clause](subject, batch)
        return
    assert not RELATIONS[clause](subject, batch).verdict.fails


def test_a_loss_without_any_gradient_is_compared_although_its_gradients_do_not_tell_the_score_sum():
    """Gradients of zero on background are wrong; they must not make the relation inapplicable."""

    class ZeroGradients(OtherFactor):
        def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Loss:
            computed = super().loss(feature_maps, annotations, head, hyperparameters)
            return replace(computed, total=computed.total * 0 + computed.total.detach())

    subject = Subject(implementation_from(ZeroGradients(lambda *_: 1.0, True), "reference"), "cpu")
    with pytest.raises(Failure, match="META-PADDING"):
        RELATIONS["META-PADDING"](subject, FEW.build())


def test_outcomes_that_cannot_be_compared_are_judged_against_the_dialect():
    batch = ALL_POSITIVE.build()
    right = execute(implementation_from(OtherFactor(lambda *_: 1.0, True), "right"), batch)
    wrong = replace(right, loss=replace(right.loss, total=right.loss.total * 2))
    judgements = [
        judged_against(right, given, batch, NEWEST, "DEVICE-2", "again") for given in (right, wrong)
    ]
    assert [each.verdict.fails for each in judgements] == [False, True]
