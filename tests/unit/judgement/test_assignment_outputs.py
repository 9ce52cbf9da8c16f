"""Where outputs alone are shown, the stage that explains them is told on the smallest batch too."""

import pytest

from tal_conformance.batches.predictions import Copy
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.truths import Truth
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import Hyperparameters

LONE = {
    "one positive": Recipe(images=((Truth("ordinary"),),), predictions="near"),
    "one positive of a small t": Recipe(images=((Truth("edge_on_centre"),),)),
    "positives of one t": Recipe(images=((Truth("ordinary"),),)),
}
"""Beside the best weight there is no other that could tell more."""


@pytest.mark.parametrize("which", LONE)
def test_a_best_weight_up_to_the_overlap_indicates_a_wrong_t(which: str):
    """Any t, too large or too small, leads to a best weight of at most the overlap."""
    assert stage_of("alpha_and_beta_swapped", LONE[which]) == "metric"


def test_a_best_weight_above_the_overlap_indicates_a_wrong_u():
    assert stage_of("iou_for_ciou", LONE["one positive"]) == "overlap"


def stage_of(fault: str, recipe: Recipe) -> str:
    faulty = implementation_from(FaultyReference(FAULTS[fault], exposes_stages=False), fault)
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(faulty, "cpu"), recipe.build(), alone=True)
    return caught.value.stage


def test_an_unwidened_border_is_the_ground_truths_own():
    """TAL-CAND-1: the box is widened in height alone, and the anchors lie on its left and right side."""
    recipe = Recipe(images=((Truth("ordinary"),),), cells=(1, 12), hyperparameters=Hyperparameters(topk=5))
    faulty = implementation_from(FaultyReference(FAULTS["inclusive_border"], exposes_stages=False), "faulty")
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(faulty, "cpu"), recipe.build(), alone=True)
    assert (caught.value.stage, caught.value.clause) == ("candidates", "TAL-CAND-1")


def test_a_contested_anchor_that_goes_to_a_third_ground_truth_is_a_wrong_conflict():
    """The new owner did not select the anchor, but two other ground truths did: the selection is right."""
    recipe = Recipe(
        images=(
            (
                Truth("ordinary", label=4, at=(0, 6), size=(7, 10)), Truth("ordinary", at=(0, 14)),
                Truth("ordinary", at=(1, 13), size=(3, 0)), Truth("ordinary", label=4, at=(5, 11), size=(13, 15)),
            ),
        ),
        cells=(11, 13), strides=(8, 16, 32), classes=5, predictions="near", levels=2,
        copies=(Copy(image=0, truth=1, source=9, target=10),), streams=(241,),
    )  # fmt: skip
    assert stage_of("contested_by_metric", recipe) == "conflict"
